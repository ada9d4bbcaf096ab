// Colours for canvases, read from the style sheet; theme and its toggle.

import { h } from "./dom.js";

const THEME = "esper.theme";
const dark = matchMedia("(prefers-color-scheme: dark)");
const probe = h("span", { hidden: true });
const known = new Map();
const listeners = new Set();

/** What a colour variable is in the present theme, as canvases take it. */
export function color(name) {
  if (!known.has(name)) {
    // a variable's own value is the unresolved light-dark(); a property that uses it is resolved
    if (!probe.isConnected) document.body.append(probe);
    probe.style.color = `var(${name})`;
    known.set(name, getComputedStyle(probe).color);
  }
  return known.get(name);
}

/** The same colour, see-through. */
export function faded(name, alpha) {
  const parts = color(name).match(/[\d.]+/g);
  return parts ? `rgba(${parts.slice(0, 3).join(", ")}, ${alpha})` : color(name);
}

/** Calls `redraw` when the theme changes; gives what ends that. */
export function onTheme(redraw) {
  listeners.add(redraw);
  return () => listeners.delete(redraw);
}

function changed() {
  known.clear();
  listeners.forEach((redraw) => redraw());
}

const isDark = () => (localStorage.getItem(THEME) || (dark.matches ? "dark" : "light")) === "dark";

/** The button that changes the theme. */
export function themeButton() {
  const button = h("button", { type: "button", class: "small" });
  const label = () => {
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", `Use the ${isDark() ? "light" : "dark"} theme`);
  };
  button.addEventListener("click", () => {
    const next = isDark() ? "light" : "dark";
    localStorage.setItem(THEME, next);
    document.documentElement.style.colorScheme = next;
    label();
    changed();
  });
  dark.addEventListener("change", () => {
    label();
    changed();
  });
  label();
  return button;
}

const SERIES = 8;
const DASHES = [[], [6, 3], [2, 2], [8, 3, 2, 3]];

/** Colour variable and dashes of the n-th line: dashes differ once the colours are used up. */
export function lineStyle(at) {
  return {
    name: `--series-${at % SERIES}`,
    dash: DASHES[Math.floor(at / SERIES) % DASHES.length],
  };
}

/** Colours of a scale from bad (0) to good (1), told apart by lightness alone. */
const RAMP = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];

/** A colour of the scale for a value in 0..1. */
export function ramp(value) {
  const at = Math.min(Math.max(value, 0), 1) * (RAMP.length - 1);
  const low = Math.min(Math.floor(at), RAMP.length - 2);
  const part = at - low;
  const mixed = RAMP[low].map((from, i) => Math.round(from + (RAMP[low + 1][i] - from) * part));
  return `rgb(${mixed.join(",")})`;
}
