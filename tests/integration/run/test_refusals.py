"""Bad input and bad surroundings: one clear sentence with the remedy, an exit code that is not 0,
and nothing lost.
"""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.integration.run.whole import esper


def refused(home: Path, code: int, sentence: str, *arguments: str, **environment: str) -> None:
    done = esper(home, *arguments, cold=False, **environment)
    lines = [line for line in done.stderr.splitlines() if line.startswith("esper: ")]
    assert done.returncode == code, done.stderr
    assert len(lines) == 1
    assert sentence in lines[0]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("run", "mnist1"), "Did you mean mnist1d?"),
        (("run", "mnist1d", "--set", "run.epocs=1"), "Did you mean run.epochs?"),
        (("run", "mnist1d", "--set", "run.epochs=many"), "run.epochs = 'many' does not fit"),
        (("run", "mnist1d", "--run-id", "a/b"), "A run id names a folder"),
        (("run", "mnist1d", "--resume"), "No run of mnist1d is in"),
        (
            ("run", "mnist1d", "--resume", "--run-id", "x", "--set", "run.epochs=2"),
            "A resumed run goes on with the settings that its journal has",
        ),
        (("replay", "fold", "nothing"), "There is no data in"),
        (("replay", "nothing"), "write `esper replay fold RUN`, `esper replay state RUN"),
        (("recipes", "show", "nothing"), "There is no recipe or file nothing."),
    ],
)
def test_input_that_cannot_be_taken(
    tmp_path: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    """Unknown recipes, keys, types, runs and ids are refused before anything starts."""
    refused(tmp_path / "home", 2, sentence, *arguments)
    assert not (tmp_path / "home" / "stack" / "kafka").exists()


def test_no_broker_at_the_start_is_refused(tmp_path: Path) -> None:
    """A cluster that does not answer is named, with its address, and no run is begun."""
    refused(
        tmp_path,
        3,
        "127.0.0.1:9",
        "run",
        "mnist1d",
        "--run-id",
        "x",
        ESPER_KAFKA__BOOTSTRAP="127.0.0.1:9",
    )
    assert not (tmp_path / "runs" / "x").exists()


def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    """A port that the user insists on and that is taken is named, with the setting that
    chose it.
    """
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused(tmp_path, 3, port, "run", "mnist1d", ESPER_NISSA__PORT=port)
