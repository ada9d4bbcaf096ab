"""`esper token` and `esper audit-log` without a stack."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from esper.cli.installation.token import duration
from esper.clock import SystemClock
from esper.config import Settings
from esper.errors import UsageError
from esper.service.checks.roles import Caller
from esper.service.checks.tokens import Gatekeeper
from esper.service.transport import token_keys
from tests.waiting import PATIENCE_S


def esper(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line in `home`."""
    command = [sys.executable, "-m", "esper.cli", *arguments]
    return subprocess.run(
        command,
        env=os.environ | {"ESPER_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )


def test_a_token_is_printed_for_whoever_may_read_the_key(tmp_path: Path) -> None:
    """Alone on standard output, so that scripts can take it.

    It says the subject and role that were asked for.
    """
    token_keys.ensure(tmp_path / "keys")
    done = esper(tmp_path, "token", "--role", "admin", "--subject", "ann")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    assert Gatekeeper.of(Settings(home=tmp_path).keys_dir, SystemClock(), "tolaria").caller(
        done.stdout.strip()
    ) == Caller("ann", "admin")


def test_without_a_key_there_is_no_token(tmp_path: Path) -> None:
    """One sentence with the remedy, exit code 2, and no key is made by asking."""
    done = esper(tmp_path, "token")
    assert done.returncode == 2
    assert "esper up" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "keys").exists()
    assert esper(tmp_path, "audit-log", "verify").returncode == 2


@pytest.mark.parametrize(
    ("text", "seconds"), [("1s", 1), ("30m", 1_800), ("8h", 28_800), ("7d", 604_800)]
)
def test_times_are_read(text: str, seconds: int) -> None:
    """A whole number and a unit."""
    assert duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "8", "h", "0h", "-1h", "1.5h", "367d", "9999999999s", "1w"])
def test_times_that_are_none_are_refused(text: str) -> None:
    """With examples."""
    with pytest.raises(UsageError, match="8h"):
        duration(text)
