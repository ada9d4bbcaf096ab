// One chart: uPlot with the theme's colours, shared zoom and cursor, keys, marks.

import uPlot from "./uplot.esm.js";
import { h, hideTip, showTip } from "./dom.js";
import { number } from "./format.js";
import { drawMarks, groupAt, groupLines, lanesOf, stripOf } from "./marks.js";
import { color, onTheme } from "./palette.js";

const CLICK_MS = 220;

export class Plot {
  #plot = null;
  #groups = [];
  #ends = [];
  #click = 0;
  #room = 0;
  #signature = "";

  /**
   * `options`: label, range, height, marks (function), onPin(step), onMarks(marks), onValues(idx),
   * text(idx) for screen readers.
   */
  constructor(options) {
    this.options = options;
    this.log = false;
    this.series = [];
    this.bands = [];
    this.data = [[]];
    this.box = h("div", {
      class: "plot", tabindex: 0, role: "slider", "aria-label": options.label,
      "aria-valuemin": 0, "aria-valuemax": 0, "aria-valuenow": 0,
      onkeydown: (event) => this.#key(event),
      onblur: () => this.options.range.point(null, this),
    });
    this.#ends.push(
      // a longer run is drawn with its points
      options.range.listen((what) => {
        if (what === "zoom") this.#rescale();
        else if (what === "cursor") this.#follow();
      }),
      onTheme(() => this.rebuild()),
    );
    const sizes = new ResizeObserver(() => {
      const width = Math.floor(this.box.clientWidth);
      if (this.#plot && width > 0 && width !== this.#plot.width) {
        this.#plot.setSize({ width, height: this.#height() });
      } else if (!this.#plot) this.rebuild();
    });
    sizes.observe(this.box);
    this.#ends.push(() => sizes.disconnect());
  }

  #strip() {
    return stripOf(lanesOf(this.options.marks?.() || []));
  }

  #height() {
    return this.options.height || 190 + this.#strip();
  }

  /** Draws this data; the chart is made anew only where its lines are others. */
  set(data, series, bands = []) {
    this.data = data;
    this.series = series;
    this.bands = bands;
    const signature = JSON.stringify([series.map((one) => [one.label, one.key]), bands.length]);
    if (this.#plot && signature === this.#signature) {
      this.#plot.setData(data);
      this.#values();
      return;
    }
    this.#signature = signature;
    this.rebuild();
  }

  /** Makes the chart again, as after a change of the theme. */
  rebuild() {
    this.#plot?.destroy();
    this.#plot = null;
    if (!this.data[0].length || !this.box.clientWidth) return;
    this.#plot = new uPlot(this.#options(), this.data, this.box);
    const { root, over } = this.#plot;
    root.addEventListener("mousemove", (event) => this.#hover(event));
    root.addEventListener("mouseleave", hideTip);
    root.addEventListener("click", (event) => this.#clicked(event));
    over.addEventListener("mouseleave", () => this.options.range.point(null, this));
    this.#values();
  }

  #options() {
    const { range } = this.options;
    this.#room = this.#strip();
    const axis = {
      stroke: color("--fg-2"), font: "11px system-ui, sans-serif",
      grid: { stroke: color("--grid"), width: 1 },
      ticks: { stroke: color("--line"), width: 1, size: 4 },
    };
    return {
      width: Math.floor(this.box.clientWidth),
      height: this.#height(),
      padding: [this.#room, 20, 0, 0],
      legend: { show: false },
      cursor: {
        drag: { x: true, y: false, setScale: false, dist: 5 },
        // zoom goes through the range: a chart that is not drawn yet has to hear of it too
        sync: {
          key: range.key,
          filters: { pub: (type) => type === "mousemove" || type === "mouseleave" },
        },
        points: { size: 6 },
        focus: this.options.focus ? { prox: 16 } : undefined,
        bind: { dblclick: () => () => (clearTimeout(this.#click), range.reset()) },
      },
      scales: {
        x: { time: false, range: () => range.view() },
        y: this.log ? { distr: 3 } : {},
      },
      axes: [
        {
          ...axis, space: 60, size: 24, gap: 2,
          values: (_, ticks) => ticks.map((one) => number(one)),
        },
        {
          ...axis, gap: 4, size: 56, space: 30,
          values: (_, ticks) => ticks.map((one) => (one === null ? "" : number(one, 3))),
        },
      ],
      series: [{}, ...this.series.map((one) => ({
        ...one, stroke: typeof one.stroke === "string" ? color(one.stroke) : one.stroke?.(),
      }))],
      bands: this.bands.map((one) => ({ series: one.series, fill: one.fill() })),
      hooks: {
        setSelect: [(plot) => {
          const { left, width } = plot.select;
          if (width < 5) return;
          range.setZoom(plot.posToVal(left, "x"), plot.posToVal(left + width, "x"));
          plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
        }],
        setCursor: [(plot) => this.#cursor(plot)],
        setSeries: [(_, at) => this.options.onFocus?.(at)],
        draw: [(plot) => {
          if (this.options.marks) this.#groups = drawMarks(plot, this.options.marks(), range);
        }],
      },
    };
  }

  #rescale() {
    if (!this.#plot) return;
    const [min, max] = this.options.range.view();
    this.#plot.setScale("x", { min, max });
  }

  /** Takes the cursor to where it is over a chart of another kind: plots sync by themselves. */
  #follow() {
    const { step, source } = this.options.range;
    if (!this.#plot || source instanceof Plot) return;
    const inside = step !== null;
    const left = inside ? this.#plot.valToPos(step, "x") : -10;
    this.#plot.setCursor({ left, top: inside ? 1 : -10 }, true, false);
  }

  #cursor(plot) {
    const at = plot.cursor.idx;
    const inside = plot.cursor.left >= 0 && at !== null && at !== undefined;
    if (plot.over.matches(":hover") || document.activeElement === this.box) {
      this.options.range.point(inside ? this.data[0][at] : null, this);
    }
    this.#values();
  }

  /** Tells legend and screen reader the values under the cursor; without one the last. */
  #values() {
    const last = this.data[0].length - 1;
    const on = this.#plot && this.#plot.cursor.left >= 0 ? this.#plot.cursor.idx : null;
    const at = on ?? last;
    this.options.onValues?.(at, on !== null && on !== undefined);
    if (at < 0) return;
    this.box.setAttribute("aria-valuemax", this.data[0][last]);
    this.box.setAttribute("aria-valuenow", this.data[0][at]);
    this.box.setAttribute("aria-valuetext", this.options.text?.(at) || "");
  }

  #groupAt(event) {
    if (!this.#plot) return null;
    const frame = this.#plot.over.getBoundingClientRect();
    const y = event.clientY - frame.top;
    return y > 0 ? null : groupAt(this.#groups, event.clientX - frame.left, -y);
  }

  #hover(event) {
    const group = this.#groupAt(event);
    this.#plot.root.classList.toggle("on-mark", Boolean(group));
    if (group) showTip(event.clientX, event.clientY, groupLines(group));
    else hideTip();
  }

  #clicked(event) {
    const group = this.#groupAt(event);
    if (group) {
      hideTip();
      this.options.onMarks?.(group.marks);
      return;
    }
    const at = this.#plot.cursor.idx;
    if (!this.#plot.over.contains(event.target) || at === null || at === undefined) return;
    clearTimeout(this.#click);
    // a double click resets the zoom and must not pin first
    this.#click = setTimeout(() => this.options.onPin?.(this.data[0][at]), CLICK_MS);
  }

  /** Puts the cursor on a point of the data. */
  moveTo(at) {
    if (!this.#plot) return;
    const index = Math.min(Math.max(at, 0), this.data[0].length - 1);
    const left = this.#plot.valToPos(this.data[0][index], "x");
    this.#plot.setCursor({ left, top: this.#plot.over.clientHeight / 2 });
  }

  #key(event) {
    if (!this.#plot || event.altKey || event.ctrlKey || event.metaKey) return;
    const last = this.data[0].length - 1;
    const at = this.#plot.cursor.left >= 0 ? this.#plot.cursor.idx ?? last : last;
    const far = event.shiftKey ? 20 : 1;
    const keys = {
      ArrowLeft: () => this.moveTo(at - far),
      ArrowRight: () => this.moveTo(at + far),
      PageDown: () => this.moveTo(at - 50),
      PageUp: () => this.moveTo(at + 50),
      Home: () => this.moveTo(this.#plot.valToIdx(this.options.range.view()[0])),
      End: () => this.moveTo(this.#plot.valToIdx(this.options.range.view()[1])),
      Enter: () => this.options.onPin?.(this.data[0][at]),
      m: () => this.#nextMark(at, 1),
      n: () => this.#nextMark(at, -1),
      "+": () => this.#zoom(this.data[0][at], 0.5),
      "-": () => this.#zoom(this.data[0][at], 2),
      0: () => this.options.range.reset(),
    };
    if (!Object.hasOwn(keys, event.key)) return;
    event.preventDefault();
    keys[event.key]();
  }

  #nextMark(at, way) {
    const marks = this.options.marks?.() || [];
    const here = this.data[0][at];
    const next = way > 0
      ? marks.find((mark) => mark.step > here)
      : marks.findLast((mark) => mark.step < here);
    if (!next) return;
    this.moveTo(this.#plot.valToIdx(next.step));
    this.options.onMarks?.(marks.filter((mark) => mark.step === next.step), true);
  }

  #zoom(around, by) {
    const [first, last] = this.options.range.view();
    const half = ((last - first) * by) / 2;
    this.options.range.setZoom(around - half, around + half);
  }

  /** Brings one line to the front; null all. */
  focus(at) {
    this.#plot?.setSeries(at, { focus: true }, false);
  }

  /** Marks changed: another lane of them needs room, others are only drawn. */
  marked() {
    if (!this.#plot) return;
    if (this.#strip() !== this.#room) this.rebuild();
    else this.#plot.redraw(false);
  }

  destroy() {
    clearTimeout(this.#click);
    this.#ends.forEach((end) => end());
    this.#plot?.destroy();
    this.#plot = null;
  }
}
