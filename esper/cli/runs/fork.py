"""`esper fork RUN`: a new run that begins with the state of another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from esper.cli.shared.options import Allow

if TYPE_CHECKING:
    from esper.stack import Endpoints
    from esper.tolaria.run.assembly import Finished
    from esper.tolaria.run.own_loop import Growth


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("fork")(fork)


def fork(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="The run to fork (`esper runs`).")],
    *,
    step: Annotated[
        int | None, typer.Option("--step", help="Optimizer steps completed where the fork begins.")
    ] = None,
    timeline: Annotated[
        int | None,
        typer.Option("--timeline", help="Timeline of the step; the present one, if left out."),
    ] = None,
    new_id: Annotated[
        str, typer.Option("--run-id", help="The fork's name; one is made when none is given.")
    ] = "",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value; may be given again.")
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            "--without",
            help=(
                "Leave out this applied decision, by the beginning of its id; without --step, "
                "fork where it was applied."
            ),
        ),
    ] = None,
    allow: Allow = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="The last line of standard output is the result as one JSON object."
        ),
    ] = False,
) -> None:
    """Make a run that begins with the state that RUN had at a step, and train it on, with settings
    changed or decisions left out.
    """
    from esper.cli.runs.run import on_stack, tell, tell_growths  # noqa: PLC0415 - the same
    from esper.cli.shared.consoles import standard_error  # noqa: PLC0415 - `esper --help` waits for nothing that a command needs
    from esper.clock import SystemClock  # noqa: PLC0415 - the same
    from esper.config import Settings  # noqa: PLC0415 - the same
    from esper.tolaria.recipes.run_names import require_run_id  # noqa: PLC0415 - the same

    if new_id:
        require_run_id(new_id)
    settings, clock, console = Settings.load(), SystemClock(), standard_error()

    def forked(endpoints: Endpoints) -> tuple[Finished | Growth, str]:
        from esper.journal.reading import on_kafka, whole  # noqa: PLC0415 - as above
        from esper.oona.bus.access import Access  # noqa: PLC0415 - as above
        from esper.oona.bus.kafka import KafkaBus  # noqa: PLC0415 - as above
        from esper.oona.durable.run_notes import require_living  # noqa: PLC0415 - as above
        from esper.service.transport import signing  # noqa: PLC0415 - as above
        from esper.tolaria.record.forking import cut_at, decision_of  # noqa: PLC0415 - as above
        from esper.tolaria.record.resume import recipe_of  # noqa: PLC0415 - as above
        from esper.tolaria.timelines.branching import Ground, fork  # noqa: PLC0415 - as above

        cluster = Access.of(settings, "trainer", bootstrap=endpoints.bootstrap)
        keyring = signing.Keyring(settings.keys_dir)
        require_living(KafkaBus(cluster), run_id, keyring.trust, clock=clock)
        events = whole(
            on_kafka(
                cluster,
                run_id,
                clock=clock,
                trust=signing.trust(settings.keys_dir),
                say=console.print,
            )
        )
        cut = cut_at(
            events,
            step,
            timeline=timeline,
            without=[decision_of(events, prefix) for prefix in without or ()],
        )
        ground = Ground(
            settings, cluster, endpoints.history_url, clock, console, tuple(allow or ())
        )
        return fork(ground, events, cut, overrides=overrides or (), run_id=new_id), recipe_of(
            events
        ).name

    finished, recipe = on_stack(settings, clock, console, forked)
    from esper.tolaria.run.assembly import Finished  # noqa: PLC0415 - the same

    if isinstance(finished, Finished):
        tell(finished, recipe, as_json=as_json)
    else:
        tell_growths([finished], as_json=as_json)
