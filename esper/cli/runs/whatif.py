"""`esper whatif RUN --decision D`: what one decision was worth."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from esper.cli.shared.options import Allow
from esper.errors import EsperError, UnavailableError
from esper.json_text import json_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console

    from esper.clock import Clock
    from esper.config import Settings
    from esper.events import JournalEvent
    from esper.journal.effect import Branch, Effect, Interval
    from esper.stack import Endpoints
    from esper.tolaria.record.forking import Cut
    from esper.tolaria.timelines.whatif import Question, Side, WhatIfResult

LISTED = 12  # lines of what was dropped or refused that are shown to people; --json has all


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("whatif")(whatif)


def whatif(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="The run (`esper runs`).")],
    *,
    decision: Annotated[
        str,
        typer.Option(
            "--decision",
            help=(
                "An applied decision, by the beginning of its id (`esper sql 'SELECT * FROM "
                "decisions'`)."
            ),
        ),
    ],
    mode: Annotated[
        Literal["open", "closed"],
        typer.Option(
            "--mode",
            help=(
                "open: later decisions come as in the record, in this process; closed: Tamiyo "
                "decides anew, in forks."
            ),
        ),
    ] = "open",
    orders: Annotated[
        int,
        typer.Option(
            "--orders",
            help="Pairs of runs; all but the first have other batch orders after the fork.",
        ),
    ] = 5,
    until: Annotated[
        int | None,
        typer.Option(
            "--until", help="Epochs, counted from the run's first, after which the branches end."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="The picture, .svg, .png or .pdf; beside the kept answer, if left out."
        ),
    ] = None,
    allow: Allow = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="The last line of standard output is the answer as one JSON object."
        ),
    ] = False,
) -> None:
    """Run both branches of a decision, with and without it, and tell its effect on accuracy and
    loss with a 95 % interval.
    """
    from rich.console import Console  # noqa: PLC0415 - `esper --help` waits for nothing that a command needs

    from esper.cli.shared.consoles import standard_error  # noqa: PLC0415 - `esper --help` waits for nothing that a command needs
    from esper.cli.shared.plots import require_format  # noqa: PLC0415 - the same
    from esper.clock import SystemClock  # noqa: PLC0415 - the same
    from esper.config import Settings  # noqa: PLC0415 - the same
    from esper.tolaria.recipes.run_names import require_run_id  # noqa: PLC0415 - the same

    require_run_id(run_id)
    if out:
        require_format(out)
    settings, clock, console = Settings.load(), SystemClock(), standard_error()
    if mode == "open":
        from esper.cli.shared.journal_sources import journal  # noqa: PLC0415 - as above

        events, _ = journal(settings, run_id, clock=clock, say=console.print)
        answer = _open(
            _question(events, decision, orders, until), settings, clock, console, tuple(allow or ())
        )
        unsent = _sent(answer, settings, clock, console)
    else:
        answer, unsent = _closed(
            run_id, decision, orders, until, settings, clock, console, tuple(allow or ())
        )
    from esper.tolaria.timelines.whatif import keep  # noqa: PLC0415 - as above

    kept = keep(answer, settings.runs_dir / run_id / "whatif")
    picture = out or kept.with_suffix(".svg")
    draw(picture, answer)
    if as_json:
        print(json_text(answer.as_json(), sort_keys=True), flush=True)
    else:
        show(Console(), answer)
        print(f"\nPicture  {picture}\nAnswer   {kept}")
    if unsent is not None:
        raise UnavailableError(f"The answer is in {kept}, and not on Kafka: {unsent}")


def _sent(
    answer: WhatIfResult, settings: Settings, clock: Clock, console: Console
) -> EsperError | None:
    """Send the answer as an event, if there is a Kafka.

    Gives what was in the way: branches that took minutes are not lost for that.
    """
    from esper import stack  # noqa: PLC0415 - as above
    from esper.cli.shared.audited import audited  # noqa: PLC0415 - as above
    from esper.cli.shared.connection import cluster_of  # noqa: PLC0415 - as above
    from esper.events.seals import OPERATOR  # noqa: PLC0415 - as above
    from esper.oona.bus.kafka import KafkaBus  # noqa: PLC0415 - as above
    from esper.oona.durable.run_notes import send  # noqa: PLC0415 - as above
    from esper.service.transport import signing  # noqa: PLC0415 - as above
    from esper.tolaria.timelines.whatif import measured  # noqa: PLC0415 - as above

    if stack.running(settings) is None and not settings.kafka.bootstrap:
        console.print(
            "The stack is down, so the answer is a file alone; `esper up`, and ask again, to have "
            "it in SQL.",
            style="dim",
        )
        return None
    event = measured(answer, actor=getpass.getuser(), clock=clock)
    resource = f"decision {event.decision_id}"
    try:
        cluster = cluster_of(settings, "operator")
        with audited(
            settings, clock, cluster, action="whatif", resource=resource, run_id=event.run_id
        ):
            send(KafkaBus(cluster), signing.ensure(settings.keys_dir, OPERATOR, clock), event)
    except EsperError as error:
        return error
    return None


def _question(
    events: Sequence[JournalEvent], decision: str, orders: int, until: int | None
) -> Question:
    from esper.journal.reading import whole  # noqa: PLC0415 - as above
    from esper.tolaria.record.forking import decision_of  # noqa: PLC0415 - as above
    from esper.tolaria.timelines.whatif import asked  # noqa: PLC0415 - as above

    return asked(whole(events), decision_of(events, decision), orders=orders, until=until)


def _open(
    question: Question, settings: Settings, clock: Clock, console: Console, allow: tuple[str, ...]
) -> WhatIfResult:
    from esper.tolaria.replay.archive import Archived  # noqa: PLC0415 - as above
    from esper.tolaria.session.progress import Progress  # noqa: PLC0415 - as above
    from esper.tolaria.timelines.whatif import open_loop  # noqa: PLC0415 - as above

    progress = Progress(console)
    archive = Archived(settings, tuple(question.events), allow=allow).open(clock, progress.say)
    return open_loop(question, archive, progress, clock=clock)


def _closed(
    run_id: str,
    decision: str,
    orders: int,
    until: int | None,
    settings: Settings,
    clock: Clock,
    console: Console,
    allow: tuple[str, ...],
) -> tuple[WhatIfResult, EsperError | None]:
    from esper.cli.runs.run import on_stack  # noqa: PLC0415 - as above

    def both(endpoints: Endpoints) -> tuple[WhatIfResult, EsperError | None]:
        from esper.journal.reading import on_kafka  # noqa: PLC0415 - as above
        from esper.oona.bus.access import Access  # noqa: PLC0415 - as above
        from esper.service.transport import signing  # noqa: PLC0415 - as above
        from esper.tolaria.recipes.run_names import named  # noqa: PLC0415 - as above
        from esper.tolaria.timelines.branching import Ground, fork_apart  # noqa: PLC0415 - as above
        from esper.tolaria.timelines.whatif import closed_loop  # noqa: PLC0415 - as above

        cluster = Access.of(settings, "trainer", bootstrap=endpoints.bootstrap)
        trust = signing.trust(settings.keys_dir)
        question = _question(
            on_kafka(cluster, run_id, clock=clock, trust=trust, say=console.print),
            decision,
            orders,
            until,
        )
        ground = Ground(settings, cluster, endpoints.history_url, clock, console, allow)
        begun = named(f"{run_id}-whatif", clock)

        def run(cut: Cut, side: Side, order: int) -> tuple[str, Sequence[JournalEvent]]:
            name = f"{begun}-{side}-{order}"
            fork_apart(
                ground,
                question.events,
                cut,
                overrides=[f"run.order={order}"] if order else [],
                run_id=name,
                until=question.epochs,
                reason=(
                    f"What if: {side} decision {question.decision.decision_id}, data order {order}."
                ),
            )
            return name, on_kafka(cluster, name, clock=clock, trust=trust, say=console.print)

        answer = closed_loop(question, run, clock=clock)
        # here, because a stack that was started for the branches ends with them
        return answer, _sent(answer, settings, clock, console)

    return on_stack(settings, clock, console, both)


def show(console: Console, answer: WhatIfResult) -> None:
    """Print the answer."""
    from rich.table import Table  # noqa: PLC0415 - as above

    from esper.cli.shared import scores  # noqa: PLC0415 - as above

    console.print(
        f"\n{headline(answer)}", style="bold", highlight=False, markup=False, soft_wrap=True
    )
    table = Table(box=None, pad_edge=False)
    name = answer.effect.score_name
    score = name.replace("_", " ")
    for title in ("data order", "with", "without", f"effect on {score}", "effect on loss"):
        table.add_column(title, justify="right")
    for with_it, without in zip(answer.with_it, answer.without, strict=True):
        a, b = with_it.points[-1], without.points[-1]
        table.add_row(
            f"{with_it.order}{' (own)' if not with_it.order else ''}",
            scores.shown(a),
            scores.shown(b),
            f"{scores.difference(a.score - b.score, name)}{_unit(name)}",
            f"{a.loss - b.loss:+.4f}",
        )
    effect = answer.effect
    table.add_row(
        "[bold]mean[/]",
        *_means(answer),
        f"[bold]{gained(effect)}[/]",
        f"[bold]{lost(effect)}[/]",
    )
    console.print(table, highlight=False)
    console.print(f"\n{meaning(answer)}", highlight=False, markup=False, soft_wrap=True)
    for title, lines in (
        ("Left out with the decision", answer.dropped[1:]),
        ("Did not fit", answer.refused),
    ):
        if lines:
            console.print(f"{title} ({len(lines)}):", style="bold")
            for line in lines[:LISTED]:
                console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
            if len(lines) > LISTED:
                console.print(f"  and {len(lines) - LISTED} more; --json has all.")


def headline(answer: WhatIfResult) -> str:
    """The question and its result, in a sentence."""
    decision, effect = answer.question.decision, answer.effect
    what = (
        f"{decision.command} {f'{decision.family} ' if decision.family else ''}at "
        f"{decision.layer}[{decision.seed}]"
    )
    return (
        f"{what}, epoch {decision.epoch}, step {decision.step} of {decision.run_id}: "
        f"{gained(effect)} of test {effect.score_name.replace('_', ' ')} and "
        f"{lost(effect)} of test loss after {answer.question.epochs} epochs "
        f"({answer.mode} loop)."
    )


def meaning(answer: WhatIfResult) -> str:
    """How the answer was computed, and what supports it."""
    loop = (
        (
            "Open loop: what was decided later in the record was applied at the same steps in both "
            "branches, but for what this decision caused."
        )
        if answer.mode == "open"
        else "Closed loop: Tamiyo decided anew in both branches, which are forks in the journal."
    )
    proof = (
        (
            "In the run's own data order the branch with the decision ends each epoch with the "
            "parameters of the record, bit for bit."
        )
        if answer.proven
        else (
            "In the run's own data order the branch with the decision does not end with the "
            "parameters of the record: waiting times or chance had a part in it."
        )
    )
    branches = len(answer.with_it) + len(answer.without)
    time = f"{branches} branches took {answer.seconds:.0f} s"
    if answer.ratio:
        time += (
            f", {answer.ratio:.2f} of the time of as many whole runs "
            f"({answer.question.own_seconds:.0f} s each)"
        )
    few = (
        ""
        if len(answer.with_it) > 1
        else " One pair says nothing of chance: take --orders 5 for an interval."
    )
    return f"{loop} {proof} {time}.{few}"


def gained(effect: Effect) -> str:
    """An effect on the score with its interval; on accuracy in percentage points."""
    from esper.cli.shared import scores  # noqa: PLC0415 - as above

    name = effect.score_name
    return _spread(effect.score, lambda value: scores.difference(value, name), _unit(name))


def _spread(interval: Interval, form: Callable[[float], str], unit: str) -> str:
    """A mean, with its interval where there is one."""
    text = f"{form(interval.mean)}{unit}"
    if interval.low is None or interval.high is None:
        return text
    return f"{text} [{form(interval.low)}, {form(interval.high)}]"


def _unit(score_name: str) -> str:
    return " points" if score_name == "accuracy" else ""


def lost(effect: Effect) -> str:
    """An effect on the loss, with its interval: in nats where it is a cross entropy."""
    unit = " nats" if effect.score_name == "accuracy" else ""
    return _spread(effect.loss, lambda value: f"{value:+.4f}", unit)


def draw(path: Path, answer: WhatIfResult) -> None:
    """The picture: both branches with their 95 % bands, and the effect on the score with its."""
    from esper.cli.shared.plots import Curve, Panel, draw  # noqa: PLC0415 - as above
    from esper.journal.effect import interval  # noqa: PLC0415 - as above
    from esper.journal.story import story  # noqa: PLC0415 - as above

    question = answer.question
    past = [
        point for point in story(question.events, {}).points if point.step <= question.decision.step
    ]
    marks = [
        (
            question.decision.step / _steps(answer),
            f"{question.decision.command.lower()} {question.decision.family}".strip(),
        )
    ]

    def lines(figure: str) -> list[Curve]:
        curves = (
            [
                Curve(
                    "the run before",
                    [point.epoch + 1 for point in past],
                    [getattr(point, figure) for point in past],
                    colour=5,
                )
            ]
            if past
            else []
        )
        for label, branches, colour in (
            ("with the decision", answer.with_it, 0),
            ("without it", answer.without, 1),
        ):
            epochs = [epoch for epoch, _, _ in answer.effect.curve]
            spread = [
                interval([_at(branch, epoch, figure) for branch in branches]) for epoch in epochs
            ]
            if past:  # both begin where the run stood
                epochs, spread = (
                    [past[-1].epoch, *epochs],
                    [interval([getattr(past[-1], figure)]), *spread],
                )
            means = [estimate.mean for estimate in spread]
            low = [estimate.mean if estimate.low is None else estimate.low for estimate in spread]
            high = [
                estimate.mean if estimate.high is None else estimate.high for estimate in spread
            ]
            curves.append(
                Curve(label, [epoch + 1 for epoch in epochs], means, low, high, colour=colour)
            )
        return curves

    effects = [(epoch + 1, estimate) for epoch, estimate, _ in answer.effect.curve]
    band = Curve(
        "with minus without",
        [epoch for epoch, _ in effects],
        [estimate.mean for _, estimate in effects],
        [estimate.mean if estimate.low is None else estimate.low for _, estimate in effects],
        [estimate.mean if estimate.high is None else estimate.high for _, estimate in effects],
        colour=3,
    )
    score = answer.effect.score_name.replace("_", " ")
    percent = answer.effect.score_name == "accuracy"
    panels = [
        Panel(
            f"test {score}, mean and 95 % interval over data orders",
            lines("score"),
            percent=percent,
            marks=marks,
        ),
        Panel("test loss", lines("loss"), marks=marks),
        Panel(
            f"effect on test {score}, 95 % interval",
            [band],
            percent=percent,
            marks=marks,
            zero=True,
        ),
    ]
    draw(path, headline(answer), panels, x="epochs completed")


def _means(answer: WhatIfResult) -> tuple[str, str]:
    from esper.cli.shared import scores  # noqa: PLC0415 - as above

    ends = [
        [branch.points[-1].score for branch in branches]
        for branches in (answer.with_it, answer.without)
    ]
    name = answer.effect.score_name
    with_it, without = (scores.number(sum(values) / len(values), name) for values in ends)
    return with_it, without


def _at(branch: Branch, epoch: int, figure: str) -> float:
    return float(next(getattr(point, figure) for point in branch.points if point.epoch == epoch))


def _steps(answer: WhatIfResult) -> float:
    """Steps of an epoch."""
    last = answer.with_it[0].points[-1]
    return last.step / (last.epoch + 1)
