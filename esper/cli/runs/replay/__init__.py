"""`esper replay fold | state | verify`: what the journal of a run says, any state of the
run rebuilt, and the whole run re-executed and compared bit for bit.
"""

from __future__ import annotations

from typing import Any, Final

import typer
from typer.core import TyperGroup

from esper.cli.runs.replay.replay_fold import fold
from esper.cli.runs.replay.replay_state import state
from esper.cli.runs.replay.replay_verify import verify
from esper.errors import UsageError

_BEFORE: Final = {"--fold": "fold", "--step": "state", "--verify": "verify"}
"""The options that once chose what `esper replay RUN` does, and the command of each."""


class ReplayGroup(TyperGroup):
    """Answers a call in the form of before with one sentence that says the present form."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As the base class says.

        Raises:
            UsageError: `args` begin with no command.
        """
        # Before the parser of the base class, which would complain of the option, not of the form.
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            raise UsageError(_present_form(args))
        return super().parse_args(ctx, args)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        cls=ReplayGroup,
        help="Read what a run's journal says, rebuild any state of the run, or prove all of it.",
        no_args_is_help=True,
    )
    for command in (fold, state, verify):
        group.command(command.__name__)(command)
    app.add_typer(group, name="replay")


def _present_form(arguments: list[str]) -> str:
    run = "RUN" if arguments[0].startswith("-") else arguments[0]
    name = next((_BEFORE[option] for option in arguments if option in _BEFORE), None)
    if name is None:
        return (
            f"`esper replay {arguments[0]}` does not say what to do: write `esper replay fold "
            "RUN`, `esper replay state RUN --step N` or `esper replay verify RUN`."
        )
    step = " --step N" if name == "state" else ""
    return (
        f"Write `esper replay {name} {run}{step}`; `esper replay {name} --help` lists the other "
        "options."
    )
