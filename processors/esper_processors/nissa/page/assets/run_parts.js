// Parts of a run's view: headline, decisions, kernels, alerts, settings, lineage.

import { command, fill, h, section } from "./dom.js";
import { NONE, ago, compareLink, count, duration, fixed, moment, number, plain, runLink, runName,
  short, shortId, signed, word } from "./format.js";
import { decisionTitle, place, verb, verdictWord } from "./words.js";
import { facts, stateNode } from "./decisions.js";
import { Table } from "./table.js";

const CARDS = [
  ["Loss", ["training loss", "held-out loss", "test loss"]],
  ["Score", ["score"]],
  ["Accuracy", ["training accuracy", "held-out accuracy"]],
  ["Gradient norm", ["gradient norm"]],
  ["Learning rate", ["learning rate"]],
  ["Step time", ["step time"]],
];

/** Which curves go on one card: `[title, names]`; metrics of the task have a card each. */
export function cardPlan(curves) {
  const plan = CARDS.map(([title, names]) => [title, names.filter((one) => curves.includes(one))])
    .filter(([, names]) => names.length);
  const placed = new Set(plan.flatMap(([, names]) => names));
  return [...plan, ...curves.filter((name) => !placed.has(name)).map((name) => [name, [name]])];
}

function figure(label, value, hint) {
  return h("div", { class: "figure", title: hint },
    h("dt", null, label), h("dd", null, value));
}

/** Name, state and figures of a run. */
export function headline(run, baseline) {
  const progress = run.total_steps ? ` of ${number(run.total_steps)}` : "";
  const against = baseline && baseline.run_id !== run.run_id
    && baseline.score_name === run.score_name && run.score !== null && baseline.score !== null
    ? h("small", null, ` ${signed(run.score - baseline.score)}`) : null;
  return [
    h("div", { class: "run-title" },
      h("h1", null, runName(run)),
      stateNode(run.state),
      run.baseline && h("span", { class: "badge" }, "baseline"),
      run.tags.map((tag) => h("span", { class: "tag" }, tag))),
    h("p", { class: "run-sub" },
      run.name && [h("code", null, run.run_id), " · "],
      `recipe ${run.recipe} · seed ${number(run.seed)} · started ${moment(run.started_at)} `
      + `(${ago(run.started_at)})`,
      run.reason && ` · ${run.reason}`),
    run.note && h("p", { class: "run-note" }, run.note),
    h("dl", { class: "figures" },
      figure("epochs", number(run.epochs)),
      figure("steps", [number(run.steps), progress && h("small", null, progress)]),
      figure(`test ${(run.score_name || "score").replaceAll("_", " ")}`,
        [number(run.score), against],
        "on the test split, with the difference to the baseline run of the recipe"),
      figure("test loss", number(run.loss)),
      figure("best accuracy", number(run.best_accuracy)),
      figure("parameters", `${short(run.host_parameters)} → ${short(run.parameters)}`,
        "those of the host model, and those with all kernels"),
      figure("grafts", number(run.grafts)),
      figure("kept", number(run.fossilized)),
      figure("culled", number(run.culled)),
      figure("duration", duration(run.seconds))),
  ];
}

/** The table of decisions; `open(decision)` shows one. */
export function decisionTable(open) {
  return new Table({
    caption: "Decisions of the run", key: (row) => row.decision_id, sort: ["step", -1],
    columns: [
      { name: "step", label: "Step", num: true, value: (row) => row.step,
        cell: (row) => number(row.step) },
      { name: "epoch", label: "Epoch", num: true, value: (row) => row.epoch },
      { name: "command", label: "Decision", rowHead: true,
        value: (row) => `${verb(row.command)} ${row.layer} ${row.seed}`,
        cell: (row) => h("button", {
          type: "button", class: "link", onclick: () => open(row),
        }, decisionTitle(row)) },
      { name: "confidence", label: "Confidence", num: true, value: (row) => row.confidence,
        cell: (row) => fixed(row.confidence, 2) },
      { name: "urgency", label: "Urgency", num: true, value: (row) => row.urgency,
        cell: (row) => fixed(row.urgency, 2) },
      { name: "impact", label: "Expected", num: true, value: (row) => row.expected_impact,
        hint: "nats by which the loss was expected to fall",
        cell: (row) => number(row.expected_impact, 3) },
      { name: "answer", label: "Answer", value: (row) => row.answer,
        cell: (row) => String(row.answer).toLowerCase() },
      { name: "verdict", label: "Outcome", value: (row) => row.verdict,
        cell: (row) => verdictWord(row.verdict) || NONE },
      { name: "gap", label: "Shadow gap", num: true, value: (row) => row.shadow_gap,
        hint: "nats by which the held-out loss was lower with the kernel",
        cell: (row) => signed(row.shadow_gap) },
    ],
  });
}

/** The table of kernels. */
export function kernelTable() {
  const figureOf = (name, label, hint, text = number) => ({
    name, label, hint, num: true, value: (row) => row[name], cell: (row) => text(row[name], 3),
  });
  return new Table({
    caption: "Kernels that the run grafted", key: (row) => row.kernel_id, sort: ["grafts", -1],
    columns: [
      { name: "kernel_id", label: "Kernel", rowHead: true, value: (row) => row.kernel_id,
        cell: (row) => h("code", { title: row.kernel_id }, shortId(row.kernel_id)) },
      { name: "family", label: "Family", value: (row) => row.family },
      figureOf("parameters", "Parameters", null, short),
      figureOf("flops", "FLOPs", "floating-point operations of a sample", short),
      figureOf("latency_us", "Latency µs"),
      figureOf("grafts", "Grafts"), figureOf("fossilized", "Kept"), figureOf("culled", "Culled"),
      figureOf("mean_reward", "Mean reward"),
      figureOf("mean_shadow_gap", "Mean shadow gap", "nats", signed),
    ],
  });
}

/** Why nobody was told of an alert. */
const WITHHELD = { SILENCED: ", silenced", LIMITED: ", above the limit of an hour" };

/** Alerts, those that hold first. */
export function alertList(alerts, run) {
  const sorted = [...alerts].sort((a, b) => Boolean(a.resolved_at) - Boolean(b.resolved_at)
    || (b.severity === "CRITICAL") - (a.severity === "CRITICAL")
    || String(b.raised_at).localeCompare(String(a.raised_at)));
  if (!sorted.length) {
    return [h("p", { class: "note" }, "Nissa knows of no alert of the last week."),
      command(`esper alerts ${word(run.run_id)}`, "Look through the whole run in the terminal")];
  }
  return [
    h("ul", { class: "alerts" }, sorted.map((one) => {
      const where = one.seed >= 0 ? place(one) : one.layer;
      return h("li", {
        class: `alert ${one.severity === "CRITICAL" ? "critical" : "warning"}`
          + `${one.resolved_at ? " over" : ""}`,
      },
      h("span", { class: "alert-kind" }, one.severity === "CRITICAL" ? "critical" : "warning",
        one.resolved_at ? ", over" : ", holds", WITHHELD[one.withheld]),
      h("span", null, one.sentence),
      h("span", { class: "quiet" }, [one.detector, where, `step ${number(one.step)}`,
        moment(one.raised_at), one.resolved_at && `over ${moment(one.resolved_at)}`]
        .filter(Boolean).join(" · ")));
    })),
    command(`esper alerts ${word(run.run_id)}`, "The same in the terminal"),
  ];
}

/** Settings or versions as a table of names and values. */
function pairs(title, values) {
  return h("details", { class: "fold" }, h("summary", null, title),
    h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": title },
      h("table", { class: "grid" }, h("tbody", null,
        Object.entries(values).map(([name, value]) => h("tr", null,
          h("th", { scope: "row" }, h("code", null, name)), h("td", null, plain(value))))))));
}

/** Settings and versions, folded. */
export function settingsBlock({ settings, environment }) {
  return section("Settings", "settings", null,
    pairs(count(Object.keys(settings).length, "setting"), settings),
    pairs("Versions", environment));
}

/** Where the run comes from and what was forked from it. */
export function lineageBlock({ run, forks }) {
  const link = (id) => h("a", { href: runLink(id) }, id);
  return section("Lineage", "lineage", null,
    facts([
      ["forked from", run.parent
        ? [link(run.parent), ` at step ${number(run.forked_step)}`] : "no run: it began anew"],
      ["forks", forks.length ? h("ul", { class: "plain" }, forks.map((one) => h("li", null,
        link(one.run_id), ` at step ${number(one.step)}`))) : "none"],
    ]),
    (run.parent || forks.length > 0) && h("p", null, h("a", {
      href: compareLink([run.parent, run.run_id, ...forks.map((one) => one.run_id)]
        .filter(Boolean).slice(0, 100)),
    }, "Compare them")),
    command(`esper audit ${word(run.run_id)} --report report.html`, "Write a report of the run"));
}

/** The alerts that hold, as a line above the curves. */
export function alertLine(alerts) {
  const held = alerts.filter((one) => !one.resolved_at && !one.withheld);
  const box = h("p", { class: "alert-line", hidden: !held.length });
  if (!held.length) return box;
  const critical = held.some((one) => one.severity === "CRITICAL");
  box.classList.toggle("critical", critical);
  const many = `${count(held.length, "alert")} ${held.length > 1 ? "hold" : "holds"}: `;
  return fill(box, h("b", null, many),
    held.slice(0, 2).map((one) => one.sentence).join(" "),
    held.length > 2 && ` And ${held.length - 2} more below.`);
}
