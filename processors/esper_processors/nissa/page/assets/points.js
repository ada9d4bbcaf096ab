// Points of a curve: merging what comes live, reading at a step, joining on one axis.

import uPlot from "./uplot.esm.js";

/** Index of the last of ascending `steps` that is at most `step`; -1 when none is. */
export function indexAt(steps, step) {
  let low = 0;
  let high = steps.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle] <= step) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

/** The value at a step: that of the nearest point before it, else of the first. */
export function valueAt(curve, step) {
  const at = indexAt(curve.steps, step);
  return at >= 0 ? { step: curve.steps[at], value: curve.values[at] } : null;
}

/**
 * Puts points in the place of all that the curve has between the first and the last of them.
 * So what comes twice counts once, and after a rollback the new timeline replaces the old.
 */
export function mergePoints(curve, steps, values) {
  if (!steps.length) return;
  const from = indexAt(curve.steps, steps[0] - 1) + 1;
  const to = indexAt(curve.steps, steps.at(-1)) + 1;
  curve.steps.splice(from, to - from, ...steps);
  curve.values.splice(from, to - from, ...values);
}

/** The range of steps that a message of the stream has, in ascending order without doubles. */
export function ascending(steps, values) {
  const points = new Map(steps.map((step, at) => [step, values[at]]));
  const sorted = [...points.keys()].sort((a, b) => a - b);
  return [sorted, sorted.map((step) => points.get(step))];
}

/** Curves on one axis, as uPlot takes them: what a curve lacks at a step is left undefined. */
export function joined(curves) {
  if (!curves.length) return [[]];
  if (curves.length === 1) return [curves[0].steps, curves[0].values];
  return uPlot.join(curves.map((curve) => [curve.steps, curve.values]));
}

/** The value of one line of joined data at or before an index. */
export function lineValue(column, at) {
  for (let i = at; i >= 0; i--) {
    if (column[i] !== undefined) return column[i];
  }
  return null;
}

/** Exponential mean of values, debiased; `keep` is the weight of what came before. */
function trailing(values, keep) {
  let mean = 0;
  let weight = 0;
  return values.map((value) => {
    if (value === null || value === undefined) return value;
    mean = keep * mean + (1 - keep) * value;
    weight = keep * weight + (1 - keep);
    return mean / weight;
  });
}

/** Values smoothed from both sides: from one side alone a falling curve would lag behind. */
export function smoothed(values, keep) {
  const forth = trailing(values, keep);
  const back = trailing([...values].reverse(), keep).reverse();
  return forth.map((one, at) => (one === null || one === undefined ? one : (one + back[at]) / 2));
}
