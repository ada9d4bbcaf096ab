// A card with the curves of a run: fetches when seen, merges what comes live, zooms, has a table.

import { get } from "./api.js";
import { debounce, fill, h, svg } from "./dom.js";
import { number } from "./format.js";
import { color, faded, lineStyle } from "./palette.js";
import { Plot } from "./plot.js";
import { joined, lineValue, mergePoints, smoothed, valueAt } from "./points.js";

const POINTS = 1000;
const ROWS = 200;
/** An answer may be this much older than what the stream brought meanwhile. */
const OVERLAP_MS = 10_000;

/** A short piece of a line as it is drawn. */
export function swatch(style) {
  const line = svg("line", { x1: 0, y1: 5, x2: 18, y2: 5, "stroke-width": 2.5 });
  line.style.stroke = `var(${style.name})`;
  line.style.strokeDasharray = style.dash.join(" ");
  return svg("svg", { width: 18, height: 10, class: "swatch", "aria-hidden": "true" }, line);
}

export class CurveCard {
  #full = new Map();
  #detail = null;
  #asked = 0;
  #loaded = false;
  #stale = true;
  #dirty = false;
  #shown = [];
  #recent = [];
  #drawnTo = 0;
  #ends = [];

  /** `host`: runId, range, marks(), onPin(step), onMarks(marks), smoothing(). */
  constructor(title, names, host) {
    this.title = title;
    this.names = names;
    this.host = host;
    this.visible = false;
    this.plot = new Plot({
      label: `${title}: arrow keys move along the curve, Enter pins a step, m and n go to marks`,
      range: host.range, marks: host.marks, onPin: host.onPin, onMarks: host.onMarks,
      onValues: (at) => this.#legend(at),
      text: (at) => this.#text(at),
    });
    this.legend = h("div", { class: "legend" });
    this.step = h("span", { class: "legend-step" });
    this.note = h("div", { class: "card-note" }, "Loading …");
    this.table = h("div", { class: "scroll card-table", hidden: true });
    this.tableButton = h("button", {
      type: "button", class: "small", "aria-expanded": "false",
      "aria-label": `${title} as a table`, onclick: () => this.#toggleTable(),
    }, "Table");
    this.logButton = h("button", {
      type: "button", class: "small", "aria-pressed": "false",
      "aria-label": `Log scale of ${title}`, onclick: () => this.#toggleLog(),
    }, "Log");
    this.box = h("article", { class: "card", "aria-label": title },
      h("div", { class: "card-head" }, h("h3", null, title), this.step,
        h("div", { class: "card-tools" }, this.logButton, this.tableButton)),
      this.legend, this.plot.box, this.note, this.table);
    this.zoomed = debounce(() => this.#loadDetail(), 200);
    this.refill = debounce(() => this.load(), 1500);
    this.#ends.push(host.range.listen((what) => what === "zoom" && this.#onZoom()));
  }

  /** The card came near the screen or left it. */
  show(visible) {
    this.visible = visible;
    if (!visible) return;
    if (this.#stale) this.load();
    else this.refresh();
    if (this.host.range.zoom && !this.#detail) this.zoomed();
  }

  /** What is shown may be old: fetch again, at once when seen. */
  renew() {
    this.#stale = true;
    if (this.visible) this.load();
  }

  async load() {
    const asked = ++this.#asked;
    this.#stale = false;
    try {
      const { curves } = await get("/page/curves", {
        run: this.host.runId, name: this.names, points: POINTS,
      });
      if (asked !== this.#asked) return;
      this.#full = new Map(curves.map((curve) => [curve.name, curve]));
      this.#loaded = true;
      this.#recent.forEach((one) => this.#put(one.name, one.steps, one.values, one.per));
      for (const curve of curves) this.host.range.reach(curve.steps.at(-1));
      if (this.host.range.zoom) this.#loadDetail();
      this.draw();
    } catch (error) {
      if (asked !== this.#asked) return;
      this.#stale = true;
      this.host.failed?.(error);
      this.#say(error.message, true);
    }
  }

  #onZoom() {
    this.#detail = null;
    if (this.visible) this.zoomed();
  }

  async #loadDetail() {
    const zoom = this.host.range.zoom;
    if (!zoom || !this.#loaded) return this.draw();
    const [first, last] = [Math.floor(zoom[0]), Math.ceil(zoom[1])];
    try {
      const { curves } = await get("/page/curves", {
        run: this.host.runId, name: this.names, points: POINTS, first, last,
      });
      if (zoom !== this.host.range.zoom) return undefined;
      this.#detail = new Map(curves.map((curve) => [curve.name, curve]));
      this.draw();
    } catch (error) {
      // what is drawn stays: it is only coarser
      this.host.failed?.(error);
    }
    return undefined;
  }

  /** Takes points of the stream; those of the last seconds are put into later answers too. */
  merge(name, steps, values, per = "step") {
    if (!this.names.includes(name)) return;
    const at = performance.now();
    this.#recent = this.#recent.filter((one) => one.at > at - OVERLAP_MS);
    this.#recent.push({ name, steps, values, per, at });
    if (this.#loaded) this.#put(name, steps, values, per);
  }

  /** The run went back: points of the stream are of a timeline that it left. */
  forget() {
    this.#recent = [];
  }

  #put(name, steps, values, per) {
    let curve = this.#full.get(name);
    if (!curve) {
      const unit = name.endsWith("accuracy") ? "fraction" : name === "step time" ? "ms" : "";
      curve = { name, unit, per, steps: [], values: [], total: 0 };
      this.#full.set(name, curve);
    }
    mergePoints(curve, steps, values);
    const detail = this.#detail?.get(name);
    if (detail) mergePoints(detail, steps, values);
    if (curve.steps.length > 3 * POINTS && this.visible) this.refill();
    this.#dirty = true;
  }

  /** Draws if there is something new and it is seen. */
  refresh() {
    const longer = this.#drawnTo !== this.host.range.full[1];
    if (this.visible && this.#loaded && (this.#dirty || longer)) this.draw();
  }

  /** The values at a step, of the finest points at hand: `[name, {step, value}, unit]`. */
  at(step) {
    return this.names.flatMap((name) => {
      const curve = this.#detail?.get(name) || this.#full.get(name);
      const found = curve && valueAt(curve, step);
      return found ? [[name, found, curve.unit]] : [];
    });
  }

  draw() {
    this.#dirty = false;
    this.#drawnTo = this.host.range.full[1];
    this.#shown = this.names.map((name) => ({
      name, style: lineStyle(this.names.indexOf(name)),
      curve: this.#detail?.get(name) || this.#full.get(name),
    })).filter((one) => one.curve?.steps.length);
    if (!this.#shown.length) {
      if (this.#loaded) this.#say("No points yet: they come with the first steps.");
      return;
    }
    this.note.hidden = true;
    const keep = this.host.smoothing();
    const series = [];
    const curves = [];
    for (const { name, style, curve } of this.#shown) {
      const byEpoch = curve.per === "epoch";
      const smooth = keep > 0 && !byEpoch;
      const line = { label: name, width: 1.6, dash: style.dash };
      if (smooth) {
        curves.push(curve);
        series.push({ ...line, label: `${name} raw`, width: 1, points: { show: false },
          stroke: () => faded(style.name, 0.3) });
      }
      curves.push(smooth ? { ...curve, values: smoothed(curve.values, keep) } : curve);
      series.push({
        ...line, stroke: style.name, key: byEpoch,
        points: {
          show: byEpoch && curve.steps.length < 80, size: 5, fill: () => color(style.name),
        },
      });
    }
    this.series = series;
    this.plot.set(joined(curves), series);
    if (!this.table.hidden) this.#fillTable();
  }

  #say(text, isError) {
    fill(this.note, text, isError && h("button", {
      type: "button", class: "small", onclick: () => this.load(),
    }, "Try again"));
    this.note.hidden = false;
  }

  #columns(at) {
    return this.#shown.map(({ name, style, curve }) => {
      const index = this.series.findIndex((one) => one.label === name) + 1;
      const value = index ? lineValue(this.plot.data[index], at) : null;
      return { name, style, value, unit: curve.unit };
    });
  }

  #legend(at) {
    const unit = (one) => (one.unit ? ` ${one.unit}` : "");
    fill(this.legend, this.#columns(at).map((one) => h("span", { class: "legend-item" },
      swatch(one.style), h("span", null, one.name), h("b", null, number(one.value) + unit(one)))));
    this.step.textContent = at < 0 ? "" : `step ${number(this.plot.data[0][at])}`;
  }

  #text(at) {
    const values = this.#columns(at).map((one) => `${one.name} ${number(one.value)}`);
    return `Step ${this.plot.data[0][at]}: ${values.join(", ")}`;
  }

  #toggleLog() {
    this.plot.log = !this.plot.log;
    this.logButton.setAttribute("aria-pressed", String(this.plot.log));
    this.plot.rebuild();
  }

  #toggleTable() {
    this.table.hidden = !this.table.hidden;
    this.tableButton.setAttribute("aria-expanded", String(!this.table.hidden));
    if (!this.table.hidden) this.#fillTable();
  }

  #fillTable() {
    const [first, last] = this.host.range.view();
    const data = this.plot.data;
    const rows = [...data[0].keys()]
      .filter((at) => data[0][at] >= first && data[0][at] <= last);
    const every = Math.max(1, Math.ceil(rows.length / ROWS));
    const kept = rows.filter((_, at) => at % every === 0 || at === rows.length - 1);
    const lines = this.#shown.map(({ name }) =>
      [name, data[this.series.findIndex((one) => one.label === name) + 1]]);
    fill(this.table, h("table", { class: "grid" },
      h("caption", null, `${this.title}, steps ${number(first)} to ${number(last)}`
        + `${every > 1 ? `, one row of ${every}: zoom in for more` : ""}`),
      h("thead", null, h("tr", null, h("th", { scope: "col" }, "step"),
        lines.map(([name]) => h("th", { scope: "col", class: "num" }, name)))),
      h("tbody", null, kept.map((at) => h("tr", null,
        h("th", { scope: "row", class: "num" }, number(data[0][at])),
        lines.map(([, column]) => h("td", { class: "num" }, number(column[at]))))))));
    this.table.tabIndex = 0;
  }

  destroy() {
    this.zoomed.cancel();
    this.refill.cancel();
    this.#asked++;
    this.#ends.forEach((end) => end());
    this.plot.destroy();
  }
}
