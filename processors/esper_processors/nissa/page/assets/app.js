// The page: which view the address names, the session, and what is said above every view.

import { ApiError, enter, leave } from "./api.js";
import { command, fill, h, hideTip, prose, say } from "./dom.js";
import { compareView } from "./compare.js";
import { themeButton } from "./palette.js";
import { runView } from "./run.js";
import { runsView } from "./runs.js";

const main = document.getElementById("main");
const crumbs = document.getElementById("crumbs");
const notice = h("div", { class: "notices" });
const live = h("span", { class: "live", hidden: true });
const content = h("div", { class: "content" });
let view = null;
let titled = "";
/** Counts what was shown: a view that is gone has no say in the page any more. */
let turn = 0;
let entering = Promise.resolve();

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** Says above the view what is wrong and what to do. */
function show(kind, title, ...more) {
  const heading = h(content.querySelector("h1") ? "h2" : "h1", null, title);
  fill(notice, h("section", { class: `notice ${kind}`, role: "alert" }, heading, more));
}

function sessionEnded(title, detail) {
  show("ended", title || "Your session has ended.",
    h("p", null, prose(detail || "Run `esper open` in a terminal.")), command("esper open"));
}

/** What views may ask of the page. */
const app = {
  title(name, links = []) {
    const said = JSON.stringify([name, links.map((link) => link.href)]);
    // the same again would take the focus from the links
    if (said === titled) return;
    titled = said;
    document.title = name ? `${name} · Esper` : "Esper";
    fill(crumbs, h("a", { href: "#/" }, "Runs"),
      name && [h("span", { "aria-hidden": "true" }, "/"), h("span", { class: "crumb" }, name)],
      links.map((link) => [h("span", { "aria-hidden": "true" }, "·"), link]));
  },
  /** Shows an error; `retry` is called by its button. */
  problem(error, retry) {
    if (!(error instanceof ApiError)) throw error;
    if (error.status === 401) {
      sessionEnded();
      return;
    }
    show("problem", error.status === 404 ? "Not found." : error.title,
      error.message !== error.title && h("p", null, prose(error.message)),
      error.trace && h("p", { class: "quiet" }, "Trace ", h("code", null, error.trace)),
      retry && h("button", { type: "button", onclick: retry }, "Try again"));
  },
  /** An answer came: what was wrong is over. */
  solved() {
    fill(notice);
  },
  stream(name, seconds) {
    live.hidden = false;
    live.className = `live live-${name}`;
    live.textContent = name === "live" ? "live" : `connecting again in ${seconds} s`;
    if (name !== "live") say("The connection was lost.");
  },
};

/** What a view is given of `app`: nothing comes of it once the view is gone. */
function asShown() {
  const mine = turn;
  return Object.fromEntries(Object.entries(app).map(([name, act]) =>
    [name, (...given) => mine === turn && act(...given)]));
}

/** Takes away what is shown. */
function close() {
  turn += 1;
  hideTip();
  view?.destroy();
  view = null;
  live.hidden = true;
  fill(content);
  fill(notice);
}

async function signIn(code, route) {
  // the code leaves the address and the browser's history before anything else happens
  history.replaceState(null, "", `#/${decoded(route)}`);
  try {
    await enter(code);
  } catch (error) {
    if (error.status === 401) sessionEnded("This page could not be opened.", error.message);
    else app.problem(error, () => signIn(code, route));
    return;
  }
  app.solved();
  open();
}

/** Shows what the address names. */
function open() {
  const [name = "", first = "", ...rest] = location.hash.replace(/^#\/?/, "").split("/");
  close();
  if (name === "enter") {
    entering = signIn(decoded(first), rest.join("/"));
    return;
  }
  app.title("");
  const page = asShown();
  if (name === "run" && first) view = runView(decoded(first), page);
  else if (name === "compare" && first) {
    view = compareView(first.split(",").filter(Boolean).map(decoded).slice(0, 100), page);
  } else view = runsView(page);
  content.append(view.node);
  scrollTo(0, 0);
}

const end = h("button", {
  type: "button", class: "small", onclick: async () => {
    // a session that is being opened would open behind the one that is ended
    await entering;
    try {
      await leave();
    } catch {
      // the key is gone from this browser, which is what was asked for
    }
    close();
    sessionEnded();
  },
}, "End session");

document.getElementById("tools").append(live, themeButton(), end);
document.getElementById("skip").addEventListener("click", (event) => {
  // the address names the view: a jump to #main would leave it
  event.preventDefault();
  main.focus();
});
main.append(notice, content);
addEventListener("hashchange", open);
// another tab was opened by `esper open`: this one goes on too
addEventListener("storage", (event) => {
  if (event.key === "esper.key" && event.newValue) open();
});
open();
