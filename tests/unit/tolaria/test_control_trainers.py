"""Claims about the trainers that the control process starts: real processes."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from esper.clock import SystemClock
from esper.config import Settings
from esper.errors import RejectedError
from esper.tolaria.control import trainers as module
from esper.tolaria.control.trainers import Trainers, command, trainer_environment
from tests.stackfixtures import eventually

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', "
    "flush=True); time.sleep(60)"
)
ORDERLY = (
    "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: "
    "sys.exit(130))\nprint('up', flush=True)\ntime.sleep(60)"
)


def lives(home: Path) -> Trainers:
    """A life of the control process in this home."""
    return Trainers(
        Settings(home=home), environment=os.environ, embedded=False, clock=SystemClock()
    )


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What runs in place of `esper run`: a program of a few lines, so that no training is waited
    for.
    """
    code = {"code": ORDERLY}
    monkeypatch.setattr(module, "command", lambda *_, **__: (sys.executable, "-c", code["code"]))
    return code


def up(trainers: Trainers, run_id: str) -> bool:
    """Whether the program says that it is up."""
    return eventually(lambda: trainers.last_words(run_id) == "up")


@pytest.mark.usefixtures("program")
def test_the_next_life_knows_the_trainers_of_the_last(tmp_path: Path) -> None:
    """Another life finds the same process by its file, refuses a second one for the run, and ends
    it in order.
    """
    first = lives(tmp_path)
    trainer = first.start("r", "mnist1d", (), resume=False)
    assert up(first, "r")
    second = lives(tmp_path)
    assert second.find("r") == trainer
    with pytest.raises(RejectedError, match=str(trainer.process.pid)):
        second.start("r", "mnist1d", (), resume=False)
    assert second.end(10) == []
    assert first.exit_code("r") == 130
    assert not trainer.process.lives()
    assert trainer.as_json(first.log("r"), first.exit_code("r"))["alive"] is False


def test_one_that_does_not_end_in_time_is_told_of_and_left(
    tmp_path: Path, program: dict[str, str]
) -> None:
    """A trainer that is still ending after the patience is given back; nothing kills it."""
    program["code"] = STUBBORN
    trainers = lives(tmp_path)
    trainer = trainers.start("r", "mnist1d", (), resume=False)
    assert up(trainers, "r")
    assert trainers.end(0.2) == [trainer]
    assert trainer.process.lives()
    trainer.process.signal(signal.SIGKILL)
    assert eventually(lambda: trainers.exit_code("r") == -signal.SIGKILL)


def test_a_trainer_has_a_session_of_its_own_and_a_command_line_as_a_person_would_write_it(
    tmp_path: Path, program: dict[str, str]
) -> None:
    """Signals to our group do not reach it.

    It is `esper run` with run id, overrides and --resume, held to the list.
    """
    program["code"] = ORDERLY
    trainers = lives(tmp_path)
    trainer = trainers.start("r", "mnist1d", (), resume=False)
    try:
        assert os.getsid(trainer.process.pid) == trainer.process.pid
    finally:
        trainers.end(10)
    words = command("r", "mnist1d", ("run.epochs=2",), resume=True)[3:]
    assert words == (
        "run",
        "--run-id",
        "r",
        "--set",
        "run.epochs=2",
        "--resume",
        "--listed",
        "--json",
        "--",
        "mnist1d",
    )


def test_a_trainer_of_an_embedded_stack_finds_it_by_its_home() -> None:
    """Broker and ports that the stack gave its parts are taken out, the user's other settings stay.

    With a cluster everything stays.
    """
    base = {
        "ESPER_HOME": "h",
        "ESPER_KAFKA__BOOTSTRAP": "b",
        "ESPER_NISSA__PORT": "1",
        "ESPER_URZA__STORE": "s",
        "PATH": "p",
    }
    given = trainer_environment(base, embedded=True)
    assert given == {
        "ESPER_HOME": "h",
        "ESPER_URZA__STORE": "s",
        "PATH": "p",
        "PYTHONUNBUFFERED": "1",
    }
    assert trainer_environment(base, embedded=False) == {**base, "PYTHONUNBUFFERED": "1"}


def test_damaged_files_are_no_trainers(tmp_path: Path) -> None:
    """A torn or foreign trainer.json is passed over."""
    for name, text in (("a", "{"), ("b", "[]"), ("c", '{"run_id": "c"}')):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "trainer.json").write_text(text)
    assert lives(tmp_path).all() == []
