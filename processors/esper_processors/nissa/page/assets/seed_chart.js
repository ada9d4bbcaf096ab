// Seeds down, steps across, stages as colours: draws only the rows that are seen.

import { drawAxis, dragZoom, fitted, sharp } from "./canvas.js";
import { fill, h, hideTip, say, showTip } from "./dom.js";
import { number } from "./format.js";
import { color, onTheme } from "./palette.js";
import { grew, segmentAt } from "./seeds.js";
import { STAGES, place } from "./words.js";

const ROW = 18;
const AXIS = 24;
const MOST = 430;

export class SeedChart {
  #all = [];
  #rows = [];
  #row = -1;
  #segment = -1;
  #ends = [];
  #frame = 0;

  /** `onSegment(segment, row, byKey)` is called for what is clicked or entered. */
  constructor(range, onSegment) {
    this.range = range;
    this.onSegment = onSegment;
    this.canvas = h("canvas");
    this.spacer = h("div");
    this.band = h("div", { class: "drag-band", hidden: true });
    this.line = h("div", { class: "cursor-line", hidden: true });
    this.scroll = h("div", {
      class: "seed-scroll", tabindex: 0, role: "group",
      "aria-label": "Stages of seeds. Arrow keys go from seed to seed and from stage to stage, "
        + "Enter opens the decision.",
      onscroll: () => this.draw(), onkeydown: (event) => this.#key(event),
      onblur: () => this.#select(-1, -1),
    }, this.canvas, this.spacer);
    this.only = h("input", { type: "checkbox", onchange: () => this.#filter() });
    this.layer = h("input", {
      type: "search", placeholder: "Layer", "aria-label": "Show layers whose name has",
      oninput: () => this.#filter(),
    });
    this.tools = [this.layer, h("label", { class: "check" }, this.only, "only seeds that grew")];
    this.empty = h("p", { class: "note", hidden: true },
      "No seed to show. A seed is a place in a layer where a kernel may be grafted.");
    this.box = h("div", { class: "seed-chart" }, this.scroll, this.band, this.line, this.empty,
      legend());
    dragZoom(this.canvas, range, this.band, (x) => this.#step(x), (event) => this.#click(event));
    this.canvas.addEventListener("mousemove", (event) => this.#hover(event));
    this.canvas.addEventListener("mouseleave", () => {
      hideTip();
      range.point(null);
    });
    const sizes = new ResizeObserver(() => this.#lay());
    sizes.observe(this.box);
    this.#ends.push(() => sizes.disconnect(), onTheme(() => this.draw()),
      range.listen((what) => (what === "cursor" ? this.#cursor() : this.draw())));
  }

  /** Shows these rows (`seedRows`). */
  set(rows) {
    if (!this.#all.length) this.only.checked = rows.length > 64 && rows.some(grew);
    this.#all = rows;
    this.#filter();
  }

  #filter() {
    const wanted = this.layer.value.trim().toLowerCase();
    this.#rows = this.#all.filter((row) => (!this.only.checked || grew(row))
      && (!wanted || row.layer.toLowerCase().includes(wanted)));
    this.empty.hidden = this.#rows.length > 0;
    this.scroll.hidden = !this.#rows.length;
    this.#lay();
  }

  #lay() {
    const all = this.#rows.length * ROW + AXIS;
    this.height = Math.min(all, MOST);
    this.scroll.style.height = `${this.height}px`;
    this.spacer.style.height = `${all - this.height}px`;
    this.draw();
  }

  get #left() {
    return this.width < 500 ? 88 : this.width < 900 ? 150 : 200;
  }

  #x(step) {
    const [first, last] = this.range.view();
    return this.#left + ((step - first) / (last - first || 1)) * (this.width - 12 - this.#left);
  }

  #step(x) {
    const [first, last] = this.range.view();
    return first + ((x - this.#left) / (this.width - 12 - this.#left)) * (last - first);
  }

  /** Draws once, before the next frame. */
  draw() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#drawNow();
    });
  }

  #drawNow() {
    this.width = this.scroll.clientWidth;
    if (!this.width || !this.#rows.length) return;
    const ctx = sharp(this.canvas, this.width, this.height);
    const top = this.scroll.scrollTop;
    const from = Math.floor(top / ROW);
    const to = Math.min(this.#rows.length, Math.ceil((top + this.height - AXIS) / ROW));
    ctx.save();
    ctx.beginPath();
    ctx.rect(0, 0, this.width, this.height - AXIS);
    ctx.clip();
    for (let at = from; at < to; at++) this.#drawRow(ctx, at, at * ROW - top, at === from);
    ctx.restore();
    drawAxis(ctx, this.range,
      { left: this.#left, right: this.width - 12, top: this.height - AXIS });
    this.#cursor();
  }

  #drawRow(ctx, at, y, isFirst) {
    const row = this.#rows[at];
    const begins = !at || this.#rows[at - 1].layer !== row.layer;
    ctx.textBaseline = "middle";
    ctx.font = "12px system-ui, sans-serif";
    if (begins && at) {
      ctx.fillStyle = color("--line");
      ctx.fillRect(0, y, this.width, 1);
    }
    const middle = y + ROW / 2;
    ctx.textAlign = "left";
    if (begins || isFirst) {
      ctx.fillStyle = color("--fg");
      ctx.fillText(fitted(ctx, row.layer, this.#left - 40), 4, middle);
    }
    ctx.textAlign = "right";
    ctx.fillStyle = color("--fg-2");
    ctx.fillText(`[${row.seed}]`, this.#left - 6, middle);
    const [first, last] = this.range.view();
    // what ended in few steps is drawn last, or the next stage would cover it
    const order = [...row.segments.keys()].sort((a, b) =>
      (row.segments[a].stage === "CULLED") - (row.segments[b].stage === "CULLED"));
    order.forEach((index) => {
      const segment = row.segments[index];
      const end = segment.to ?? this.range.full[1];
      if (end < first || segment.from > last) return;
      const left = Math.max(this.#x(segment.from), this.#left);
      const right = Math.min(this.#x(end), this.width - 12);
      const { letter, color: name } = stage(segment.stage);
      const dormant = segment.stage === "DORMANT";
      ctx.fillStyle = color(name);
      // a stage of few steps is still seen
      const wide = Math.max(right - left, dormant ? 0 : segment.stage === "CULLED" ? 4 : 1.5);
      if (dormant) ctx.fillRect(left, middle - 1, wide, 2);
      else ctx.fillRect(left, y + 2, wide, ROW - 4);
      if (!dormant && wide >= 12) {
        ctx.fillStyle = color("--stage-letter");
        ctx.font = "600 10px system-ui, sans-serif";
        ctx.textAlign = "left";
        ctx.fillText(letter, left + 3, middle + 0.5);
      }
      if (at === this.#row && index === this.#segment) {
        ctx.strokeStyle = color("--fg");
        ctx.lineWidth = 2;
        ctx.strokeRect(left, y + 1, Math.max(wide, 4), ROW - 2);
      }
    });
  }

  #cursor() {
    const { step } = this.range;
    const x = step === null || !this.width ? -1 : this.#x(step);
    this.line.hidden = x < this.#left || x > this.width - 12;
    if (this.line.hidden) return;
    this.line.style.height = `${this.height - AXIS}px`;
    this.line.style.transform = `translateX(${x}px)`;
  }

  #find(event) {
    const frame = this.canvas.getBoundingClientRect();
    const y = event.clientY - frame.top;
    if (y > this.height - AXIS) return null;
    const at = Math.floor((y + this.scroll.scrollTop) / ROW);
    const row = this.#rows[at];
    const x = event.clientX - frame.left;
    if (!row || x < this.#left) return null;
    const step = this.#step(x);
    // what is drawn wider than it is can be hit where it is drawn
    const segment = row.segments.findLast((one) => one.stage !== "DORMANT"
      && x >= this.#x(one.from) - 2
      && x <= Math.max(this.#x(one.to ?? this.range.full[1]), this.#x(one.from) + 2))
      || segmentAt(row, step);
    return segment && { row, at, segment, step };
  }

  #hover(event) {
    const found = this.#find(event);
    this.canvas.style.cursor = found?.segment.move ? "pointer" : "crosshair";
    if (!found) {
      hideTip();
      return;
    }
    this.range.point(Math.round(found.step));
    showTip(event.clientX, event.clientY, lines(found.row, found.segment));
  }

  #click(event) {
    const found = this.#find(event);
    if (!found) return;
    hideTip();
    this.#select(found.at, found.row.segments.indexOf(found.segment));
    this.onSegment(found.segment, found.row, false);
  }

  #select(row, segment) {
    this.#row = row;
    this.#segment = segment;
    this.draw();
  }

  #key(event) {
    const keys = {
      ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1],
      PageDown: [20, 0], PageUp: [-20, 0],
      Home: [-this.#rows.length, 0], End: [this.#rows.length, 0],
    };
    if (event.key === "Enter" && this.#row >= 0) {
      const row = this.#rows[this.#row];
      this.onSegment(row.segments[this.#segment], row, true);
    } else if (Object.hasOwn(keys, event.key)) {
      event.preventDefault();
      const [down, right] = keys[event.key];
      const at = Math.min(Math.max(this.#row + down, 0), this.#rows.length - 1);
      const { segments } = this.#rows[at];
      const wanted = this.#segment < 0 || down ? segments.length - 1 : this.#segment + right;
      this.#select(at, Math.min(Math.max(wanted, 0), segments.length - 1));
      const top = at * ROW;
      const room = this.height - AXIS - ROW;
      if (top < this.scroll.scrollTop) this.scroll.scrollTop = top;
      else if (top > this.scroll.scrollTop + room) this.scroll.scrollTop = top - room;
      say(lines(this.#rows[at], segments[this.#segment]).filter(Boolean).join(", "));
    }
  }

  destroy() {
    cancelAnimationFrame(this.#frame);
    this.#ends.forEach((end) => end());
    hideTip();
  }
}

function stage(name) {
  return Object.hasOwn(STAGES, name) ? STAGES[name]
    : { letter: "?", color: "--stage-terminated", means: "" };
}

function lines(row, segment) {
  const { letter, means } = stage(segment.stage);
  const steps = segment.to === null ? `from step ${number(segment.from)}`
    : `steps ${number(segment.from)} to ${number(segment.to)}`;
  return [
    place(row), `${letter} · ${segment.stage.toLowerCase()}${means ? `: ${means}` : ""}`, steps,
    segment.move?.family && `kernel ${segment.move.family}`, segment.move?.reason,
  ];
}

function legend() {
  return fill(h("ul", { class: "stage-legend", "aria-label": "Stages" }),
    Object.entries(STAGES).map(([name, { letter, color: variable }]) => h("li", null,
      h("span", {
        class: "stage-swatch", "aria-hidden": "true", style: { background: `var(${variable})` },
      }, letter), name.toLowerCase())));
}
