"""What `esper run` says at its end: the score, each seed's path, events by topic, where the history
is, what to try next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from esper.cli.shared.called import called
from esper.events.records import SeedTransitioned
from esper.tolaria.run.assembly import Finished


def show(console: Console, finished: Finished, recipe: str) -> None:
    """Print the summary of a run of `recipe`, a name or file as the user gave it."""
    outcome = finished.outcome
    ended = "finished" if outcome.outcome == "FINISHED" else "was ended early"
    console.print()
    console.print(
        f"Run [bold]{finished.run_id}[/] {ended}: test [bold green]"
        f"{outcome.told}[/], loss {outcome.loss:.3f}, "
        f"{outcome.epochs} epochs, {outcome.steps} steps, {outcome.parameters:,} "
        f"parameters, {finished.seconds:.0f} s.",
        highlight=False,
    )
    console.print(finished.growth, highlight=False)
    if finished.paths:
        table = Table(
            title="Seeds", title_justify="left", title_style="bold", box=None, pad_edge=False
        )
        table.add_column("seed")
        table.add_column("path through the stages (epoch)", overflow="fold")
        for (layer, seed), transitions in sorted(finished.paths.items()):
            table.add_row(f"{layer}[{seed}]", "\n".join(trials(transitions)))
        console.print(table)
    events = Table(
        title="Events", title_justify="left", title_style="bold", box=None, pad_edge=False
    )
    events.add_column("topic")
    events.add_column("events", justify="right")
    for topic, count in sorted(finished.events.items()):
        events.add_row(topic, f"{count:,}")
    console.print(events)
    if finished.dropped:
        console.print(
            f"{finished.dropped} telemetry events were dropped; system.events.run says which.",
            style="yellow",
        )
    if not finished.history_complete:
        console.print(
            "The history has not taken in everything yet; `esper up` lets it catch up.",
            style="yellow",
        )
    console.print(f"Model    {finished.model_path} (sealed)", highlight=False)
    console.print(f"Digest   {outcome.digest}", highlight=False)
    console.print(f"History  {finished.history_path}", highlight=False)
    console.print("\nTry next:", style="bold")
    command = called()
    query = (
        "SELECT epoch, layer, seed, family, to_stage, reason FROM seed_transitioned WHERE "  # noqa: S608  # for a person
        f"run_id = '{finished.run_id}'"
    )
    resume = (f"{command} run {recipe} --resume --run-id {finished.run_id}     # go on from here",)
    for line in (
        *(resume if outcome.outcome == "INTERRUPTED" else ()),
        f"{command} up && {command} open {finished.run_id}     # see it in a browser",
        f'{command} sql "{query}"',
        (
            f"{command} model {finished.run_id} --out model.safetensors     # the final model, "
            "for safetensors.torch.load_file"
        ),
        f"{command} replay fold {finished.run_id}",
        f"{command} run {recipe} --set tamiyo.enabled=false     # the same model without growth",
        f"{command} recipes cp mnist1d mine.toml               # make it your own",
    ):
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)


def trials(transitions: Sequence[SeedTransitioned]) -> Iterator[str]:
    """One line for each kernel that a seed held, in order: those that left TRAINING with their
    whole path, the others in short, side by side.
    """
    short: list[str] = []
    for trial in _split(transitions):
        family, first, last = trial[0].family, trial[0], trial[-1]
        if any(event.to_stage == "BLENDING" for event in trial):
            if short:
                yield " · ".join(short)
                short = []
            yield f"[bold]{family}[/] " + " → ".join(
                f"{event.to_stage} [dim]{event.epoch}[/]" for event in trial
            )
        else:
            short.append(f"{family} {first.epoch}-{last.epoch} {last.to_stage}")
    if short:
        yield " · ".join(short)


def _split(transitions: Sequence[SeedTransitioned]) -> Iterator[list[SeedTransitioned]]:
    """The transitions of each kernel: from GERMINATED on, without the slot's rest after it."""
    trial: list[SeedTransitioned] = []
    for event in transitions:
        if event.to_stage == "GERMINATED" and trial:
            yield trial
            trial = []
        if event.to_stage not in ("EMBARGOED", "DORMANT"):
            trial.append(event)
    if trial:
        yield trial
