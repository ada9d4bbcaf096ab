// Groups of runs that differ by their seed alone, and their mean with a 95 % t-interval.

import { indexAt } from "./points.js";
import { plain, runName } from "./format.js";

const GRID = 400;
/** The 97.5 % quantile of Student's t by degrees of freedom, from 1. */
const T = [
  12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.16, 2.145,
  2.131, 2.12, 2.11, 2.101, 2.093, 2.086, 2.08, 2.074, 2.069, 2.064, 2.06, 2.056, 2.052, 2.048,
  2.045, 2.042,
];

/** The quantile for `n` values; beyond the table its expansion, good to four digits. */
export function tQuantile(n) {
  const free = n - 1;
  if (free <= T.length) return T[free - 1];
  const z = 1.959964;
  return z + (z ** 3 + z) / (4 * free) + (5 * z ** 5 + 16 * z ** 3 + 3 * z) / (96 * free ** 2);
}

/** Mean of numbers with its interval; without an interval for fewer than two. */
export function meanOf(values) {
  const n = values.length;
  if (!n) return { n, mean: null, low: null, high: null };
  const mean = values.reduce((a, b) => a + b, 0) / n;
  if (n < 2) return { n, mean, low: null, high: null };
  const spread = Math.sqrt(values.reduce((sum, one) => sum + (one - mean) ** 2, 0) / (n - 1));
  const half = (tQuantile(n) * spread) / Math.sqrt(n);
  return { n, mean, low: mean - half, high: mean + half };
}

const isSeed = (name) => /(^|[._])seed$/.test(name);

/** Names of settings that are not the same in all runs, in order. */
export function differing(loaded, seeds = true) {
  const names = new Set(loaded.flatMap((one) => Object.keys(one.settings)));
  return [...names].filter((name) => (seeds || !isSeed(name)) && new Set(loaded.map((one) =>
    JSON.stringify(one.settings[name]) ?? "")).size > 1).sort();
}

/** Groups `{label, runs}` of runs with one recipe and the same settings but for seeds. */
export function groupsOf(loaded) {
  const names = differing(loaded, false);
  const groups = new Map();
  for (const one of loaded) {
    const key = JSON.stringify([one.run.recipe, names.map((name) => one.settings[name] ?? null)]);
    if (!groups.has(key)) {
      const values = names.map((name) => `${name}=${plain(one.settings[name])}`);
      groups.set(key, { key, label: [one.run.recipe, ...values].join(" · "), runs: [] });
    }
    groups.get(key).runs.push(one);
  }
  return [...groups.values()];
}

/** Steps on which means are taken: those of the curves if they are the same, else a grid. */
export function commonSteps(curves) {
  const full = curves.filter((one) => one.steps.length);
  if (!full.length) return [];
  const longest = full.reduce((a, b) => (b.steps.length > a.steps.length ? b : a));
  const known = new Set(longest.steps);
  if (full.every((one) => one.steps.every((step) => known.has(step)))) return longest.steps;
  const first = Math.min(...full.map((one) => one.steps[0]));
  const last = Math.max(...full.map((one) => one.steps.at(-1)));
  const every = Math.max(1, (last - first) / GRID);
  const steps = [];
  for (let step = first; step < last; step += every) steps.push(Math.round(step));
  return [...new Set([...steps, last])];
}

/** The value of a curve at a step, between points on the line; null outside of it. */
export function between(curve, step) {
  const at = indexAt(curve.steps, step);
  if (at < 0 || step > curve.steps.at(-1)) return null;
  const value = curve.values[at];
  if (curve.steps[at] === step || value === null) return value;
  const next = curve.values[at + 1];
  if (next === null || next === undefined) return null;
  const part = (step - curve.steps[at]) / (curve.steps[at + 1] - curve.steps[at]);
  return value + (next - value) * part;
}

/** Mean, low and high of curves on given steps. */
export function meanCurve(curves, steps) {
  const all = steps.map((step) => meanOf(curves.map((one) => between(one, step))
    .filter((value) => value !== null)));
  return {
    mean: all.map((one) => one.mean), low: all.map((one) => one.low),
    high: all.map((one) => one.high),
  };
}

/** Least, greatest and last value of a column. */
export function extremes(values) {
  let [min, max, last] = [null, null, null];
  for (const value of values) {
    if (value === null || value === undefined) continue;
    if (min === null || value < min) min = value;
    if (max === null || value > max) max = value;
    last = value;
  }
  return { min, max, last };
}

/** Gives each run a label of its own: its name, with its id where several have that name. */
export function labelled(loaded) {
  const names = loaded.map((one) => runName(one.run));
  return loaded.map((one, at) => ({ ...one,
    label: names.filter((name) => name === names[at]).length > 1 && one.run.name
      ? `${names[at]} (${one.run.run_id})` : names[at] }));
}
