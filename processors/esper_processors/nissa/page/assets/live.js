// What the stream says of a run, put into the data of its view.

import { ascending, mergePoints } from "./points.js";
import { openStream } from "./stream.js";

const HELD_OUT = "held-out loss";
/** What a message of an epoch has beside curves. */
const NO_CURVES = new Set(["epoch", "step", "score_name", "test score"]);
const COUNTED = { GERMINATED: "grafts", FOSSILIZED: "fossilized", CULLED: "culled" };
const GREETING_MS = 1000;
/** An answer may be this much older than what the stream brought meanwhile. */
const OVERLAP_MS = 10_000;
/** Steps that begin again by more than a late message does were left by a rollback. */
const BACK = 50;

export class RunLive {
  #greeted = false;
  #moves = [];
  #last = -1;

  /** `view` has id, app, data, cards, range, heldOut, and is told to load and to draw. */
  constructor(view) {
    this.view = view;
    let go;
    /** Done when the stream stands or is late: what is fetched then has no gap before it. */
    this.hello = new Promise((done) => {
      go = done;
    });
    setTimeout(go, GREETING_MS);
    this.stream = openStream(view.id, {
      hello: ({ resumed }) => {
        if (this.#greeted && !resumed) view.again();
        this.#greeted = true;
        // one that comes late finds the view loaded, or a server that is back
        if (view.failed || (view.data && !resumed)) view.again();
        go();
      },
      steps: (data) => this.#steps(data),
      epoch: (data) => this.#epoch(data),
      move: (data) => this.#move(data),
      decisions: () => view.reload(),
      alerts: () => view.reload(),
      run: (data) => this.#run(data),
      state: (name, seconds) => view.app.stream(name, seconds),
      failed: (error) => error.status !== 404 && view.app.problem(error, () => view.load()),
    });
  }

  #steps({ step: steps, ...columns }) {
    const { view } = this;
    if (!steps?.length) return;
    if (steps[0] <= this.#last - BACK) {
      // marks and figures are others too, and what was kept of the old timeline is void
      view.cards.forEach((card) => card.forget());
      view.again();
    }
    this.#last = steps.at(-1);
    for (const [name, values] of Object.entries(columns)) {
      const [sorted, kept] = ascending(steps, values);
      view.cards.forEach((card) => card.merge(name, sorted, kept));
    }
    if (!view.data) return;
    view.data.run.steps = this.#last;
    view.redraw();
  }

  #epoch(data) {
    const { view } = this;
    for (const [name, value] of Object.entries(data)) {
      if (NO_CURVES.has(name) || value === null) continue;
      view.cards.forEach((card) => card.merge(name, [data.step], [value], "epoch"));
    }
    if (!view.data) return;
    const loss = data[HELD_OUT] ?? null;
    if (loss !== null) mergePoints(view.heldOut, [data.step], [loss]);
    const { run } = view.data;
    Object.assign(run, {
      epochs: data.epoch, loss: data["test loss"] ?? run.loss,
      score: data["test score"] ?? run.score,
    });
    view.heatSoon();
    view.redraw();
  }

  #move(move) {
    this.#moves.push({ move, at: performance.now() });
    if (this.view.data && this.#add(move)) {
      this.view.grownSoon = true;
      this.view.redraw();
    }
  }

  /** Adds a move that is not known yet. */
  #add(move) {
    const { moves, run } = this.view.data;
    const same = (one) => one.layer === move.layer && one.seed === move.seed
      && one.step === move.step && one.to_stage === move.to_stage
      && one.timeline === move.timeline;
    if (moves.some(same)) return false;
    moves.push(move);
    const field = COUNTED[move.to_stage];
    if (field) run[field] = (run[field] || 0) + 1;
    return true;
  }

  /** After an answer: adds the moves that came while it was made. */
  again() {
    const since = performance.now() - OVERLAP_MS;
    this.#moves = this.#moves.filter((one) => one.at > since);
    this.#moves.forEach((one) => this.#add(one.move));
  }

  #run(data) {
    const { view } = this;
    if (data.run_id !== view.id) return;
    // opened before the history had it
    if (view.failed) view.again();
    if (!view.data) return;
    const { run } = view.data;
    // with the end come figures that the stream does not have
    if (data.state && data.state !== run.state) view.again();
    for (const name of ["state", "epochs", "steps", "loss", "accuracy"]) {
      run[name] = data[name] ?? run[name];
    }
    view.redraw();
  }

  close() {
    this.stream.close();
  }
}
