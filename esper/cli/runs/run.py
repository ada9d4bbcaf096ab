"""`esper run`: train a model that grows."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from esper.cli.shared.options import Allow
from esper.errors import UsageError
from esper.json_text import json_text

if TYPE_CHECKING:
    from types import FrameType

    from rich.console import Console

    from esper.clock import Clock
    from esper.config import Settings
    from esper.stack import Endpoints
    from esper.tolaria.run.assembly import Finished
    from esper.tolaria.run.own_loop import Growth
    from esper.tolaria.run.startup import Startup
    from esper.tolaria.run.tracking import RunTracker

T = TypeVar("T")

STOP_S = 30.0  # the longest that a stack takes to end
NOTICE_S = 5.0  # within which its supervisor notices that it has no owner


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("run")(run)


def run(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A recipe's name (`esper recipes ls`), a TOML file, or a Python script with a "
            "loop of its own around esper.grow."
        ),
    ],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[-- ARGS]", help="What a script is given.")
    ] = None,
    *,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value; may be given again.")
    ] = None,
    run_id: Annotated[
        str, typer.Option("--run-id", help="The run's name; one is made when none is given.")
    ] = "",
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with a run that stopped: the one of --run-id, or the latest of the recipe.",
        ),
    ] = False,
    allow: Allow = None,
    listed: Annotated[
        bool, typer.Option("--listed", hidden=True, help="Only what ESPER_SERVICE__RECIPES allows.")
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="The last line of standard output is the result as one JSON object."
        ),
    ] = False,
) -> None:
    """Train a model that grows, on the local stack or the cluster of ESPER_KAFKA__BOOTSTRAP, which
    is started when it is not up.
    """
    from esper.cli.shared.consoles import standard_error  # noqa: PLC0415
    from esper.clock import SystemClock  # noqa: PLC0415
    from esper.config import Settings  # noqa: PLC0415
    from esper.identity import age_s  # noqa: PLC0415
    from esper.tolaria.recipes.allowed import Allowed  # noqa: PLC0415
    from esper.tolaria.recipes.recipe import Permit, folder_of, load  # noqa: PLC0415
    from esper.tolaria.recipes.run_names import require_run_id  # noqa: PLC0415
    from esper.tolaria.run.startup import Startup  # noqa: PLC0415

    if run_id:
        require_run_id(run_id)
    if recipe.endswith(".py"):
        if overrides or allow or listed:
            raise UsageError(
                "A script says its settings to esper.grow, and nobody else may have it run: leave "
                "--set, --allow and --listed away."
            )
        _run_script(Path(recipe), arguments or [], run_id, resume=resume, as_json=as_json)
        return
    if arguments:
        raise UsageError(
            f"Only a script takes arguments, and {recipe} is a recipe: give settings by --set."
        )
    settings, clock, console = Settings.load(), SystemClock(), standard_error()
    allowed = (
        Allowed.of(settings.service.recipes) if listed else None
    )  # so Tolaria's part starts the runs that it is asked for
    chosen = (
        None if resume else load(allowed.recipe(recipe) if allowed else recipe, overrides or [])
    )
    if allowed is not None and chosen is not None:
        allowed.require(
            chosen
        )  # again where functions are called; here before a stack is started for nothing
    if resume:
        if overrides:
            raise UsageError(
                "A resumed run goes on with the settings that its journal has; leave --set "
                "away, or start a new run with it."
            )
        run_id = run_id or _latest(settings, recipe)

    # an operator of the API names a recipe, and no folder to import from
    folder = None if resume or allowed else folder_of(recipe)
    startup = Startup.of(clock, age_s(clock))

    def trained(endpoints: Endpoints) -> Finished:
        from esper.oona.bus.access import Access  # noqa: PLC0415
        from esper.tolaria.run.assembly import train  # noqa: PLC0415

        return train(
            settings,
            chosen,
            run_id=run_id,
            cluster=Access.of(settings, "trainer", bootstrap=endpoints.bootstrap),
            history_url=endpoints.history_url,
            clock=clock,
            console=console,
            startup=startup,
            permit=Permit(every=True, folder=folder),
            allow=tuple(allow or ()),
            require=allowed.require if allowed else None,
        )

    tell(on_stack(settings, clock, console, trained, startup), recipe, as_json=as_json)


def _run_script(
    path: Path, arguments: list[str], run_id: str, *, resume: bool, as_json: bool
) -> None:
    """Run a script, and say what its runs came to."""
    from esper.config import Settings  # noqa: PLC0415
    from esper.tolaria.run.own_script import read  # noqa: PLC0415

    if resume and not run_id:
        run_id = _latest(Settings.load(guest=True), str(path))
    script = read(path, arguments, run_id=run_id, resume=resume)
    try:
        script.run()
    finally:
        tell_growths([*script.growths, *script.trackers], as_json=as_json)
    if not script.begun:
        raise UsageError(
            f"{path} has begun no run: it has to call esper.grow(...), or esper.GrowthTracker(...)."
        )


def tell_growths(growths: Sequence[Growth | RunTracker], *, as_json: bool) -> None:
    """Print what the runs of a script came to: for scripts a line of JSON each, the last one of
    the last run; for people a line on standard error.
    """
    for growth in growths:
        if as_json:
            print(json_text(growth.as_json(), sort_keys=True), flush=True)
        else:
            print(growth.sentence(), file=sys.stderr)


def tell(finished: Finished, recipe: str, *, as_json: bool) -> None:
    """Print how a run of `recipe` ended; one that was interrupted ends the process with 130."""
    if as_json:
        print(json_text(finished.as_json(), sort_keys=True), flush=True)
    else:
        from rich.console import Console  # noqa: PLC0415

        from esper.cli.shared.summary import show  # noqa: PLC0415

        show(Console(), finished, recipe)
    if finished.outcome.outcome == "INTERRUPTED":
        sys.exit(130)


def _latest(settings: Settings, recipe: str) -> str:
    """The latest run of a recipe in this installation.

    Raises:
        UsageError: there is none.
    """
    name = Path(recipe).stem
    folders = [path for path in settings.runs_dir.glob(f"{name}-*") if (path / "outbox").is_dir()]
    if not folders:
        raise UsageError(f"No run of {name} is in {settings.runs_dir}; name the run with --run-id.")
    return max(folders, key=lambda path: (path / "outbox").stat().st_mtime).name


def on_stack(
    settings: Settings,
    clock: Clock,
    console: Console,
    work: Callable[[Endpoints], T],
    startup: Startup | None = None,
) -> T:
    """Work with a stack around it: one that is up is used and left alone, else one is started, and
    ends with this work. `startup` receives the parts.
    """
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

    from esper import stack  # noqa: PLC0415

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise KeyboardInterrupt

    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
        numbers.append(signal.SIGHUP)
    previous = {number: signal.signal(number, stop) for number in numbers}
    started = stack.running(settings) is None
    try:
        with ThreadPoolExecutor(1) as background:  # the broker starts while torch is imported
            coming = background.submit(
                stack.up,
                settings,
                owner_pid=os.getpid(),
                progress=lambda line: console.print(line, style="dim"),
            )
            import esper.tolaria.run.assembly  # noqa: F401, PLC0415

            if startup is not None:
                startup.spent("imports")
            endpoints = coming.result()
        if startup is not None:
            startup.spent("stack")
        return work(endpoints)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        stack.release(settings, os.getpid())
        if started:
            _wait_until_down(settings, clock)


def _wait_until_down(settings: Settings, clock: Clock) -> None:
    """Give a stack without owners the time to end, so that the command leaves no
    process behind.
    """
    from esper import stack  # noqa: PLC0415

    begin = clock.monotonic()
    while (now := stack.status(settings)) is not None:
        waited = clock.monotonic() - begin
        if waited > STOP_S or (
            waited > NOTICE_S and now.phase != "stopping"
        ):  # somebody else wants it
            return
        clock.sleep(0.05)
