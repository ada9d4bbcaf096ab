// A table that sorts by any column; rows are built when first seen and kept.

import { append, fill, h } from "./dom.js";

/** Rows that are added at a time: laying out a thousand at once takes seconds. */
const CHUNK = 100;
const NEAR = 600;
const collator = new Intl.Collator("en", { numeric: true });

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return collator.compare(String(a), String(b));
}

const isNone = (value) => value === null || value === undefined || value === ""
  || Number.isNaN(value);

export class Table {
  #nodes = new Map();
  #rows = [];
  #sorted = [];
  #shown = CHUNK;

  /**
   * `columns`: `{name, label, num, hint, value(row), cell(row)}`; without `value` it does not sort,
   * without `cell` the value is shown. `key(row)` tells rows apart, `sort` is `[name, 1 | -1]`.
   */
  constructor({ caption, columns, key, sort, rowClass, onSort, hover }) {
    Object.assign(this, { columns, key, rowClass, onSort, hover });
    this.sort = sort || [null, 1];
    this.heads = new Map();
    this.body = h("tbody");
    this.empty = h("p", { class: "note", hidden: true });
    this.table = h("table", { class: "grid" },
      h("caption", { class: "sr" }, caption),
      h("thead", null, h("tr", null, columns.map((column) => this.#head(column)))), this.body);
    this.scroll = h("div", {
      class: "scroll", tabindex: 0, role: "group", "aria-label": caption,
      onscroll: () => this.#scrolled(),
    }, this.table);
    this.more = h("button", {
      type: "button", class: "small more", hidden: true, onclick: () => this.#show(CHUNK),
    });
    this.box = h("div", { class: "table-box" }, this.scroll, this.more, this.empty);
    this.#aria();
  }

  #head(column) {
    const cell = h("th", {
      scope: "col", class: [column.num && "num", column.class].filter(Boolean).join(" "),
    });
    if (!column.value) return append(cell, column.head || column.label);
    this.heads.set(column.name, cell);
    return append(cell, h("button", {
      type: "button", class: "sort", title: column.hint, onclick: () => this.#by(column),
    }, column.label, h("span", { class: "arrow", "aria-hidden": "true" })));
  }

  #by(column) {
    const [name, way] = this.sort;
    this.sort = [column.name, name === column.name ? -way : column.num ? -1 : 1];
    this.#aria();
    this.#top();
    this.order();
    this.onSort?.(this.sort);
  }

  #aria() {
    for (const [name, cell] of this.heads) {
      const [by, way] = this.sort;
      if (name !== by) cell.removeAttribute("aria-sort");
      else cell.setAttribute("aria-sort", way > 0 ? "ascending" : "descending");
    }
  }

  #top() {
    this.#shown = CHUNK;
    this.scroll.scrollTop = 0;
  }

  #scrolled() {
    const { scrollTop, clientHeight, scrollHeight } = this.scroll;
    if (!this.more.hidden && scrollTop + clientHeight > scrollHeight - NEAR) this.#show(CHUNK);
  }

  /** Adds so many rows more. */
  #show(more) {
    this.#shown += more;
    const nodes = this.#sorted.slice(0, this.#shown).map((row) => this.#node(row));
    const { children } = this.body;
    const same = nodes.length >= children.length
      && nodes.slice(0, children.length).every((node, at) => children[at] === node);
    // moving a node takes the focus from what is in it
    if (same) this.body.append(...nodes.slice(children.length));
    else this.body.replaceChildren(...nodes);
    const left = this.#sorted.length - nodes.length;
    this.more.hidden = left <= 0;
    this.more.textContent = `Show more: ${left} left`;
  }

  /** Shows these rows; `none` says what to do where there are none. */
  set(rows, none = "") {
    if (rows.length < this.#rows.length) this.#top();
    this.#rows = rows;
    const keys = new Set(rows.map(this.key));
    for (const key of this.#nodes.keys()) if (!keys.has(key)) this.#nodes.delete(key);
    this.order();
    fill(this.empty, none);
    this.empty.hidden = rows.length > 0;
    this.scroll.hidden = rows.length === 0;
  }

  /** Puts the rows in order. */
  order() {
    const column = this.columns.find((one) => one.name === this.sort[0]);
    const way = this.sort[1];
    this.#sorted = column ? this.#rows.map((row) => [column.value(row), row]).sort(([a], [b]) => {
      // what is missing stands last, whichever way
      if (isNone(a) || isNone(b)) return isNone(a) - isNone(b);
      return way * compare(a, b);
    }).map(([, row]) => row) : this.#rows;
    this.#show(0);
  }

  #node(row) {
    const key = this.key(row);
    const known = this.#nodes.get(key);
    if (known?.row === row) return known.node;
    const node = h("tr", { class: this.rowClass?.(row) || null }, this.columns.map((column) => {
      const kind = [column.num && "num", column.class].filter(Boolean).join(" ");
      const value = column.cell ? column.cell(row) : column.value(row);
      return h(column.rowHead ? "th" : "td",
        { class: kind || null, scope: column.rowHead ? "row" : null }, value);
    }));
    if (this.hover) {
      node.addEventListener("mouseenter", () => this.hover(row));
      node.addEventListener("mouseleave", () => this.hover(null));
    }
    this.#nodes.set(key, { row, node });
    return node;
  }
}
