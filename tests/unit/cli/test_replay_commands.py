"""`esper replay` has three commands, each with the options that make sense for it alone."""

from __future__ import annotations

import pytest
import typer.main
from typer.testing import CliRunner

from esper.cli import app
from esper.cli.runs.replay.replay_state import _address
from esper.errors import UsageError
from tests.unit.cli.test_cli import esper

OPTIONS = {
    "fold": {"from", "save", "json"},
    "state": {
        *("step", "at", "out", "only"),
        *("from-scratch", "from", "passphrase-file", "allow", "json"),
    },
    "verify": {"workers", "from-scratch", "from", "passphrase-file", "allow", "json"},
}


def refusal(*arguments: str) -> str:
    """The sentence with which `esper replay` refuses."""
    error = CliRunner().invoke(app, ["replay", *arguments]).exception
    assert isinstance(error, UsageError), error
    assert error.exit_code == 2
    return str(error)


def test_each_command_has_the_options_of_its_own_use() -> None:
    """A fold executes nothing, so it takes no --allow; a state is of one step, a proof of all."""
    group = typer.main.get_command(app).commands["replay"]  # type: ignore[attr-defined]
    assert {
        name: {
            option.removeprefix("--")
            for parameter in command.params
            for option in parameter.opts
            if option.startswith("--") and option != "--help"
        }
        for name, command in group.commands.items()
    } == OPTIONS


@pytest.mark.parametrize(
    ("arguments", "form"),
    [
        (("mine-1", "--verify"), "`esper replay verify mine-1`"),
        (("mine-1", "--fold", "--save", "f"), "`esper replay fold mine-1`"),
        (("mine-1", "--step", "3", "--out", "f"), "`esper replay state mine-1 --step N`"),
        (("--verify", "mine-1"), "`esper replay verify RUN`"),
        (("mine-1",), "`esper replay fold RUN`"),
        (("verfy", "mine-1"), "`esper replay verify RUN`"),
    ],
)
def test_a_call_of_before_is_answered_with_the_present_form(
    arguments: tuple[str, ...], form: str
) -> None:
    """One sentence, whatever the order of its words."""
    assert form in refusal(*arguments)


def test_the_present_form_is_one_line_on_standard_error() -> None:
    """No traceback, and exit code 2."""
    done = esper("replay", "mine-1", "--verify")
    assert done.returncode == 2
    assert done.stderr == (
        "esper: Write `esper replay verify mine-1`; `esper replay verify --help` lists the other "
        "options.\n"
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "Say which state: --step N, or --at TIMELINE:STEP"),
        (("--step", "3", "--at", "0:3"), "Say which state: --step N, or --at TIMELINE:STEP"),
        (("--at", "three"), "--at three is no address: write TIMELINE:STEP, for instance 0:1234"),
        (("--at", "0:3:x"), "--at 0:3:x is no address"),
        (("--at", "-1:3"), "--at -1:3 is no address"),
        (("--step", "3", "--only", "model"), "name a file with --out"),
        (("--step", "3", "--passphrase-file", "p"), "name its folder with --from"),
        (("--step", "3", "--out", "."), ". exists already"),
    ],
)
def test_a_state_that_is_not_said_is_refused(arguments: tuple[str, ...], sentence: str) -> None:
    """No address, two, one that is none, and options that belong to others."""
    assert sentence in refusal("state", "mine-1", *arguments)


def test_an_address_names_timeline_step_and_events() -> None:
    """What it leaves open is found by the journal."""
    assert _address(7, None) == (None, 7, None)
    assert _address(None, "2:7") == (2, 7, None)
    assert _address(None, "2:7:41") == (2, 7, 41)
