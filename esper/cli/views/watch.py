"""`esper watch [RUN]`: a run as it goes, in a terminal: curves, seeds by stage, decisions."""

from __future__ import annotations

import itertools
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from esper.errors import UsageError, printable
from esper.json_text import json_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import RenderableType

    from esper.history.queries import QuerySource

_EVERY_S = 1.0
_DECISIONS = 6
_ALERTS = 3
_ALERTS_EVERY = 10
"""Drawings between two looks for alerts, which read many more rows than curves do."""
_EXAMINED = 2_000
"""Events of each kind that are looked at for alerts, the latest."""
_SEEDS = 24
"""Seeds that are shown; of more, those that did something."""
_WIDTH = 60  # characters of a seed's line
_STAGES = {
    "DORMANT": ("·", "bright_black"),
    "GERMINATED": ("g", "cyan"),
    "TRAINING": ("t", "cyan"),
    "BLENDING": ("b", "yellow"),
    "SHADOWING": ("s", "yellow"),
    "PROBATIONARY": ("p", "yellow"),
    "FOSSILIZED": ("█", "green"),
    "CULLED": ("x", "red"),
    "EMBARGOED": ("e", "red"),
    "RESETTING": ("r", "magenta"),
    "TERMINATED": ("-", "bright_black"),
}
"""A letter for each stage, so that colours say nothing that is not written too."""
_OVER = ("FINISHED", "INTERRUPTED", "FAILED")
_LATEST = "SELECT run_id FROM runs WHERE NOT deleted ORDER BY started_at DESC LIMIT 1"
_RUN = "SELECT * FROM runs WHERE run_id = {run:String}"
_EPOCHS = """
SELECT epoch + 1 AS epoch, step, train_loss, validation_loss, score, score_name FROM epoch_ended
WHERE run_id = {run:String} ORDER BY sequence
"""
_STEPS = """
SELECT intDiv(step * 60, {total:Int64} + 1) AS place, avg(loss) AS loss
FROM training_step WHERE run_id = {run:String} GROUP BY place ORDER BY place
"""
_INVENTORY = """
SELECT layers.name AS names, layers.chunks AS chunks FROM run_started
WHERE run_id = {run:String} LIMIT 1
"""
_MOVES = """
SELECT layer, seed, step, toString(to_stage) AS stage FROM seed_transitioned
WHERE run_id = {run:String} ORDER BY sequence
"""
_DECIDED = """
SELECT epoch, command, layer, seed, family, confidence, answer, verdict, shadow_gap, decision_id
FROM decisions WHERE run_id = {run:String} ORDER BY decided_at DESC, layer, seed LIMIT 6
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("watch")(watch)


def watch(
    run: Annotated[
        str, typer.Argument(metavar="[RUN]", help="The run (`esper runs`); the latest, if none.")
    ] = "",
    *,
    once: Annotated[
        bool, typer.Option("--once", help="Show it as it is now, and end; so does a pipe.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, once.")] = False,
) -> None:
    """Show a run as it goes: curves, what each seed is at, and the latest decisions."""
    from esper.cli.shared.tables import open_history  # noqa: PLC0415 - `esper --help` waits for nothing that a command needs
    from esper.clock import SystemClock  # noqa: PLC0415 - as above

    with open_history() as history:
        latest = [] if run else history.rows(_LATEST)
        if not run and not latest:
            raise UsageError("No run is in the history yet; `esper run mnist1d` makes one.")
        wanted = run or latest[0]["run_id"]
        clock = SystemClock()
        seen = _seen(history, wanted)
        seen["alerts"] = _alerts(history, seen["run"], clock.now_us())
        if as_json:
            print(json_text(seen))
        elif once or not sys.stdout.isatty():
            _print(seen)
        else:
            _live(history, wanted, seen, clock)


def _live(history: QuerySource, run: str, seen: dict[str, Any], clock: Any) -> None:
    """Show it anew each second, until the run is over or Ctrl-C."""
    from rich.console import Console  # noqa: PLC0415 - as above
    from rich.live import Live  # noqa: PLC0415 - as above

    with Live(_picture(seen), console=Console(), auto_refresh=False) as live:
        for drawing in itertools.count(1):
            if seen["run"]["state"] in _OVER:
                return
            clock.sleep(_EVERY_S)
            alerts = seen["alerts"]
            seen = _seen(history, run)
            if drawing % _ALERTS_EVERY == 0 or seen["run"]["state"] in _OVER:
                alerts = _alerts(history, seen["run"], clock.now_us())
            seen["alerts"] = alerts
            live.update(_picture(seen), refresh=True)


def _print(seen: Mapping[str, Any]) -> None:
    from rich.console import Console  # noqa: PLC0415 - as above

    console = Console() if sys.stdout.isatty() else Console(width=200)
    console.print(_picture(seen))


def _seen(history: QuerySource, run: str) -> dict[str, Any]:
    """What the history has of a run now.

    Raises:
        UsageError: it has no such run.
    """
    mine = {"param_run": run}
    rows = history.rows(_RUN, mine)
    if not rows:
        raise UsageError(f"There is no run {run} in the history; `esper runs` lists them.")
    (one,) = rows
    (layers, *_) = [*history.rows(_INVENTORY, mine), {"names": [], "chunks": []}]
    return {
        "run": one,
        "epochs": history.rows(_EPOCHS, mine),
        "train": history.rows(_STEPS, mine | {"param_total": str(max(1, one["total_steps"]))}),
        "seeds": [
            [name, index]
            for name, chunks in zip(layers["names"], layers["chunks"], strict=True)
            for index in range(len(chunks))
        ],
        "moves": history.rows(_MOVES, mine),
        "decisions": history.rows(_DECIDED, mine),
    }


def _alerts(history: QuerySource, run: dict[str, Any], now_us: int) -> list[dict[str, Any]]:
    """What is wrong with a run now, the worst first."""
    from esper.cli.views.alerts import examined, open_of  # noqa: PLC0415 - as above

    (one,) = examined(history, [run], now_us, most=_EXAMINED)
    return [
        {
            "severity": alert.severity,
            "detector": alert.subject.detector,
            "step": alert.step,
            "sentence": alert.sentence,
        }
        for alert in open_of(one)
    ]


def _picture(seen: Mapping[str, Any]) -> RenderableType:
    """All of it for a terminal."""
    from rich.console import Group  # noqa: PLC0415 - as above

    return Group(
        _head(seen["run"]), *_alarms(seen), "", _curves(seen), "", *_seeds(seen), "", _decided(seen)
    )


def _head(one: Mapping[str, Any]) -> RenderableType:
    from rich.text import Text  # noqa: PLC0415 - as above

    grown = one["parameters"] - one["host_parameters"]
    return Text(
        printable(
            f"{one['run_id']}  {one['recipe']}, {one['state']}: epoch {one['epochs']}, step "
            f"{one['steps']:,} of {one['total_steps']:,}, {one['seconds']:.0f} s; "
            f"{one['parameters']:,} parameters (+{grown:,})"
        ),
        style="bold",
    )


def _alarms(seen: Mapping[str, Any]) -> list[RenderableType]:
    """A line for each of the worst alerts that hold."""
    from rich.text import Text  # noqa: PLC0415 - as above

    alerts = seen["alerts"]
    lines: list[RenderableType] = [
        Text(
            printable(f"{one['severity']}  {one['sentence']}"),
            style="bold red" if one["severity"] == "CRITICAL" else "yellow",
        )
        for one in alerts[:_ALERTS]
    ]
    more = len(alerts) - len(lines)
    if more:
        run = seen["run"]["run_id"]
        lines.append(Text(printable(f"and {more} more: esper alerts {run}"), style="bright_black"))
    return lines


def _curves(seen: Mapping[str, Any]) -> RenderableType:
    from rich.markup import escape  # noqa: PLC0415 - as above
    from rich.table import Table  # noqa: PLC0415 - as above

    from esper.cli.shared.plots import spark  # noqa: PLC0415 - as above

    epochs = seen["epochs"]
    score = next((one["score_name"] for one in reversed(epochs)), "") or "accuracy"
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, points in (
        ("train loss", [one["loss"] for one in seen["train"]]),
        ("held-out loss", [one["validation_loss"] for one in epochs]),
        (f"held-out {score}", [one["score"] for one in epochs] if score != "loss" else []),
    ):
        # a loss that is not finite is null
        known = [one for one in points if one is not None]
        if known:
            span = f"{known[0]:.4g} to {known[-1]:.4g}"
            table.add_row(escape(printable(name)), spark(known), span)
    if not table.row_count:
        table.add_row("no step was told yet")
    return table


def _seeds(seen: Mapping[str, Any]) -> list[RenderableType]:
    """A line for each seed, steps across, a letter for its stage."""
    from rich.text import Text  # noqa: PLC0415 - as above

    run, moves = seen["run"], seen["moves"]
    total, now = max(1, run["total_steps"]), run["steps"]
    paths: dict[tuple[str, int], list[tuple[int, str]]] = {
        (name, index): [] for name, index in seen["seeds"]
    }
    for move in moves:
        paths.setdefault((move["layer"], move["seed"]), []).append((move["step"], move["stage"]))
    shown = [place for place, path in paths.items() if path] if len(paths) > _SEEDS else [*paths]
    longest = max((len(f"{name}[{index}]") for name, index in shown[:_SEEDS]), default=0)
    lines: list[RenderableType] = []
    for name, index in shown[:_SEEDS]:
        line = Text(printable(f"{name}[{index}]").ljust(longest + 2))
        for column in range(_WIDTH):
            step = total * column // _WIDTH
            if step > now:
                break
            stage = "DORMANT"
            for at, one in paths[name, index]:
                # what a rollback undid stands before it with a later step, and is written over
                if at <= step:
                    stage = one
            letter, style = _STAGES.get(stage, ("?", ""))
            line.append(letter, style=style)
        lines.append(line)
    left = len(paths) - len(lines)
    if left:
        lines.append(Text(f"and {left} more seeds", style="bright_black"))
    met = {"DORMANT", *(move["stage"] for move in moves)}
    legend = Text()
    for stage, (letter, style) in _STAGES.items():
        if stage in met:
            legend.append(f"{letter} ", style=style).append(f"{stage.lower()}  ")
    return [*lines, legend]


def _decided(seen: Mapping[str, Any]) -> RenderableType:
    from rich.markup import escape  # noqa: PLC0415 - as above
    from rich.table import Table  # noqa: PLC0415 - as above

    if not seen["decisions"]:
        return "Tamiyo has decided nothing yet."
    table = Table(box=None, pad_edge=False)
    for name in ("epoch", "decision", "", "sure", "answer", "outcome"):
        table.add_column(name)
    for one in itertools.islice(seen["decisions"], _DECISIONS):
        verdict = one["verdict"]
        outcome = "" if verdict is None else f"{verdict} {one['shadow_gap']:+.4f} nats"
        cells = (
            str(one["epoch"]),
            one["decision_id"][:8],
            f"{one['command']} {one['family']} {one['layer']}[{one['seed']}]",
            f"{one['confidence']:.2f}",
            one["answer"],
            outcome,
        )
        table.add_row(*(escape(printable(cell)) for cell in cells))
    return table
