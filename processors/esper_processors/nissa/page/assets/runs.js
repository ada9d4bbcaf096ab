// The view of all runs: a table to search, filter, sort, and to pick runs for a comparison.

import { get } from "./api.js";
import { command, fill, h, say, soon } from "./dom.js";
import { ago, compareLink, count, moment, number, runLink, runName, short, shortDuration, signed }
  from "./format.js";
import { stateNode } from "./decisions.js";
import { openStream } from "./stream.js";
import { Table } from "./table.js";

const MOST = 100;
const MISSES = 10;
const STATES = ["RUNNING", "PAUSED", "FINISHED", "INTERRUPTED", "FAILED"];
/** What was searched and picked: still there when the reader comes back from a run. */
const kept = { search: "", state: "", recipe: "", sort: ["started", -1], picked: new Set() };

class RunsView {
  constructor(app) {
    this.app = app;
    this.runs = [];
    this.baselines = new Map();
    this.ended = new AbortController();
    this.reload = soon(() => this.load(), 1500);
    /** How often a run was asked for that no list had: older than the list, or deleted. */
    this.unknown = new Map();
    this.table = this.#table();
    this.search = h("input", {
      type: "search", placeholder: "Search: run, name, recipe, note, tag", value: kept.search,
      "aria-label": "Search runs", oninput: (event) => this.#filter("search", event),
    });
    this.state = this.#select("State", "state");
    this.recipe = this.#select("Recipe", "recipe");
    this.compare = h("a", { class: "button", role: "link" });
    this.clear = h("button", {
      type: "button", class: "small", onclick: () => {
        kept.picked.clear();
        this.table.table.querySelectorAll("input").forEach((box) => {
          box.checked = false;
        });
        this.#picked();
      },
    }, "Clear");
    this.total = h("p", { class: "quiet total" });
    this.empty = h("div");
    this.tools = h("div", { class: "filters", role: "search" },
      this.search, this.state, this.recipe,
      h("span", { class: "filters-end" }, this.compare, this.clear));
    this.node = h("div", { class: "runs" }, h("h1", null, "Runs"), this.tools, this.total,
      this.table.box, this.empty);
    this.table.box.hidden = true;
    fill(this.empty, h("p", { class: "note" }, "Loading …"));
    this.#options();
    this.#picked();
    this.load();
    this.stream = openStream("", {
      hello: ({ resumed }) => (this.failed || (this.loaded && !resumed)) && this.reload(),
      run: (data) => this.#run(data),
      state: (name, seconds) => app.stream(name, seconds),
      failed: (error) => app.problem(error, () => this.load()),
    });
  }

  #select(label, name) {
    return h("select", { "aria-label": label, onchange: (event) => this.#filter(name, event) });
  }

  #table() {
    const figure = (name, label, text = number, hint = null) => ({
      name, label, hint, num: true, value: (run) => run[name], cell: (run) => text(run[name]),
    });
    return new Table({
      caption: "Runs", key: (run) => run.run_id, sort: kept.sort,
      onSort: (sort) => {
        kept.sort = sort;
      },
      columns: [
        { name: "pick", label: "Pick", class: "pick", cell: (run) => this.#box(run),
          head: h("span", { class: "sr" }, "Pick for comparison") },
        { name: "run", label: "Run", rowHead: true, class: "run-cell", value: runName,
          cell: (run) => [
            h("a", { href: runLink(run.run_id), title: runName(run) }, runName(run)),
            run.baseline && h("span", { class: "badge" }, "baseline"),
            run.name && h("div", { class: "quiet id" }, run.run_id)] },
        { name: "state", label: "State", value: (run) => run.state,
          cell: (run) => stateNode(run.state) },
        { name: "recipe", label: "Recipe", value: (run) => run.recipe },
        { name: "score", label: "Score", num: true, value: (run) => run.score,
          hint: "the score on the test split, and the difference to the baseline run of the recipe",
          cell: (run) => this.#score(run) },
        figure("loss", "Test loss"),
        { name: "growth", label: "Growth", num: true, value: (run) => run.grafts,
          hint: "kernels grafted / kept / culled", cell: (run) => h("span", {
            title: `${number(run.grafts)} grafted, ${number(run.fossilized)} kept, `
              + `${number(run.culled)} culled`,
          }, `${number(run.grafts)} / ${number(run.fossilized)} / ${number(run.culled)}`) },
        { name: "parameters", label: "Parameters", num: true, value: (run) => run.parameters,
          hint: "host model → with kernels",
          cell: (run) => `${short(run.host_parameters)} → ${short(run.parameters)}` },
        figure("epochs", "Epochs"),
        { name: "steps", label: "Steps", num: true, value: (run) => run.steps,
          cell: (run) => h("span", {
            title: run.total_steps ? `of ${number(run.total_steps)}` : null,
          }, number(run.steps)) },
        figure("seed", "Seed"),
        figure("seconds", "Duration", shortDuration),
        { name: "started", label: "Started", num: true, value: (run) => run.started_at,
          cell: (run) => h("span", { title: moment(run.started_at) }, ago(run.started_at)) },
        { name: "tags", label: "Tags", value: (run) => run.tags.join(" "),
          cell: (run) => run.tags.map((tag) => h("span", { class: "tag" }, tag)) },
        { name: "note", label: "Note", class: "note-cell", value: (run) => run.note,
          cell: (run) => run.note && h("span", { title: run.note }, run.note) },
      ],
    });
  }

  #box(run) {
    return h("input", {
      type: "checkbox", "aria-label": `Pick ${runName(run)}`, checked: kept.picked.has(run.run_id),
      onchange: (event) => {
        if (event.target.checked) kept.picked.add(run.run_id);
        else kept.picked.delete(run.run_id);
        this.#picked();
      },
    });
  }

  #score(run) {
    const base = this.baselines.get(run.recipe);
    const differs = base && base.run_id !== run.run_id && base.score_name === run.score_name
      && Number.isFinite(run.score) && Number.isFinite(base.score);
    return [number(run.score),
      h("span", { class: "delta", title: differs ? `against ${runName(base)}` : null },
        differs && signed(run.score - base.score))];
  }

  #picked() {
    const ids = [...kept.picked];
    const enough = ids.length > 1 && ids.length <= MOST;
    this.compare.textContent = ids.length > MOST ? `At most ${MOST} can be compared`
      : ids.length > 1 ? `Compare ${ids.length} runs` : "Pick runs to compare";
    if (enough) this.compare.href = compareLink(ids);
    else this.compare.removeAttribute("href");
    this.compare.setAttribute("aria-disabled", String(!enough));
    this.clear.hidden = !ids.length;
  }

  #options() {
    const option = (value, label, chosen) =>
      h("option", { value, selected: value === chosen }, label);
    fill(this.state, option("", "all states", kept.state),
      STATES.map((one) => option(one, one.toLowerCase(), kept.state)));
    const recipes = [...new Set(this.runs.map((run) => run.recipe))].sort();
    if (kept.recipe && !recipes.includes(kept.recipe)) recipes.push(kept.recipe);
    fill(this.recipe, option("", "all recipes", kept.recipe),
      recipes.map((one) => option(one, one, kept.recipe)));
  }

  #filter(name, event) {
    kept[name] = event.target.value;
    this.#show();
  }

  async load() {
    try {
      const { runs, most, stack } = await get("/page/runs", {}, this.ended.signal);
      const before = new Map(this.runs.map((run) => [run.run_id, run]));
      // a run that did not change keeps its object, and so its row and the focus in it
      this.runs = runs.map((run) => {
        const known = before.get(run.run_id);
        return known && JSON.stringify(known) === JSON.stringify(run) ? known : run;
      });
      Object.assign(this, { most, stack, loaded: true, failed: false });
      this.app.solved();
      this.#baselines();
      this.#options();
      this.#show();
    } catch (error) {
      if (error.name === "AbortError") return;
      this.failed = true;
      this.app.problem(error, () => this.load());
      if (!this.loaded) fill(this.empty, h("p", { class: "note" }, "No runs to show yet."));
    }
  }

  #baselines() {
    const before = JSON.stringify([...this.baselines]);
    this.baselines = new Map(this.runs.filter((run) => run.baseline)
      .map((run) => [run.recipe, run]));
    // differences in every row of the recipe are others now
    if (JSON.stringify([...this.baselines]) !== before) {
      this.runs = this.runs.map((run) => ({ ...run }));
    }
  }

  #show() {
    if (!this.loaded) return;
    const words = kept.search.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = this.runs.filter((run) => {
      if (kept.state && run.state !== kept.state) return false;
      if (kept.recipe && run.recipe !== kept.recipe) return false;
      const text = [run.run_id, run.name, run.recipe, run.note, ...run.tags].join(" ");
      return words.every((one) => text.toLowerCase().includes(one));
    });
    this.table.set(shown, this.runs.length ? "No run fits: take back a filter." : "");
    this.table.box.hidden = !this.runs.length;
    this.tools.hidden = !this.runs.length;
    const full = this.runs.length >= this.most ? ` (the newest ${number(this.most)})` : "";
    const lag = this.stack?.lag > 0 ? ` · Nissa is ${count(this.stack.lag, "event")} behind` : "";
    this.total.textContent = this.runs.length
      ? `${number(shown.length)} of ${count(this.runs.length, "run")}${full}${lag}` : "";
    fill(this.empty, !this.runs.length && h("section", { class: "welcome" },
      h("h2", null, "No run yet"),
      h("p", null, "This command trains a small model that grows, in about a minute:"),
      command("esper run mnist1d"),
      h("p", { class: "quiet" }, "It appears here as soon as it starts.")));
  }

  #run(data) {
    if (!this.loaded) return;
    const at = this.runs.findIndex((run) => run.run_id === data.run_id);
    if (at < 0) {
      const asked = this.unknown.get(data.run_id) || 0;
      if (asked >= MISSES) return;
      this.unknown.set(data.run_id, asked + 1);
      this.reload();
      return;
    }
    const old = this.runs[at];
    // a Nissa that reads what she missed tells of steps that the history has shown already
    if (data.state === old.state && data.steps < old.steps) return;
    const run = { ...old };
    for (const name of ["state", "epochs", "steps", "loss", "accuracy"]) {
      if (data[name] !== undefined && data[name] !== null) run[name] = data[name];
    }
    if (run.state !== old.state) {
      say(`${runName(run)} is ${run.state.toLowerCase()}.`);
      this.reload();
    }
    this.runs[at] = run;
    this.#soon();
  }

  #soon() {
    this.timer ||= setTimeout(() => {
      this.timer = 0;
      // new rows would take the reader's focus from a link or a box in them
      const focused = this.table.body.contains(document.activeElement) && document.activeElement;
      const label = focused && (focused.getAttribute("aria-label") || focused.textContent);
      this.#show();
      if (focused && !focused.isConnected) {
        [...this.table.body.querySelectorAll("a, input")].find((one) =>
          (one.getAttribute("aria-label") || one.textContent) === label)?.focus();
      }
    }, 500);
  }

  destroy() {
    this.ended.abort();
    this.stream.close();
    this.reload.cancel();
    clearTimeout(this.timer);
  }
}

/** The view of all runs. */
export function runsView(app) {
  return new RunsView(app);
}
