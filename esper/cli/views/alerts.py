"""`esper alerts [RUN]`: what went wrong in runs, found in their recorded events."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from esper.errors import UsageError, printable
from esper.json_text import json_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.anomalies import Alert, Finding
    from esper.anomalies.trends import Slope
    from esper.events import Event
    from esper.history.queries import QuerySource

_RUN = "SELECT run_id, recipe, state FROM runs WHERE run_id = {run:String}"
_RUNS = """
SELECT run_id, recipe, state FROM runs WHERE NOT deleted
ORDER BY state IN ('RUNNING', 'PAUSED') DESC, started_at DESC LIMIT 20
"""
_MOST = 100_000
"""Events of each kind that are read of a run, the latest; of a longer run its end is examined."""
_OVER = ("FINISHED", "INTERRUPTED", "FAILED")
_SHOWN = ("severity", "state", "epoch", "step", "what", "where", "happened")


@dataclass(frozen=True, slots=True)
class Examined:
    """What the detectors make of one run.

    Attributes:
        run: Its row of the history: run_id, recipe, state.
        alerts: In the order in which they were raised, those that are over among them.
        limited: How many more were not raised, because of the limit an hour.
        trend: Slope of the held-out loss, nats an epoch; None before the third epoch.
        changes: Epochs from which on the held-out loss follows another line.
        cut: Kinds of events of which only the latest were read, because there are too many.
    """

    run: dict[str, Any]
    alerts: list[Alert]
    limited: int
    trend: Slope | None
    changes: list[int]
    cut: tuple[str, ...] = ()


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("alerts")(alerts)


def alerts(
    run: Annotated[
        str,
        typer.Argument(
            metavar="[RUN]",
            help="The run (`esper runs`); without one, those that have not ended and the latest, "
            "20 together.",
        ),
    ] = "",
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a run, in a list.")
    ] = False,
) -> None:
    """Say what went wrong in runs: losses, gradients, layers, seeds, steps, kernels."""
    from esper.cli.shared.tables import open_history  # noqa: PLC0415 - `esper --help` waits for nothing that a command needs
    from esper.clock import SystemClock  # noqa: PLC0415 - as above

    with open_history() as history:
        runs = history.rows(_RUN, {"param_run": run}) if run else history.rows(_RUNS)
        if run and not runs:
            raise UsageError(f"There is no run {run} in the history; `esper runs` lists them.")
        if not runs:
            raise UsageError("No run is in the history yet; `esper run mnist1d` makes one.")
        found = examined(history, runs, SystemClock().now_us())
    if as_json:
        print(json_text([_told(one) for one in found]))
        return
    for number, one in enumerate(found):
        if number:
            print()
        _show(one)


def examined(
    history: QuerySource, runs: Sequence[dict[str, Any]], now_us: int, *, most: int = _MOST
) -> list[Examined]:
    """What the detectors make of some runs, rows with run_id and state, at a time.

    They see the `most` latest events of each kind and run.

    Raises:
        UsageError, UnavailableError: as `QuerySource.ask` does.
    """
    from esper.anomalies import READ  # noqa: PLC0415 - as above
    from esper.history.stored_events import events_of  # noqa: PLC0415 - as above

    events = events_of(history, READ, [run["run_id"] for run in runs], most=most)
    return [
        replace(_examined(run, found.events, now_us), cut=found.cut)
        for run in runs
        for found in (events[run["run_id"]],)
    ]


def _examined(run: dict[str, Any], events: Sequence[Event], now_us: int) -> Examined:
    from esper.anomalies import AlertBook, AlertRules, Observer, fold  # noqa: PLC0415 - as above
    from esper.anomalies.trends import change_points, slope  # noqa: PLC0415 - as above
    from esper.events.records import EpochEnded  # noqa: PLC0415 - as above

    observer, book, rules = Observer(), AlertBook(), AlertRules()
    told: dict[tuple[Any, int], Alert] = {}

    def take(findings: Sequence[Finding]) -> None:
        nonlocal book
        book, changes = fold(book, findings, rules)
        for change in changes:
            told[change.alert.subject, change.alert.raised_us] = change.alert

    for event in events:
        take(observer.see(event))
    take(observer.at(now_us))
    # those that still hold have been counted on since they were raised
    told |= {(one.subject, one.raised_us): one for one in book.open}
    # of an epoch that was done again after a rollback, the latest
    losses = {one.epoch: one.validation_loss for one in events if isinstance(one, EpochEnded)}
    epochs, values = sorted(losses), [losses[epoch] for epoch in sorted(losses)]
    return Examined(
        run,
        sorted(told.values(), key=lambda one: one.raised_us),
        sum(book.limited.values()),
        slope(values),
        [epochs[place] + 1 for place in change_points(values)],
    )


def open_of(one: Examined) -> list[Alert]:
    """Alerts of a run that hold, the worst first."""
    held = [alert for alert in one.alerts if alert.resolved_us is None]
    return sorted(held, key=lambda alert: alert.severity != "CRITICAL")


def _show(one: Examined) -> None:
    from esper.cli.shared.tables import show_table  # noqa: PLC0415 - as above

    run = one.run
    print(printable(f"Run {run['run_id']} ({run['recipe']}, {run['state']}): {_summary(one)}"))
    if one.alerts:
        show_table(list(_SHOWN), [_row(alert, run["state"]) for alert in one.alerts])
    if one.cut:
        print(f"Only the latest {_MOST:,} of these events were read: {', '.join(one.cut)}.")
    if one.trend is not None:
        print(_trend(one.trend, one.changes))


def _summary(one: Examined) -> str:
    if not one.alerts:
        return "no alerts."
    held = len(open_of(one))
    many = "1 alert" if len(one.alerts) == 1 else f"{len(one.alerts)} alerts"
    when = "at its end" if one.run["state"] in _OVER else "now"
    more = f"; {one.limited} more were above the limit of an hour" if one.limited else ""
    return f"{many}, {held} of which held {when}{more}." if held else f"{many}, all over{more}."


def _row(alert: Alert, state: str) -> list[Any]:
    """Cells for people: names and sentences of others without what moves a terminal."""
    subject = alert.subject
    seed = f"[{subject.seed}]" if subject.seed >= 0 else ""
    held = "held to the end" if state in _OVER else "open"
    return [
        alert.severity,
        held if alert.resolved_us is None else "over",
        "" if alert.epoch < 0 else str(alert.epoch),
        "" if alert.step < 0 else str(alert.step),
        subject.detector,
        printable(f"{subject.layer}{seed}"),
        printable(alert.sentence),
    ]


def _trend(trend: Slope, changes: Sequence[int]) -> str:
    says = "neither falls nor rises" if trend.direction == "level" else trend.direction
    bends = f"; another line from epoch {', '.join(map(str, changes))} on" if changes else ""
    return (
        f"Held-out loss {says}: {trend.slope:+.3g} nats an epoch, 95 % between {trend.low:+.3g} "
        f"and {trend.high:+.3g}{bends}."
    )


def _told(one: Examined) -> dict[str, Any]:
    """The same for scripts."""
    from dataclasses import asdict  # noqa: PLC0415 - as above

    alerts = []
    for alert in one.alerts:
        fields = asdict(alert)
        subject = fields.pop("subject")
        alerts.append({**subject, "open": alert.resolved_us is None, **fields})
    trend = None if one.trend is None else {**asdict(one.trend), "changes": one.changes}
    return {
        **one.run,
        "alerts": alerts,
        "limited": one.limited,
        "latest_only": list(one.cut),
        "held_out_loss": trend,
    }
