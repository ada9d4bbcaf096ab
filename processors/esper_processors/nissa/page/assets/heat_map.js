// Health of layers: layers down, steps across, a colour scale told apart by lightness.

import { drawAxis, dragZoom, fitted, sharp } from "./canvas.js";
import { fill, h, hideTip, showTip } from "./dom.js";
import { number } from "./format.js";
import { color, onTheme, ramp } from "./palette.js";
import { indexAt } from "./points.js";

const ROW = 16;
const AXIS = 24;
const MEASURES = {
  health: { label: "health", low: "0 ill", high: "1 healthy" },
  dead: { label: "dead units", low: "all dead", high: "none dead" },
  gradient: { label: "gradient norm", low: "smallest", high: "largest" },
};

export class HeatMap {
  #data = { layers: [], steps: [], health: [], dead: [], gradient: [] };
  #ends = [];

  constructor(range) {
    this.range = range;
    this.canvas = h("canvas", { role: "img" });
    this.band = h("div", { class: "drag-band", hidden: true });
    this.measure = h("select", {
      "aria-label": "Measure of the layers", onchange: () => this.#changed(),
    }, Object.entries(MEASURES).map(([name, one]) => h("option", { value: name }, one.label)));
    this.tableButton = h("button", {
      type: "button", class: "small", "aria-expanded": "false",
      "aria-label": "Health of layers as a table", onclick: () => this.#toggle(),
    }, "Table");
    this.tools = [this.measure, this.tableButton];
    this.scale = h("div", { class: "heat-scale" });
    this.table = h("div", { class: "scroll card-table", hidden: true, tabindex: 0 });
    this.note = h("p", { class: "note" }, "Loading …");
    this.scroll = h("div", { class: "heat-scroll", hidden: true, tabindex: 0, role: "group",
      "aria-label": "Health of layers" }, this.canvas, this.band);
    this.box = h("div", { class: "heat" }, this.note, this.scroll, this.scale, this.table);
    dragZoom(this.canvas, range, this.band, (x) => this.#step(x));
    this.canvas.addEventListener("mousemove", (event) => this.#hover(event));
    this.canvas.addEventListener("mouseleave", () => {
      hideTip();
      range.point(null);
    });
    const sizes = new ResizeObserver(() => this.draw());
    sizes.observe(this.box);
    this.#ends.push(() => sizes.disconnect(), onTheme(() => this.draw()),
      range.listen((what) => what !== "cursor" && this.draw()));
  }

  /** Shows an answer of `health`. */
  set(data) {
    this.#data = data;
    const has = data.health.some((row) => row.some((one) => one !== null));
    this.note.hidden = has;
    this.scroll.hidden = !has;
    if (!has) fill(this.note, "No measurements yet: they come with the telemetry of the run.");
    this.#changed();
  }

  /** The map came near the screen or left it: only a seen one is drawn. */
  show(visible) {
    this.visible = visible;
    this.draw();
  }

  /** Says why there is nothing. */
  fail(text) {
    fill(this.note, text);
    this.note.hidden = false;
  }

  #changed() {
    const { label, low, high } = MEASURES[this.measure.value];
    const bar = h("span", { class: "heat-bar", "aria-hidden": "true" },
      Array.from({ length: 24 }, (_, at) => h("i", { style: { background: ramp(at / 23) } })));
    fill(this.scale, h("span", null, low), bar, h("span", null, high));
    this.canvas.setAttribute("aria-label",
      `${label} of ${this.#data.layers.length} layers over the steps; the table has the values`);
    if (!this.table.hidden) this.#fillTable();
    this.draw();
  }

  /** A value as a place on the scale, 0 bad to 1 good. */
  #scaler() {
    const name = this.measure.value;
    if (name === "health") return (value) => value;
    if (name === "dead") return (value) => 1 - value;
    const all = this.#data.gradient.flat().filter((one) => one > 0).map(Math.log10);
    const low = all.reduce((a, b) => Math.min(a, b), Infinity);
    const high = all.reduce((a, b) => Math.max(a, b), -Infinity);
    return (value) => (value > 0 ? (Math.log10(value) - low) / (high - low || 1) : 0);
  }

  get #left() {
    return this.width < 500 ? 88 : this.width < 900 ? 150 : 200;
  }

  #step(x) {
    const [first, last] = this.range.view();
    return first + ((x - this.#left) / (this.width - 12 - this.#left)) * (last - first);
  }

  /** Draws once, before the next frame. */
  draw() {
    if (!this.visible) return;
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.#drawNow();
    });
  }

  #drawNow() {
    const { layers, steps } = this.#data;
    this.width = this.scroll.clientWidth;
    if (!this.width || !layers.length) return;
    const high = layers.length * ROW;
    const ctx = sharp(this.canvas, this.width, high + AXIS);
    const right = this.width - 12;
    const [first, last] = this.range.view();
    const x = (step) => this.#left + ((step - first) / (last - first || 1)) * (right - this.#left);
    const place = this.#scaler();
    const rows = this.#data[this.measure.value];
    layers.forEach((layer, row) => {
      ctx.font = "12px system-ui, sans-serif";
      ctx.textBaseline = "middle";
      ctx.textAlign = "left";
      ctx.fillStyle = color("--fg");
      ctx.fillText(fitted(ctx, layer, this.#left - 12), 4, row * ROW + ROW / 2);
      steps.forEach((step, at) => {
        const value = rows[row]?.[at];
        const from = Math.max(x(step), this.#left);
        const to = Math.min(x(steps[at + 1] ?? this.range.full[1]), right);
        if (value === null || value === undefined || to <= from) return;
        ctx.fillStyle = ramp(place(value));
        // whole pixels, so that no ground shines through between columns
        ctx.fillRect(Math.floor(from), row * ROW + 1, Math.ceil(to) - Math.floor(from), ROW - 2);
      });
    });
    drawAxis(ctx, this.range, { left: this.#left, right, top: high });
  }

  #hover(event) {
    const frame = this.canvas.getBoundingClientRect();
    const row = Math.floor((event.clientY - frame.top) / ROW);
    const step = this.#step(event.clientX - frame.left);
    const { layers, steps } = this.#data;
    const at = indexAt(steps, step);
    if (row < 0 || row >= layers.length || at < 0 || event.clientX - frame.left < this.#left) {
      hideTip();
      return;
    }
    this.range.point(Math.round(step));
    showTip(event.clientX, event.clientY, [
      layers[row], `from step ${number(steps[at])}`,
      ...Object.entries(MEASURES).map(([name, one]) =>
        `${one.label} ${number(this.#data[name]?.[row]?.[at], 3)}`),
    ]);
  }

  #toggle() {
    this.table.hidden = !this.table.hidden;
    this.tableButton.setAttribute("aria-expanded", String(!this.table.hidden));
    if (!this.table.hidden) this.#fillTable();
  }

  #fillTable() {
    const { layers } = this.#data;
    const rows = this.#data[this.measure.value];
    const last = (row) => rows[row]?.findLast((one) => one !== null) ?? null;
    const least = (row) => rows[row]?.reduce((a, b) => (b === null ? a : Math.min(a, b)), Infinity);
    fill(this.table, h("table", { class: "grid" },
      h("caption", null, MEASURES[this.measure.value].label),
      h("thead", null, h("tr", null, ["layer", "last", "least"].map((name, at) =>
        h("th", { scope: "col", class: at ? "num" : "" }, name)))),
      h("tbody", null, layers.map((layer, row) => h("tr", null, h("th", { scope: "row" }, layer),
        h("td", { class: "num" }, number(last(row), 3)),
        h("td", { class: "num" }, number(least(row), 3)))))));
  }

  destroy() {
    cancelAnimationFrame(this.frame);
    this.#ends.forEach((end) => end());
    hideTip();
  }
}
