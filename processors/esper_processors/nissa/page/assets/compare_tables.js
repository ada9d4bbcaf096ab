// Tables of a comparison: figures with differences to the baseline, settings that differ.

import { differing, extremes } from "./compare_stats.js";
import { h } from "./dom.js";
import { number, plain, runLink, short, shortDuration, signed } from "./format.js";
import { stateNode } from "./decisions.js";
import { swatch } from "./curves.js";
import { Table } from "./table.js";

const FIGURES = [
  ["score", "Score", number], ["best_accuracy", "Best accuracy", number],
  ["loss", "Test loss", number], ["parameters", "Parameters", short],
  ["grafts", "Grafts", number], ["fossilized", "Kept", number], ["culled", "Culled", number],
  ["epochs", "Epochs", number], ["steps", "Steps", number], ["seconds", "Duration", shortDuration],
];

/** Figures side by side; each with its difference to those of the baseline. */
export function figuresTable(loaded, baseline) {
  const table = new Table({
    caption: "Figures, with differences to the baseline", key: (one) => one.run.run_id,
    columns: [
      { name: "run", label: "Run", rowHead: true, class: "run-cell",
        value: (one) => one.label,
        cell: (one) => [h("a", { href: runLink(one.run.run_id) }, one.label),
          one === baseline && h("span", { class: "badge" }, "baseline")] },
      { name: "state", label: "State", value: (one) => one.run.state,
        cell: (one) => stateNode(one.run.state) },
      { name: "recipe", label: "Recipe", value: (one) => one.run.recipe },
      { name: "seed", label: "Seed", num: true, value: (one) => one.run.seed },
      ...FIGURES.map(([name, label, text]) => ({
        name, label, num: true, value: (one) => one.run[name],
        cell: (one) => [text(one.run[name]), h("span", { class: "delta" },
          one !== baseline && difference(one, baseline, name))],
      })),
    ],
  });
  table.set(loaded);
  return table.box;
}

function difference(one, baseline, name) {
  const [value, base] = [one.run[name], baseline.run[name]];
  const other = name === "score" && one.run.score_name !== baseline.run.score_name;
  if (!Number.isFinite(value) || !Number.isFinite(base) || other) return null;
  const apart = value - base;
  return apart === 0 ? "=" : signed(apart);
}

/** Settings that are not the same in all runs: one row each, a column a run. */
export function settingsTable(loaded) {
  const names = differing(loaded);
  if (!names.length) return h("p", { class: "note" }, "All settings are the same.");
  const label = "Settings that differ";
  return h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": label },
    h("table", { class: "grid sticky-first" }, h("caption", { class: "sr" }, label),
      h("thead", null, h("tr", null, h("th", { scope: "col" }, "Setting"),
        loaded.map((one) => h("th", { scope: "col" }, one.label)))),
      h("tbody", null, names.map((name) => h("tr", null,
        h("th", { scope: "row" }, h("code", null, name)),
        loaded.map((one) => h("td", null,
          name in one.settings ? plain(one.settings[name]) : "not set")))))));
}

/**
 * The table under the chart, a row a line: gives `{table, rows}`; a row's `node` takes its value
 * at the cursor.
 */
export function lineTable(lines, { metric, byGroup, baseline, hidden, sort, toggle, hover }) {
  const base = lines.find((one) => one.runs.includes(baseline));
  const last = base ? extremes(base.values).last : null;
  const rows = lines.map((line) => ({ ...line, ...extremes(line.values), node: h("span") }));
  const figure = (name, label) => ({
    name, label, num: true, hint: "of the points shown", value: (row) => row[name],
    cell: (row) => number(row[name]),
  });
  const apart = (row) => (last === null || row.last === null ? null : row.last - last);
  const table = new Table({
    caption: `${metric} by ${byGroup ? "group" : "run"}`, key: (row) => row.key, sort, hover,
    columns: [
      { name: "show", label: "Show", class: "pick", head: h("span", { class: "sr" }, "Show"),
        cell: (row) => h("input", {
          type: "checkbox", "aria-label": `Show ${row.label}`, checked: !hidden.has(row.key),
          onchange: (event) => toggle(row, event),
        }) },
      { name: "label", label: byGroup ? "Group" : "Run", rowHead: true, class: "line-cell",
        value: (row) => row.label,
        cell: (row) => [swatch(row.style), byGroup ? row.label
          : h("a", { href: runLink(row.key) }, row.label)] },
      { name: "value", label: "At the cursor", num: true, value: (row) => row.value,
        cell: (row) => row.node },
      figure("min", "Min"), figure("max", "Max"), figure("last", "Last"),
      { name: "apart", label: "Last − baseline", num: true, value: apart,
        cell: (row) => (row.runs.includes(baseline) ? "baseline" : signed(apart(row))) },
    ],
  });
  table.set(rows, "No points of this metric yet.");
  return { table, rows };
}
