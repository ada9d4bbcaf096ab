// The view that compares runs: one chart with a line a run or a group, and what differs.

import { get } from "./api.js";
import { commonSteps, groupsOf, labelled, meanCurve } from "./compare_stats.js";
import { figuresTable, lineTable, settingsTable } from "./compare_tables.js";
import { command, debounce, fill, h, section, soon, throttle, watchVisible } from "./dom.js";
import { number, word } from "./format.js";
import { faded, lineStyle } from "./palette.js";
import { Plot } from "./plot.js";
import { joined, lineValue } from "./points.js";
import { Range } from "./range.js";
import { openStream } from "./stream.js";

const POINTS = 600;
const FIRST = ["held-out loss", "score", "training loss"];

class CompareView {
  constructor(ids, app) {
    this.ids = [...new Set(ids)];
    this.app = app;
    this.loaded = [];
    this.curves = [];
    this.lines = [];
    this.hidden = new Set();
    this.byGroup = false;
    this.range = new Range();
    this.ended = new AbortController();
    this.renew = throttle(() => this.#loadCurves(), 3000);
    this.reload = soon(() => this.load(), 1500);
    this.zoomSoon = debounce(() => this.#loadCurves(), 250);
    this.current = throttle(() => this.#current(), 80);
    this.#build();
    this.load();
    this.stream = openStream("", {
      hello: ({ resumed }) => (this.failed || (this.loaded.length && !resumed)) && this.reload(),
      run: (data) => this.#run(data),
      state: (name, seconds) => app.stream(name, seconds),
      failed: (error) => app.problem(error, () => this.load()),
    });
  }

  #build() {
    this.plot = new Plot({
      label: "Curves of the runs: arrow keys move along the steps", range: this.range, height: 340,
      focus: true, text: (at) => this.#text(at),
      onValues: (at) => {
        this.index = at;
        this.current();
      },
    });
    this.metric = h("select", { "aria-label": "Metric", onchange: () => this.#loadCurves() });
    this.base = h("select", { "aria-label": "Baseline", onchange: () => this.#show() });
    this.group = h("input", {
      type: "checkbox", onchange: (event) => {
        this.byGroup = event.target.checked;
        this.hidden.clear();
        this.#draw();
      },
    });
    this.log = h("button", {
      type: "button", class: "small", "aria-pressed": "false", onclick: () => {
        this.plot.log = !this.plot.log;
        this.log.setAttribute("aria-pressed", String(this.plot.log));
        this.plot.rebuild();
      },
    }, "Log");
    this.all = h("button", {
      type: "button", class: "small", hidden: true, onclick: () => this.range.reset(),
    }, "Show all steps");
    this.note = h("p", { class: "note" }, "Loading …");
    this.missing = h("div");
    this.lineBox = h("div");
    this.figures = h("div");
    this.settings = h("div");
    this.commands = h("div");
    this.body = h("div", { hidden: true },
      section("Curves", "curves", [this.metric, this.#label("baseline", this.base),
        h("label", { class: "check" }, this.group, "mean with interval over seeds"), this.log,
        this.all], h("div", { class: "card" }, this.plot.box), this.lineBox),
      section("Figures", "figures", null, this.figures),
      section("Settings that differ", "differences", null, this.settings), this.commands);
    this.node = h("div", { class: "compare" },
      h("h1", null, `Compare ${this.ids.length} runs`), this.missing, this.note, this.body);
    this.range.listen((what) => {
      if (what !== "zoom") return;
      this.all.hidden = !this.range.zoom;
      this.zoomSoon();
    });
    this.seen = watchVisible((_, visible) => {
      this.visible = visible;
      if (visible && this.stale) this.#loadCurves();
    });
    this.seen.observe(this.plot.box);
  }

  #label(text, control) {
    return h("label", { class: "check" }, text, control);
  }

  async load() {
    try {
      const { runs } = await get("/page/compared", { run: this.ids }, this.ended.signal);
      this.loaded = labelled(runs);
      this.failed = false;
      this.app.solved();
    } catch (error) {
      if (error.name === "AbortError") return;
      this.failed = true;
      this.app.problem(error, () => this.load());
      if (!this.loaded.length) fill(this.note, "Nothing is shown yet: see the message above.");
      return;
    }
    const known = new Set(this.loaded.map((one) => one.run.run_id));
    const lost = this.ids.filter((id) => !known.has(id));
    this.app.title("Compare");
    fill(this.missing, lost.length > 0
      && h("p", { class: "note" }, `Not in the history: ${lost.join(", ")}.`));
    this.note.hidden = this.loaded.length > 0;
    this.body.hidden = !this.loaded.length;
    if (!this.loaded.length) {
      fill(this.note, "None of these runs is in the history. Pick runs in the table of runs.");
      return;
    }
    this.#options();
    this.#show();
    await this.#loadCurves();
  }

  #options() {
    const names = [...new Set(this.loaded.flatMap((one) => one.curves))];
    const metric = this.metric.value || FIRST.find((name) => names.includes(name)) || names[0];
    fill(this.metric, names.map((name) => h("option", { selected: name === metric }, name)));
    const chosen = this.base.value || (this.loaded.find((one) => one.run.baseline)
      || this.loaded[0]).run.run_id;
    fill(this.base, this.loaded.map(({ run, label }) =>
      h("option", { value: run.run_id, selected: run.run_id === chosen }, label)));
    this.range.reach(Math.max(1, ...this.loaded.map((one) => one.run.steps || 0)));
  }

  get #baseline() {
    return this.loaded.find((one) => one.run.run_id === this.base.value) || this.loaded[0];
  }

  #show() {
    fill(this.figures, figuresTable(this.loaded, this.#baseline));
    fill(this.settings, settingsTable(this.loaded));
    const ids = this.loaded.map((one) => word(one.run.run_id)).join(" ");
    fill(this.commands, this.loaded.length > 1
      && command(`esper compare ${ids}`, "The same in the terminal"));
    this.#draw();
  }

  async #loadCurves() {
    if (this.visible === false) {
      this.stale = true;
      return;
    }
    this.stale = false;
    const zoom = this.range.zoom;
    const name = this.metric.value;
    try {
      const { curves } = await get("/page/curves", {
        run: this.loaded.map((one) => one.run.run_id), name, points: POINTS,
        first: zoom && Math.floor(zoom[0]), last: zoom && Math.ceil(zoom[1]),
      }, this.ended.signal);
      if (name !== this.metric.value || zoom !== this.range.zoom) return;
      this.curves = curves.filter((one) => one.steps.length);
      this.curves.forEach((one) => this.range.reach(one.steps.at(-1)));
      this.#draw();
    } catch (error) {
      if (error.name !== "AbortError") this.app.problem(error, () => this.#loadCurves());
    }
  }

  /** Lines `{key, label, style, values, runs}` on the steps of `data`. */
  #makeLines() {
    const byRun = new Map(this.curves.map((one) => [one.run_id, one]));
    if (!this.byGroup) {
      // colours stay with the runs, whichever of them are shown
      const shown = this.loaded.map((one, at) => ({
        key: one.run.run_id, label: one.label, style: lineStyle(at), runs: [one],
        curve: byRun.get(one.run.run_id),
      })).filter((one) => one.curve);
      const data = joined(shown.filter((one) => !this.hidden.has(one.key)).map((one) => one.curve));
      return { data, lines: shown.map((one) => ({ ...one, values: one.curve.values })) };
    }
    const steps = commonSteps(this.curves);
    const lines = groupsOf(this.loaded).map((group, at) => {
      const curves = group.runs.map((one) => byRun.get(one.run.run_id)).filter(Boolean);
      const { mean, low, high } = meanCurve(curves, steps);
      return { ...group, style: lineStyle(at), values: mean, low, high,
        label: `${group.label} (${curves.length} of ${group.runs.length} runs)` };
    });
    const data = [steps];
    for (const line of lines) {
      if (!this.hidden.has(line.key)) data.push(line.values, line.high, line.low);
    }
    return { data, lines };
  }

  #draw() {
    const { data, lines } = this.#makeLines();
    const series = [];
    const bands = [];
    for (const line of lines) {
      line.column = 0;
      if (this.hidden.has(line.key)) continue;
      series.push({
        label: line.label, stroke: line.style.name, dash: line.style.dash,
        width: line.low ? 2 : 1.5, points: { show: data[0].length < 3 },
      });
      line.column = series.length;
      if (!line.low) continue;
      const edge = { width: 0, points: { show: false } };
      series.push({ ...edge, label: `${line.label} high` });
      series.push({ ...edge, label: `${line.label} low` });
      bands.push({ series: [line.column + 1, line.column + 2],
        fill: () => faded(line.style.name, 0.18) });
    }
    this.lines = lines;
    this.plot.set(series.length ? data : [[]], series, bands);
    this.#lineTable();
  }

  #lineTable() {
    const made = lineTable(this.lines, {
      metric: this.metric.value, byGroup: this.byGroup, baseline: this.#baseline,
      hidden: this.hidden, sort: this.table?.sort, toggle: (row, event) => this.#toggle(row, event),
      hover: (row) => !this.byGroup && this.plot.focus(row?.column || null),
    });
    Object.assign(this, made);
    fill(this.lineBox, this.table.box);
    this.#current();
  }

  #toggle(row, event) {
    if (event.target.checked) this.hidden.delete(row.key);
    else this.hidden.add(row.key);
    this.#draw();
    [...this.lineBox.querySelectorAll("input")].find((box) =>
      box.getAttribute("aria-label") === `Show ${row.label}`)?.focus();
  }

  #current() {
    for (const row of this.rows || []) {
      const column = row.column && this.plot.data[row.column];
      row.value = column && this.index >= 0 ? lineValue(column, this.index) : null;
      const step = this.plot.data[0][this.index];
      const high = row.low && column
        ? lineValue(this.plot.data[row.column + 1], this.index) : null;
      row.node.textContent = number(row.value)
        + (high === null ? "" : ` ± ${number(high - row.value, 2)}`);
      row.node.title = step === undefined ? "" : `at step ${number(step)}`;
    }
  }

  #text(at) {
    const said = this.lines.slice(0, 8).filter((line) => line.column).map((line) =>
      `${line.label} ${number(lineValue(this.plot.data[line.column], at))}`);
    return `Step ${this.plot.data[0][at]}: ${said.join(", ")}`;
  }

  #run(data) {
    const known = this.loaded.find((one) => one.run.run_id === data.run_id);
    if (!known) return;
    if (data.state !== known.run.state) this.reload();
    this.renew();
  }

  destroy() {
    this.ended.abort();
    this.stream.close();
    this.seen.disconnect();
    [this.renew, this.reload, this.zoomSoon, this.current].forEach((timer) => timer.cancel());
    this.plot.destroy();
  }
}

/** The view that compares the runs `ids`. */
export function compareView(ids, app) {
  return new CompareView(ids, app);
}
