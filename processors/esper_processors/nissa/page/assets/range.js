// The steps that all charts of a view show, and the step that the cursor is on.

/** Zoom and cursor, shared: whoever changes them tells all others. */
export class Range {
  static #made = 0;

  #listeners = new Set();

  constructor() {
    this.key = `range-${Range.#made++}`;
    this.full = [0, 1];
    this.zoom = null;
    this.step = null;
    this.source = null;
  }

  /** First and last step that are shown. */
  view() {
    return this.zoom || this.full;
  }

  /** `listener(what)` is called with "zoom", "full" or "cursor"; gives what ends that. */
  listen(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Shows these steps; less than two steps apart is all. */
  setZoom(first, last) {
    const low = Math.max(first, this.full[0]);
    const high = Math.min(last, this.full[1]);
    this.zoom = high - low >= 2 ? [low, high] : null;
    this.#tell("zoom");
  }

  /** Shows everything. */
  reset() {
    if (!this.zoom) return;
    this.zoom = null;
    this.#tell("zoom");
  }

  /** Says that there are steps up to `last`. */
  reach(last) {
    if (!Number.isFinite(last) || last <= this.full[1]) return;
    this.full = [this.full[0], last];
    this.#tell("full");
  }

  /** Puts the cursor on a step; null takes it away. `source` is the chart that it is over. */
  point(step, source = null) {
    if (step === this.step) return;
    this.step = step;
    this.source = source;
    this.#tell("cursor");
  }

  #tell(what) {
    this.#listeners.forEach((listener) => listener(what));
  }
}
