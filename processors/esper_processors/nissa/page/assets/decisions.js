// What is behind a mark: the decision, why, beside what, what came of it, and what to type.

import { command, h, svg } from "./dom.js";
import { moment, number, plain, shortId, signed, word } from "./format.js";
import { MARKS, answerText, decisionTitle, evidenceName, interval, outcomeText, place, stateWords,
  verdictWord } from "./words.js";

const COMMANDS = { GERMINATED: "GERMINATE", FOSSILIZED: "FOSSILISE", CULLED: "CULL" };

/** The decision that a move carries out, else that which grafted its kernel; null when none. */
export function decisionOf(move, { decisions }) {
  const wanted = COMMANDS[move.to_stage];
  const own = wanted && wanted !== "GERMINATE" && decisions.find((one) => one.command === wanted
    && one.layer === move.layer && one.seed === move.seed && one.applied_step === move.step
    && one.timeline === move.timeline);
  return own || decisions.find((one) => move.decision_id && one.decision_id === move.decision_id)
    || null;
}

/** The id of the decision that grafted the kernel which this decision is about. */
function graftOf(one, { moves }) {
  if (one.command === "GERMINATE") return one.decision_id;
  const step = one.applied_step ?? one.step;
  return moves.findLast((move) => move.layer === one.layer && move.seed === one.seed
    && move.step <= step && move.decision_id)?.decision_id;
}

/** Rows of a definition list; empty values are left out. */
export function facts(rows, kind = "") {
  return h("dl", { class: `facts ${kind}` }, rows.filter(([, value]) => value !== null
    && value !== undefined && value !== "").map(([name, value]) =>
    h("div", null, h("dt", null, name), h("dd", null, value))));
}

function share(value, words) {
  const part = Math.min(Math.max(value ?? 0, 0), 1);
  return h("div", { class: "share" },
    h("div", { class: "share-bar", "aria-hidden": "true" },
      h("i", { style: { width: `${part * 100}%` } })),
    h("div", null, h("b", null, number(value, 3)), ` ${words}`));
}

/** An effect with its interval on a line around zero. */
function effectLine(effect, low, high) {
  const ends = [effect, low ?? effect, high ?? effect, 0];
  const reach = Math.max(...ends.map(Math.abs)) * 1.15 || 1;
  const x = (value) => 100 + (value / reach) * 96;
  const line = (x1, x2, y1, y2, kind) => svg("line", { x1, x2, y1, y2, class: kind });
  return svg("svg", { viewBox: "0 0 200 20", class: "effect", "aria-hidden": "true" },
    line(100, 100, 1, 19, "effect-zero"),
    low !== null && high !== null && line(x(low), x(high), 10, 10, "effect-line"),
    svg("circle", { cx: x(effect), cy: 10, r: 4, class: "effect-point" }));
}

function worth(one) {
  const orders = one.orders > 1 ? `, ${number(one.orders)} data orders` : "";
  return h("div", { class: "worth" },
    h("p", null, `${one.score_name || "score"} ${signed(one.score_effect)} by the decision`
      + interval(one.score_low, one.score_high)),
    effectLine(one.score_effect, one.score_low, one.score_high),
    h("p", null, `held-out loss ${signed(one.loss_effect)} nats`
      + interval(one.loss_low, one.loss_high)),
    effectLine(one.loss_effect, one.loss_low, one.loss_high),
    h("p", { class: "quiet" },
      `${String(one.mode).toLowerCase()}${orders}, up to epoch ${number(one.until_epoch)}, `
      + `measured ${moment(one.measured_at)}`));
}

function part(title, ...children) {
  return h("section", { class: "panel-part" }, h("h3", null, title), ...children);
}

function pathList(path) {
  return h("ol", { class: "path" }, path.map((move, at) => h("li", null,
    h("span", { class: "path-step" }, `step ${number(move.step)}`),
    h("b", null, String(move.to_stage).toLowerCase()),
    at > 0 && h("span", { class: "quiet" },
      ` after ${number(move.step - path[at - 1].step)} steps`),
    move.reason && h("div", { class: "quiet" }, move.reason))));
}

/** The panel of one decision; `open(decision)` shows another. */
export function decisionNodes(one, data, open) {
  const run = word(data.run.run_id);
  const graft = graftOf(one, data);
  const path = data.moves.filter((move) => graft && move.decision_id === graft);
  const beside = data.decisions.filter((other) => other !== one && other.step === one.step
    && other.timeline === one.timeline);
  const measured = data.counterfactuals.filter((other) => other.decision_id === one.decision_id);
  const evidence = Object.entries(one.evidence || {});
  return [
    one.reason && h("p", { class: "lead" }, one.reason),
    facts([
      ["command", one.command], ["layer", place(one)], ["family", one.family],
      ["kernel", one.kernel_id && h("code", { title: one.kernel_id }, shortId(one.kernel_id))],
      ["decided", `after epoch ${number(one.epoch)}, step ${number(one.step)}`],
      ["at", moment(one.decided_at)], ["policy", one.policy_version],
    ]),
    part("Why",
      share(one.confidence, "confidence: sure that it does no harm"),
      share(one.urgency, "urgency: that waiting an epoch costs more"),
      h("p", null, `Expected to lower the loss by ${number(one.expected_impact)} nats.`),
      evidence.length > 0 && h("h4", null, "Evidence"),
      evidence.length > 0
        && facts(evidence.map(([name, value]) => [evidenceName(name), plain(value)]), "evidence")),
    part("Decided at the same step", beside.length
      ? h("ul", { class: "plain" }, beside.map((other) => h("li", null,
        h("button", { type: "button", class: "link", onclick: () => open(other) },
          decisionTitle(other)),
        h("span", { class: "quiet" }, ` confidence ${number(other.confidence, 2)}, `
          + `${String(other.answer).toLowerCase()}`))))
      : h("p", { class: "quiet" }, "Nothing else.")),
    part("Answer", h("p", null, answerText(one))),
    part("Path of stages", path.length ? pathList(path)
      : h("p", { class: "quiet" }, "No stage names this decision.")),
    part("Outcome", h("p", null, outcomeText(one))),
    part("What if not", measured.length ? measured.map(worth)
      : h("p", { class: "quiet" }, "Not measured; the command below measures it.")),
    part("Commands",
      command(`esper explain ${word(one.decision_id)}`, "Explain it in the terminal"),
      one.command === "GERMINATE" && one.answer === "APPLIED"
        && command(`esper whatif ${run} --decision ${word(one.decision_id)}`, "Measure its worth"),
      command(`esper replay state ${run} --step ${one.step} -o state.safetensors`,
        "Rebuild the state that it was decided on")),
  ];
}

/** The panel of a move without a decision. */
export function moveNodes(move, data) {
  const path = data.moves.filter((one) => one.layer === move.layer && one.seed === move.seed);
  return [
    h("p", { class: "lead" }, move.reason || "The journal has no reason for it."),
    facts([["stage", `${move.from_stage} to ${move.to_stage}`], ["layer", place(move)],
      ["family", move.family], ["step", number(move.step)], ["at", moment(move.at)]]),
    h("p", { class: "quiet" }, "No decision is known for it: the trainer moved the seed itself, or "
      + "the command came from outside."),
    part("Path of the seed", pathList(path.slice(-30))),
  ];
}

/** The list of several marks; `open(mark)` shows one. */
export function marksNodes(marks, open) {
  return h("ul", { class: "plain" }, marks.map((mark) => h("li", null,
    h("button", { type: "button", class: "link", onclick: () => open(mark) },
      `${MARKS[mark.kind].letter} · step ${number(mark.step)} · ${mark.text}`))));
}

/** The panel of a pinned step: values, seeds at work, what to type. */
export function stepNodes(step, epoch, values, atWork, data, open) {
  const run = word(data.run.run_id);
  const before = data.decisions.filter((one) => one.command === "GERMINATE"
    && one.answer === "APPLIED" && one.applied_step <= step)
    .sort((a, b) => a.applied_step - b.applied_step).at(-1);
  const stages = Object.entries(atWork);
  return [
    facts([["step", number(step)], ["epochs completed", number(epoch)],
      ...values.map(([name, point, unit]) => [name,
        `${number(point.value)}${unit ? ` ${unit}` : ""}`
        + `${point.step === step ? "" : ` (step ${number(point.step)})`}`])]),
    part("Seeds at this step", stages.length
      ? h("ul", { class: "plain" }, stages.map(([stage, places]) => h("li", null,
        `${stage.toLowerCase()}: ${places.slice(0, 12).join(", ")}`
        + `${places.length > 12 ? ` and ${places.length - 12} more` : ""}`)))
      : h("p", { class: "quiet" }, "All are dormant.")),
    before && part("Graft before it",
      h("button", { type: "button", class: "link", onclick: () => open(before) },
        `${decisionTitle(before)}, step ${number(before.applied_step)}`),
      before.verdict && h("span", { class: "quiet" }, ` ${verdictWord(before.verdict)}`)),
    part("Commands",
      command(`esper replay state ${run} --step ${step} -o state.safetensors`,
        "Rebuild the state of this step"),
      command(`esper fork ${run} --step ${step} --set KEY=VALUE`,
        "Fork here, with another setting"),
      before && command(`esper whatif ${run} --decision ${word(before.decision_id)}`,
        "Measure what the graft before it was worth")),
  ];
}

/** A state as sign and word. */
export function stateNode(state) {
  const [sign, name] = stateWords(state);
  return h("span", { class: `state state-${name}` },
    h("span", { "aria-hidden": "true", class: "state-sign" }, sign), name);
}
