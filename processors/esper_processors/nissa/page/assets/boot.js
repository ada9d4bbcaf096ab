// Runs before the first paint, so that a chosen theme does not flash the other one.
const theme = localStorage.getItem("esper.theme");
if (theme) document.documentElement.style.colorScheme = theme;
