"""What `esper run` says at its end: accuracy, each seed's path, events by topic, where the history is, what to try next."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from esper.stack import Endpoints
from esper.tolaria.assembly import Finished


def show(console: Console, finished: Finished, endpoints: Endpoints) -> None:
    """Print the summary of a run."""
    del endpoints
    outcome = finished.outcome
    ended = "finished" if outcome.outcome == "FINISHED" else "was ended early"
    console.print()
    console.print(
        f"Run [bold]{finished.run_id}[/] {ended}: test accuracy [bold green]{outcome.accuracy:.1%}[/], loss {outcome.loss:.3f}, "
        f"{outcome.epochs} epochs, {outcome.steps} steps, {outcome.parameters:,} parameters, {finished.seconds:.0f} s.",
        highlight=False,
    )
    if finished.paths:
        table = Table(title="Seeds", title_justify="left", title_style="bold", box=None, pad_edge=False)
        for column in ("seed", "kernel", "path (epoch)"):
            table.add_column(column, overflow="fold")
        for place, transitions in sorted(finished.paths.items()):
            family = next((event.family for event in transitions if event.family), "")
            steps = " → ".join(f"{event.to_stage} [dim]({event.epoch})[/]" for event in transitions)
            table.add_row(f"{place[0]}[{place[1]}]", family, steps)
        console.print(table)
    events = Table(title="Events", title_justify="left", title_style="bold", box=None, pad_edge=False)
    events.add_column("topic")
    events.add_column("events", justify="right")
    for topic, count in sorted(finished.events.items()):
        events.add_row(topic, f"{count:,}")
    console.print(events)
    if finished.dropped:
        console.print(f"{finished.dropped} telemetry events were dropped; system.events.run says which.", style="yellow")
    if not finished.history_complete:
        console.print("The history has not taken in everything yet; `esper up` lets it catch up.", style="yellow")
    console.print(f"Model    {finished.model_path}", highlight=False)
    console.print(f"Digest   {outcome.digest}", highlight=False)
    console.print(f"History  {finished.history_path}", highlight=False)
    console.print("\nTry next:", style="bold")
    for line in (
        f"""esper sql "SELECT * FROM seed_timeline WHERE run_id = '{finished.run_id}'\"""",  # noqa: S608  # text for a person
        f"esper replay {finished.run_id} --fold",
        "esper run mnist1d --set tamiyo.enabled=false     # the same model without growth",
        "esper recipes cp mnist1d mine.toml               # make it your own",
    ):
        console.print(f"  {line}", highlight=False, markup=False)
