// Nodes, built without markup: every string ends as text, whoever it comes from.

const SVG = "http://www.w3.org/2000/svg";

/** Sets what `h` and `svg` are given: handlers, classes, styles, flags, attributes. */
function assign(node, attrs) {
  for (const [name, value] of Object.entries(attrs || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    // the policy forbids style attributes, not styles set by script
    else if (name === "style") Object.assign(node.style, value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
}

/** Adds children; strings and numbers become text, empty ones are left out. */
export function append(node, ...children) {
  for (const child of children.flat(Infinity)) {
    if (child === undefined || child === null || child === false) continue;
    node.append(child instanceof Node ? child : String(child));
  }
  return node;
}

/** An element with attributes and children. */
export function h(tag, attrs, ...children) {
  const node = document.createElement(tag);
  assign(node, attrs);
  return append(node, ...children);
}

/** As `h`, for SVG. */
export function svg(tag, attrs, ...children) {
  const node = document.createElementNS(SVG, tag);
  assign(node, attrs);
  return append(node, ...children);
}

/** A sentence in which `commands` stand between backticks, as nodes. */
export function prose(text) {
  return String(text).split("`").map((part, at) => (at % 2 ? h("code", null, part) : part));
}

/** Puts children in the place of all that a node has. */
export function fill(node, ...children) {
  node.replaceChildren();
  return append(node, ...children);
}

/** Says something to screen readers. */
export function say(text) {
  document.getElementById("status").textContent = text;
}

/** Calls `work` at most once every `ms`, and once more after the last call. */
export function throttle(work, ms) {
  let timer = 0;
  let last = 0;
  const go = () => {
    timer = 0;
    last = performance.now();
    work();
  };
  const call = () => {
    if (!timer) timer = setTimeout(go, Math.max(0, last + ms - performance.now()));
  };
  call.cancel = () => {
    clearTimeout(timer);
    timer = 0;
  };
  return call;
}

/** Calls `work` `ms` after a call, and again after the last of those that came meanwhile. */
export function soon(work, ms) {
  let timer = 0;
  let more = false;
  const go = () => {
    timer = 0;
    work();
    if (more) call();
    more = false;
  };
  const call = () => {
    if (timer) more = true;
    else timer = setTimeout(go, ms);
  };
  call.cancel = () => {
    clearTimeout(timer);
    timer = 0;
    more = false;
  };
  return call;
}

/** Calls `work` once nothing has called for `ms`. */
export function debounce(work, ms) {
  let timer = 0;
  const call = () => {
    clearTimeout(timer);
    timer = setTimeout(work, ms);
  };
  call.cancel = () => clearTimeout(timer);
  return call;
}

/** Tells `seen(node, visible)` when a node comes near the screen or leaves it. */
export function watchVisible(seen) {
  return new IntersectionObserver(
    (entries) => entries.forEach((entry) => seen(entry.target, entry.isIntersecting)),
    { rootMargin: "150px" },
  );
}

/** A command line with a button that copies it. */
export function command(text, label) {
  const button = h("button", { type: "button", class: "small" }, "Copy");
  button.setAttribute("aria-label", `Copy ${text}`);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
      say("Copied.");
    } catch {
      button.textContent = "Select it";
      getSelection().selectAllChildren(button.parentNode.querySelector("code"));
    }
    setTimeout(() => {
      button.textContent = "Copy";
    }, 1500);
  });
  // words as boxes: a line ends between them, not after a hyphen
  const words = text.split(" ").flatMap((one, at) => [at > 0 && " ", h("span", null, one)]);
  return h("div", { class: "command" },
    label && h("span", { class: "command-label" }, label),
    h("div", { class: "command-line" }, h("code", null, words), button));
}

/** A section with a heading and, at its end, tools. */
export function section(title, id, tools, ...children) {
  return h("section", { class: "block", "aria-labelledby": `${id}-title`, id },
    h("div", { class: "block-head" }, h("h2", { id: `${id}-title` }, title),
      h("div", { class: "block-tools" }, tools)),
    ...children);
}

const tip = h("div", { class: "tip", "aria-hidden": "true", hidden: true });

/** Shows lines beside the pointer; the first is the heading. */
export function showTip(x, y, lines) {
  if (!tip.isConnected) document.body.append(tip);
  fill(tip, lines.filter(Boolean).map((line, at) =>
    h("div", { class: at ? "" : "tip-head" }, line)));
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = x + 14 + width > innerWidth ? Math.max(4, x - width - 14) : x + 14;
  const top = y + 14 + height > innerHeight ? Math.max(4, y - height - 14) : y + 14;
  Object.assign(tip.style, { left: `${left}px`, top: `${top}px` });
}

/** Takes the tip away. */
export function hideTip() {
  tip.hidden = true;
}
