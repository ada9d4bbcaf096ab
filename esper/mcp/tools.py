"""The tools: what each is for, its arguments, and the command of `esper` that it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from esper.bounded.names import RUN_ID
from esper.errors import UsageError

_ID: Final = "[0-9A-Za-z-]{4,64}"
_SETTING: Final = r"^[a-z_]+(\.[a-z_]+)+=(true|false|-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?)$"
_SECTIONS: Final = "optimizer.learning_rate, gates, kernels, guardrails, tamiyo.policy"
MOST: Final = 100
"""Entries of a list that an answer has, unless more are asked for."""
Words = Callable[[Mapping[str, Any]], list[str]]


@dataclass(frozen=True, slots=True)
class Tool:
    """One of them.

    Attributes:
        name: What an agent calls it by.
        title: The same for people.
        description: When to use it, and what it gives.
        words: The arguments of the command `esper`, made of checked ones.
        properties: JSON Schema of each argument.
        required: Those that have to be given.
        listing: The key of the answer that holds a list, which is cut to `most`; `rows` where the
            command prints a list alone. Empty where nothing is cut.
        operates: Whether it trains or writes, and needs an operator's token.
    """

    name: str
    title: str
    description: str
    words: Words
    properties: Mapping[str, Any] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    listing: str = ""
    operates: bool = False

    @property
    def schema(self) -> dict[str, Any]:
        """JSON Schema of the arguments."""
        properties = dict(self.properties)
        if self.listing:
            properties["most"] = {
                "type": "integer",
                "minimum": 1,
                "maximum": 10_000,
                "default": MOST,
                "description": "Entries of the list that come back; the answer says how many "
                "there are.",
            }
        return {
            "type": "object",
            "properties": properties,
            "required": list(self.required),
            "additionalProperties": False,
        }


def _run(description: str = "A run's id, of list_runs.") -> dict[str, Any]:
    return {"type": "string", "pattern": f"^{RUN_ID}$", "description": description}


def _id(description: str) -> dict[str, Any]:
    return {"type": "string", "pattern": f"^{_ID}$", "description": description}


def _options(given: Mapping[str, Any], **options: str) -> Iterator[str]:
    """The options whose arguments were given, `--name=value`."""
    for argument, option in options.items():
        value = given.get(argument)
        for one in value if isinstance(value, list) else [value]:
            if one is True:
                yield option
            elif one not in (None, False):
                yield f"{option}={one}"


def _list_runs(given: Mapping[str, Any]) -> list[str]:
    options = _options(given, tags="--tag", state="--state", recipe="--recipe", deleted="--deleted")
    return ["runs", *options, "--json"]


def _list_decisions(given: Mapping[str, Any]) -> list[str]:
    # a run's id has no quotes, by its pattern
    query = (
        "SELECT decision_id, epoch, step, timeline, command, layer, seed, family, kernel_id, "  # noqa: S608  # as said
        "confidence, urgency, expected_impact, reason, answer, rejected_because, verdict, "
        f"shadow_gap FROM decisions WHERE run_id = '{given['run']}' ORDER BY decided_at"
    )
    return ["sql", "--format=json", "--", query]


def _what_if(given: Mapping[str, Any]) -> list[str]:
    options = _options(given, decision="--decision", orders="--orders", until_epoch="--until")
    return ["whatif", *options, "--json", "--", given["run"]]


def _compare_runs(given: Mapping[str, Any]) -> list[str]:
    # `esper compare` takes files too, and an agent is not to read those of the server's folder
    if files := [run for run in given["runs"] if Path(run).exists()]:
        raise UsageError(f"{', '.join(files)} names a file here, and no run.")
    return ["compare", "--json", "--", *given["runs"]]


def _fork_run(given: Mapping[str, Any]) -> list[str]:
    names = {"step": "--step", "run_id": "--run-id", "settings": "--set", "without": "--without"}
    return ["fork", *_options(given, **names), "--json", "--", given["run"]]


TOOLS: Final = (
    Tool(
        "list_runs",
        "List runs",
        "What has run in this installation, the latest first: recipe, state, epochs, steps, score "
        "and loss on the test split, kernels grafted, kept (fossilized) and culled, parameters, "
        "tags, note, parent of a fork.",
        _list_runs,
        {
            "state": {
                "enum": ["RUNNING", "PAUSED", "FINISHED", "INTERRUPTED", "FAILED"],
                "description": "Only runs in this state.",
            },
            "recipe": {"type": "string", "maxLength": 200, "description": "Only of this recipe."},
            "tags": {
                "type": "array",
                "items": {"type": "string", "maxLength": 200},
                "maxItems": 20,
                "description": "Only runs with each of these tags.",
            },
            "deleted": {"type": "boolean", "description": "Deleted runs, and no others."},
        },
        listing="rows",
    ),
    Tool(
        "list_decisions",
        "List a run's decisions",
        "What Tamiyo decided in a run, in order: command (GERMINATE grafts a kernel, FOSSILISE "
        "keeps it, CULL gives it up), layer, seed, reason, the trainer's answer and the outcome. "
        "explain_decision tells more of one.",
        _list_decisions,
        {"run": _run()},
        ("run",),
        listing="rows",
    ),
    Tool(
        "explain_decision",
        "Explain a decision",
        "One decision with its evidence, the commands beside it, every stage of the kernel, what "
        "what-if has measured of it, and the run's held-out losses.",
        lambda given: ["explain", "--json", "--", given["decision"]],
        {"decision": _id("The decision's id, or its beginning.")},
        ("decision",),
    ),
    Tool(
        "compare_runs",
        "Compare runs",
        "What differs between runs: settings, environment, decisions, kernels, curves.",
        _compare_runs,
        {
            "runs": {
                "type": "array",
                "items": _run(),
                "minItems": 2,
                "maxItems": 20,
                "description": "Ids of runs.",
            }
        },
        ("runs",),
    ),
    Tool(
        "find_alerts",
        "Find what went wrong",
        "What detectors find in a run's events: losses that spike or diverge, gradients that "
        "explode or vanish, dead layers, stuck seeds, slow steps, kernels that fail; and the trend "
        "of the held-out loss. Without a run: those that train, and the latest.",
        lambda given: ["alerts", "--json", *(["--", given["run"]] if "run" in given else [])],
        {"run": _run()},
        listing="rows",
    ),
    Tool(
        "audit_run",
        "Audit a run",
        "The report for auditors: who decided what, kernels and their lineage, estimated compute, "
        "and whether every signature, digest and snapshot holds. What does not hold is named.",
        lambda given: ["audit", "--json", "--", given["run"]],
        {"run": _run()},
        ("run",),
    ),
    Tool(
        "list_kernels",
        "List kernels",
        "Published kernels, those first whose grafts were worth most.",
        lambda given: [
            "kernels",
            "ls",
            *_options(given, family="--family", grafted="--grafted"),
            "--json",
        ],
        {
            "family": {"type": "string", "maxLength": 200, "description": "Only of this family."},
            "grafted": {"type": "boolean", "description": "Only those that some run has tried."},
        },
        listing="rows",
    ),
    Tool(
        "show_kernel",
        "Show a kernel",
        "What a kernel computes, what it descends from, where it was grafted, what came of it.",
        lambda given: ["kernels", "show", "--json", "--", given["kernel"]],
        {"kernel": _id("The kernel's id, or its beginning.")},
        ("kernel",),
    ),
    Tool(
        "list_tables",
        "List tables of the history",
        "Tables and views for query_history, with what each holds. DESCRIBE TABLE name gives the "
        "columns of one.",
        lambda _: ["sql", "--format=json"],
        listing="rows",
    ),
    Tool(
        "query_history",
        "Query the history",
        "One SELECT, SHOW, DESCRIBE, EXPLAIN or EXISTS in ClickHouse SQL over all events: runs, "
        "decisions, training_step, epoch_ended, seed_transitioned, seed_health and more. It "
        "cannot change anything. Aggregate there instead of fetching steps.",
        lambda given: ["sql", "--format=json", "--", given["query"]],
        {"query": {"type": "string", "minLength": 1, "maxLength": 20_000, "description": "SQL."}},
        ("query",),
        listing="rows",
    ),
    Tool(
        "rebuild_state",
        "Rebuild a state",
        "Rebuild the run's state after a step from its snapshot and journal, and give its digests. "
        "Takes seconds to minutes.",
        lambda given: ["replay", "state", f"--step={given['step']}", "--json", "--", given["run"]],
        {
            "run": _run(),
            "step": {"type": "integer", "minimum": 0, "description": "Optimizer steps done."},
        },
        ("run", "step"),
        operates=True,
    ),
    Tool(
        "fork_run",
        "Fork a run",
        "Train on from a step of a run as a run of its own, with settings changed or decisions "
        "left out, to its end. Takes as long as the rest of the run.",
        _fork_run,
        {
            "run": _run("The run to fork."),
            "step": {"type": "integer", "minimum": 0, "description": "Where the fork begins."},
            "run_id": _run("The fork's name; one is made when none is given."),
            "settings": {
                "type": "array",
                "items": {"type": "string", "pattern": _SETTING, "maxLength": 200},
                "maxItems": 50,
                "description": "section.key=value with numbers, true or false: "
                f"{_SECTIONS} and more.",
            },
            "without": {
                "type": "array",
                "items": _id("A decision's id, or its beginning."),
                "maxItems": 50,
                "description": "Applied decisions that are left out; without step, the fork "
                "begins where the first was applied.",
            },
        },
        ("run",),
        operates=True,
    ),
    Tool(
        "what_if",
        "Measure what a decision was worth",
        "Train both branches of an applied decision, with and without it, over several orders of "
        "the batches: effect on score and loss with a 95 % interval. Takes 2 x orders times the "
        "rest of the run.",
        _what_if,
        {
            "run": _run(),
            "decision": _id("An applied decision's id, or its beginning."),
            "orders": {
                "type": "integer",
                "minimum": 1,
                "maximum": 100,
                "description": "Pairs of runs.",
            },
            "until_epoch": {
                "type": "integer",
                "minimum": 1,
                "description": "Where the branches end, in epochs of the run.",
            },
        },
        ("run", "decision"),
        operates=True,
    ),
)
"""All of them; those that operate come last."""
