// The view of one run: loads it, follows its stream, and puts its parts together.

import { get } from "./api.js";
import { CurveCard } from "./curves.js";
import { fill, h, section, soon, throttle, watchVisible } from "./dom.js";
import { compareLink, runName } from "./format.js";
import { HeatMap } from "./heat_map.js";
import { RunLive } from "./live.js";
import { marksOf } from "./marks.js";
import { Range } from "./range.js";
import { RunDetails } from "./run_details.js";
import { alertLine, alertList, cardPlan, decisionTable, headline, kernelTable, lineageBlock,
  settingsBlock } from "./run_parts.js";
import { SeedChart } from "./seed_chart.js";
import { seedRows } from "./seeds.js";
import { MARKS, summary } from "./words.js";

const REDRAW_MS = 250;
const HINT = "Drag to zoom, double-click for all steps, click a point to pin its step, a mark for "
  + "its decision. With keys: arrows, Enter to pin, m and n for the next and the previous mark, "
  + "+ and − to zoom, 0 for all.";
const SMOOTHING = [["none", 0], ["light", 0.8], ["strong", 0.97]];

class RunView {
  constructor(id, app) {
    this.id = id;
    this.app = app;
    this.data = null;
    this.heldOut = null;
    this.range = new Range();
    this.cards = new Map();
    this.marks = [];
    this.keep = 0;
    this.ended = new AbortController();
    this.visible = watchVisible((node, seen) => this.#seen(node, seen));
    this.details = new RunDetails(this);
    // the history has an event half a second after the stream
    this.reload = soon(() => this.load(), 700);
    this.redraw = throttle(() => this.#redraw(), REDRAW_MS);
    this.heatSoon = throttle(() => this.#loadHealth(), 10_000);
    this.#build();
    this.live = new RunLive(this);
    this.live.hello.then(() => this.ended.signal.aborted || this.load());
  }

  #build() {
    this.head = h("header", { class: "run-head" }, h("h1", null, this.id),
      h("p", { class: "note" }, "Loading …"));
    this.told = h("p", { class: "summary" });
    this.held = h("div");
    this.firstCards = h("div", { class: "cards" });
    this.moreCards = h("div", { class: "cards" });
    this.seeds = new SeedChart(this.range, (segment, row, byKey) => {
      if (segment.move) this.details.move(segment.move, byKey);
    });
    this.heat = new HeatMap(this.range);
    this.decisions = decisionTable((one) => this.details.decision(one, true));
    this.kernels = kernelTable();
    this.alerts = h("div");
    this.rest = h("div");
    const smoothing = h("select", {
      "aria-label": "Smoothing of curves by step", onchange: (event) => {
        this.keep = Number(event.target.value);
        this.cards.forEach((card) => card.draw());
      },
    }, SMOOTHING.map(([name, keep]) => h("option", { value: keep }, `smoothing: ${name}`)));
    this.zoomed = h("button", {
      type: "button", class: "small", hidden: true, onclick: () => this.range.reset(),
    }, "Show all steps");
    this.legend = h("ul", { class: "mark-legend", "aria-label": "Marks" },
      Object.values(MARKS).map((mark) => h("li", null, h("b", {
        class: `mark mark-${mark.shape}`, style: { background: `var(${mark.color})` },
        "aria-hidden": "true",
      }, mark.letter), mark.word)));
    this.body = h("div", { hidden: true }, this.told, this.held,
      section("Curves", "curves", [this.legend, smoothing, this.zoomed],
        h("p", { class: "hint" }, HINT), this.firstCards),
      section("Seeds", "seeds", this.seeds.tools, this.seeds.box),
      section("Decisions", "decisions", null, this.decisions.box),
      section("More curves", "more-curves", null, this.moreCards),
      section("Health of layers", "health", this.heat.tools, this.heat.box),
      section("Kernels", "kernels", null, this.kernels.box),
      section("Alerts", "alerts", null, this.alerts),
      this.rest);
    this.node = h("div", {
      class: "with-side",
      onkeydown: (event) => event.key === "Escape" && this.details.panel.close(),
    },
      h("div", { class: "side-main" }, this.head, this.body), this.details.panel.box);
    this.visible.observe(this.heat.box);
    this.range.listen((what) => {
      if (what === "zoom") this.zoomed.hidden = !this.range.zoom;
    });
  }

  #seen(node, seen) {
    if (node === this.heat.box) {
      this.heatSeen = seen;
      this.heat.show(seen);
      if (seen && !this.heatLoaded) this.#loadHealth();
      return;
    }
    [...this.cards.values()].find((card) => card.box === node)?.show(seen);
  }

  /** Fetches the run; what is shown stays until the answer is here. */
  async load() {
    const { signal } = this.ended;
    try {
      const [data, held] = await Promise.all([
        get(`/page/runs/${encodeURIComponent(this.id)}`, {}, signal),
        get("/page/curves", { run: this.id, name: "held-out loss", points: 200 }, signal),
      ]);
      this.data = data;
      this.failed = false;
      this.live.again();
      const curve = held.curves.find((one) => one.name === "held-out loss");
      this.heldOut = curve || { steps: [], values: [] };
      this.app.solved();
      this.#show();
    } catch (error) {
      if (error.name === "AbortError") return;
      this.failed = true;
      this.app.problem(error, () => this.load());
      if (!this.data) {
        fill(this.head, h("h1", null, this.id),
          h("p", { class: "note" }, "Nothing is shown yet: see the message above."));
      }
    }
  }

  async #loadHealth() {
    if (!this.heatSeen) return;
    try {
      const path = `/page/runs/${encodeURIComponent(this.id)}/health`;
      this.heat.set(await get(path, { columns: 120 }, this.ended.signal));
      this.heatLoaded = true;
    } catch (error) {
      if (error.name !== "AbortError" && !this.heatLoaded) this.heat.fail(error.message);
    }
  }

  #show() {
    const { data } = this;
    this.body.hidden = false;
    this.range.reach(Math.max(data.run.steps || 0, 1));
    this.#head();
    fill(this.held, alertLine(data.alerts));
    this.#grown();
    this.#makeCards();
    this.decisions.set(data.decisions, data.run.decisions === "LIVE"
      ? "No decision yet. Tamiyo decides at the end of an epoch."
      : "No decision yet.");
    this.kernels.set(data.kernels, "No kernel was grafted.");
    fill(this.alerts, alertList(data.alerts, data.run));
    const open = [...this.rest.querySelectorAll("details")].map((one) => one.open);
    fill(this.rest, settingsBlock(data), lineageBlock(data));
    this.rest.querySelectorAll("details").forEach((one, at) => {
      one.open = Boolean(open[at]);
    });
  }

  #head() {
    const { run, forks } = this.data;
    const others = [this.data.baseline?.run_id, run.run_id, run.parent,
      ...forks.map((one) => one.run_id)].filter(Boolean);
    const ids = [...new Set(others)].slice(0, 100);
    this.app.title(runName(run), ids.length > 1
      ? [h("a", { href: compareLink(ids) }, "Compare")] : []);
    fill(this.head, headline(run, this.data.baseline));
    const losses = this.heldOut.values.filter((value) => value !== null);
    this.told.textContent = summary(this.data, losses);
  }

  /** Marks and seeds, after new moves. */
  #grown() {
    this.marks = marksOf(this.data);
    this.rows = seedRows(this.data);
    this.seeds.set(this.rows);
    this.cards.forEach((card) => card.visible && card.plot.marked());
  }

  #makeCards() {
    for (const [title, of] of cardPlan(this.data.curves)) {
      const known = this.cards.get(title);
      if (known) {
        known.names = of;
        if (this.curvesToo) known.renew();
        continue;
      }
      const card = new CurveCard(title, of, {
        runId: this.id, range: this.range, marks: () => this.marks,
        onPin: (step) => this.details.pin(step), smoothing: () => this.keep,
        onMarks: (marks, byKey) => this.details.marks(marks, byKey),
        failed: (error) => this.app.problem(error, () => this.load()),
      });
      this.cards.set(title, card);
      (title === "Loss" || title === "Score" ? this.firstCards : this.moreCards).append(card.box);
      this.visible.observe(card.box);
    }
    this.curvesToo = false;
  }

  /** Fetches everything again, curves too: what was missed is not known. */
  again() {
    this.curvesToo = true;
    this.reload();
  }

  #redraw() {
    this.range.reach(this.data.run.steps);
    this.#head();
    if (this.grownSoon) {
      this.grownSoon = false;
      this.#grown();
    }
    this.cards.forEach((card) => card.refresh());
    this.seeds.draw();
  }

  destroy() {
    this.ended.abort();
    this.live.close();
    this.visible.disconnect();
    [this.reload, this.redraw, this.heatSoon].forEach((timer) => timer.cancel());
    this.cards.forEach((card) => card.destroy());
    this.seeds.destroy();
    this.heat.destroy();
  }
}

/** The view of the run `id`. */
export function runView(id, app) {
  return new RunView(id, app);
}
