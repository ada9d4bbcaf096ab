// What things are called: stages, commands, evidence, and sentences on what grew.

import { count, number, runName, signed } from "./format.js";

/** Stages in the order of a seed's life: letter and colour variable. */
export const STAGES = {
  DORMANT: { letter: "D", color: "--stage-dormant", means: "nothing grafted" },
  GERMINATED: { letter: "G", color: "--stage-germinated", means: "kernel in place, not at work" },
  TRAINING: { letter: "T", color: "--stage-training", means: "learns beside the model" },
  BLENDING: { letter: "B", color: "--stage-blending", means: "its output is blended in" },
  SHADOWING: { letter: "S", color: "--stage-shadowing", means: "live, and compared" },
  PROBATIONARY: { letter: "P", color: "--stage-probationary", means: "live, on probation" },
  FOSSILIZED: { letter: "F", color: "--stage-fossilized", means: "kept for good" },
  CULLED: { letter: "C", color: "--stage-culled", means: "given up" },
  EMBARGOED: { letter: "E", color: "--stage-embargoed", means: "waits before it may grow again" },
  RESETTING: { letter: "R", color: "--stage-resetting", means: "is made empty again" },
  TERMINATED: { letter: "X", color: "--stage-terminated", means: "closed" },
};

/** Marks on curves: a shape and a letter each. */
export const MARKS = {
  graft: { letter: "G", shape: "triangle", color: "--mark-graft", word: "graft" },
  keep: { letter: "K", shape: "square", color: "--mark-keep", word: "keep" },
  cull: { letter: "C", shape: "diamond", color: "--mark-cull", word: "cull" },
  rollback: { letter: "R", shape: "left", color: "--mark-rollback", word: "rollback" },
  fork: { letter: "Y", shape: "circle", color: "--mark-fork", word: "fork" },
};

const EVIDENCE = {
  strategy: "strategy of the round",
  gain_median: "nats that such a kernel gained by the median",
  sampled_worth: "worth drawn for it (Thompson sampling)",
  success: "successes and failures that the draw was made of",
  trials: "kernels kept, given up and harmful on this layer",
  epochs_left: "epochs left to learn",
  graft_epochs: "epochs from graft to live, and their error",
  gap: "shadow gap: nats by which the held-out loss is lower with it",
  gap_error: "standard error of the gap",
  change: "change of the gap since the last validation",
  forecast: "gap that is forecast for it",
  promised: "gain that an untried arm promises",
  z: "standard errors from even odds",
  dependence: "nats that the model would lose without it now",
  negative: "validations that were worse with it",
  of: "validations looked at",
};

/** A piece of evidence in words; what other policies say stands under its own name. */
export function evidenceName(name) {
  return Object.hasOwn(EVIDENCE, name) ? EVIDENCE[name] : name.replaceAll("_", " ");
}

const DOES = { GERMINATE: "Graft", FOSSILISE: "Keep", CULL: "Cull" };

/** A command as a verb. */
export function verb(command) {
  return Object.hasOwn(DOES, command) ? DOES[command] : String(command);
}

/** Where a seed is: `conv1[2]`. */
export function place(one) {
  return `${one.layer}[${one.seed}]`;
}

/** A decision in a line. */
export function decisionTitle(one) {
  const family = one.family ? ` ${one.family}` : "";
  if (one.command === "GERMINATE") return `Graft${family} onto ${place(one)}`;
  return `${verb(one.command)}${family} of ${place(one)}`;
}

/** What the trainer did with a decision. */
export function answerText(one) {
  if (one.answer === "APPLIED") {
    return `Applied by the trainer at step ${number(one.applied_step)}.`;
  }
  if (one.answer === "REJECTED") {
    return `Rejected by the trainer: ${one.rejected_because || "it gave no reason"}`;
  }
  return "None yet: the trainer has neither applied nor rejected it.";
}

const VERDICTS = { FOSSILIZED: "kept", CULLED: "culled", RESET: "reset by a rollback" };

/** How a kernel ended, in a word. */
export function verdictWord(verdict) {
  return Object.hasOwn(VERDICTS, verdict || "") ? VERDICTS[verdict] : verdict || "";
}

/** What came of a decision. */
export function outcomeText(one) {
  if (!one.verdict) {
    return one.command === "GERMINATE"
      ? "Not known yet: it is known once the kernel is kept or culled."
      : "Only a graft has one.";
  }
  const gap = one.shadow_gap;
  const way = gap >= 0 ? "lower" : "higher";
  const loss = Number.isFinite(gap) && gap !== null
    ? ` The held-out loss was ${number(Math.abs(gap))} nats ${way} with it.` : "";
  const reward = Number.isFinite(one.reward) && one.reward !== null
    ? ` Reward ${number(one.reward)}.` : "";
  return `Kernel ${verdictWord(one.verdict)} at step ${number(one.outcome_step)}.${loss}${reward}`;
}

const STATES = {
  RUNNING: ["●", "running"], PAUSED: ["❙❙", "paused"], FINISHED: ["✓", "finished"],
  INTERRUPTED: ["◐", "interrupted"], FAILED: ["✕", "failed"],
};

/** Sign and word of a run's state. */
export function stateWords(state) {
  return Object.hasOwn(STATES, state) ? STATES[state] : ["?", String(state).toLowerCase()];
}

/** Sentences on what grew and whether it helped. */
export function summary({ run, baseline, decisions, counterfactuals }, heldOut) {
  const grafts = run.grafts || 0;
  const open = grafts - (run.fossilized || 0) - (run.culled || 0);
  const ended = ["FINISHED", "FAILED", "INTERRUPTED"].includes(run.state);
  const said = [];
  if (!grafts) said.push(ended ? "Nothing grew." : "Nothing has grown yet.");
  else {
    const parts = [`${number(run.fossilized || 0)} kept`, `${number(run.culled || 0)} culled`];
    if (open > 0) parts.push(`${number(open)} ${ended ? "left open" : "on trial"}`);
    said.push(`${count(grafts, "kernel")} grafted: ${parts.join(", ")}.`);
  }
  if (heldOut && heldOut.length > 1) {
    said.push(`Held-out loss ${number(heldOut[0], 3)} to ${number(heldOut.at(-1), 3)}.`);
  }
  const gaps = decisions.filter((one) => one.verdict === "FOSSILIZED" && one.shadow_gap !== null)
    .map((one) => one.shadow_gap);
  if (gaps.length) {
    const mean = gaps.reduce((a, b) => a + b, 0) / gaps.length;
    said.push(mean > 0
      ? `It helped: with a kept kernel the held-out loss was ${number(mean, 3)} nats lower`
        + `${gaps.length > 1 ? " on average" : ""} (shadow gap when kept).`
      : `No gain shown: with a kept kernel the held-out loss was ${number(-mean, 3)} nats higher.`);
  } else if (grafts && ended) said.push("No kernel was shown to help.");
  const proven = counterfactuals.at(-1);
  if (proven) {
    const asked = decisions.find((one) => one.decision_id === proven.decision_id);
    said.push(`What-if of ${asked ? `"${decisionTitle(asked)}"` : "a decision"}: with it `
      + `${proven.score_name || "score"} ${signed(proven.score_effect)}`
      + `${interval(proven.score_low, proven.score_high)}.`);
  }
  if (baseline && baseline.run_id !== run.run_id && run.score !== null && baseline.score !== null
      && baseline.score_name === run.score_name) {
    said.push(`Against the baseline run ${runName(baseline)}: ${run.score_name || "score"} `
      + `${signed(run.score - baseline.score)}.`);
  }
  return said.join(" ");
}

/** An interval in words. */
export function interval(low, high) {
  if (low === null || high === null || low === undefined || high === undefined) return "";
  return ` (95 % interval ${signed(low)} to ${signed(high)})`;
}
