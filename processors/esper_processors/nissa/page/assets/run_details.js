// What the panel of a run's view shows: a decision, a move, marks, a pinned step.

import { each, get } from "./api.js";
import { decisionNodes, decisionOf, marksNodes, moveNodes, stepNodes } from "./decisions.js";
import { h } from "./dom.js";
import { number, runLink } from "./format.js";
import { Panel } from "./panel.js";
import { indexAt } from "./points.js";
import { segmentAt } from "./seeds.js";
import { decisionTitle, place } from "./words.js";

const NAMES = 16;

export class RunDetails {
  /** `view` has data, rows, cards, heldOut and the node that makes room for the panel. */
  constructor(view) {
    this.view = view;
    this.panel = new Panel((open) => view.node.classList.toggle("with-panel", open));
  }

  decision(one, focus = false) {
    this.panel.show(decisionTitle(one),
      decisionNodes(one, this.view.data, (other) => this.decision(other, true)), focus);
  }

  move(move, focus = false) {
    const decision = decisionOf(move, this.view.data);
    if (decision) this.decision(decision, focus);
    else {
      this.panel.show(`${place(move)}: ${move.to_stage.toLowerCase()}`,
        moveNodes(move, this.view.data), focus);
    }
  }

  marks(marks, focus = false) {
    const [first] = marks;
    const other = first.fork?.run_id || first.parent;
    if (marks.length > 1) {
      this.panel.show(`${marks.length} marks`,
        marksNodes(marks, (mark) => this.marks([mark], true)), focus);
    } else if (first.move) this.move(first.move, focus);
    else {
      this.panel.show(`Step ${number(first.step)}`,
        [h("p", { class: "lead" }, first.text, other && [" · ", h("a", { href: runLink(other) },
          "open that run")]), this.#pinned(first.step)], focus);
    }
  }

  pin(step) {
    const title = `Step ${number(step)}`;
    this.panel.show(title, this.#pinned(step), true);
    this.#valuesAt(step).then((values) => {
      if (this.panel.shows(title)) this.panel.renew(this.#pinned(step, values));
    }, () => {}); // then what the cards have is shown, at their coarser steps
  }

  /** Values of all curves at a step: cards that were not seen have none, others not every step. */
  async #valuesAt(step) {
    const names = this.view.data.curves;
    const parts = Array.from({ length: Math.ceil(names.length / NAMES) }, (_, at) =>
      names.slice(at * NAMES, (at + 1) * NAMES));
    // of fewer points than there are the last one is always kept: that of the step
    const answers = await each(parts, 2, (name) => get("/page/curves",
      { run: this.view.id, name, points: 3, first: 0, last: step }));
    return answers.flatMap(({ curves }) => curves).filter((one) => one.steps.length).map((one) =>
      [one.name, { step: one.steps.at(-1), value: one.values.at(-1) }, one.unit]);
  }

  #pinned(step, known) {
    const { cards, rows, heldOut, data } = this.view;
    const values = known || [...cards.values()].flatMap((card) => card.at(step));
    const atWork = {};
    for (const row of rows) {
      const stage = segmentAt(row, step)?.stage;
      if (stage && stage !== "DORMANT") (atWork[stage] ||= []).push(place(row));
    }
    // an epoch ends with its point of the held-out loss
    const epoch = indexAt(heldOut.steps, step) + 1;
    return stepNodes(step, epoch, values, atWork, data, (one) => this.decision(one, true));
  }
}
