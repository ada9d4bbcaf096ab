// The panel at the side: one thing at a time, closed by its button or Escape.

import { fill, h, say } from "./dom.js";

export class Panel {
  #back = null;

  constructor(onChange) {
    this.onChange = onChange;
    this.title = h("h2", { tabindex: -1, id: "panel-title" });
    this.body = h("div", { class: "panel-body" });
    this.box = h("aside", {
      class: "panel", "aria-labelledby": "panel-title", hidden: true,
      onkeydown: (event) => event.key === "Escape" && this.close(),
    }, h("div", { class: "panel-head" }, this.title,
      h("button", {
        type: "button", class: "small", "aria-label": "Close the details",
        onclick: () => this.close(),
      }, "Close")), this.body);
  }

  /** Shows nodes under a title; with `focus` the keyboard goes there too. */
  show(title, nodes, focus = false) {
    if (!this.box.contains(document.activeElement)) this.#back = document.activeElement;
    this.title.textContent = title;
    fill(this.body, nodes);
    const opened = this.box.hidden;
    this.box.hidden = false;
    this.box.scrollTop = 0;
    if (opened) this.onChange?.(true);
    if (focus) this.title.focus();
    else say(title);
  }

  /** Whether this is what is shown. */
  shows(title) {
    return !this.box.hidden && this.title.textContent === title;
  }

  /** Puts other nodes under the same title; the reader's place stays. */
  renew(nodes) {
    if (!this.body.contains(document.activeElement)) fill(this.body, nodes);
  }

  close() {
    if (this.box.hidden) return;
    const inside = this.box.contains(document.activeElement);
    this.box.hidden = true;
    this.onChange?.(false);
    if (inside && this.#back?.isConnected) this.#back.focus();
  }
}
