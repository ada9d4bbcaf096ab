"""Each part alone, as in a container of its own: with a home, a password and a port of its own,
found by its address, and no supervisor anywhere.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from esper.clock import SystemClock
from esper.service.transport import token_keys
from esper.stack.processes.ports import PortClaims
from tests import certificates
from tests.clusters.commands import esper, said
from tests.clusters.kafkacluster import Cluster

pytestmark = [
    pytest.mark.slow,
    pytest.mark.variant,
]

CLOCK = SystemClock()
MODULES = {
    "tamiyo": "esper_processors.tamiyo",
    "history": "esper.history",
    "urza": "esper.tezzeret",
}
"""What a run needs, by the section of its settings."""
READY_S = 180.0


@contextmanager
def part(section: str, port: int, home: Path, environment: dict[str, str]) -> Iterator[None]:
    """One part, until the block ends."""
    home.mkdir()
    mine = {
        **os.environ,
        **environment,
        "ESPER_HOME": str(home),
        f"ESPER_{section.upper()}__PORT": str(port),
    }
    with (
        (home / "log").open("wb") as log,
        subprocess.Popen(
            [sys.executable, "-m", MODULES[section]], env=mine, stdout=log, stderr=log
        ) as process,
    ):
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


def ready(port: int, environment: dict[str, str]) -> bool:
    """What a container's probe says."""
    command = [sys.executable, "-m", "esper.service.transport.probe", str(port), "--ready"]
    return (
        subprocess.run(
            command, env={**os.environ, **environment}, timeout=60, check=False
        ).returncode
        == 0
    )


def test_a_run_finds_parts_that_stand_alone(
    cluster: Cluster, passwords: Path, tmp_path: Path
) -> None:
    """Tamiyo, history and foundry as processes of their own.

    The trainer starts no stack, trains, and the history has its whole run.
    """
    token_keys.ensure(tmp_path / "keys")
    served = certificates.make(tmp_path, certificates.authority())
    common = {
        **cluster.parts(passwords),
        "ESPER_PARTS": "elsewhere",
        "ESPER_SERVICE__KEYS": str(tmp_path / "keys"),
        "ESPER_SERVICE__CERTIFICATE": served.certificate,
        "ESPER_SERVICE__PRIVATE_KEY": served.private_key,
        "ESPER_URZA__STORE": str(tmp_path / "store"),
        "ESPER_CHECKPOINTS__MASTER_KEY_FILE": str(tmp_path / "master.key"),
    }
    with PortClaims() as claims, ExitStack() as parts:
        ports = {
            section: claims.choose(salt=f"{tmp_path} {section}", preferred=())
            for section in MODULES
        }
        common |= {
            f"ESPER_{section.upper()}__URL": f"https://127.0.0.1:{port}"
            for section, port in ports.items()
        }
        for section, port in ports.items():
            parts.enter_context(part(section, port, tmp_path / section, common))
        cluster.until(
            lambda: all(ready(port, common) for port in ports.values()),
            "parts that are ready",
            READY_S,
        )
        home = tmp_path / "trainer"
        done = said(
            esper(
                home,
                common,
                "run",
                "digits",
                "--json",
                "--set",
                "decisions=lockstep",
                "--set",
                "run.epochs=2",
                timeout=240,
            )
        )
    assert done["outcome"] == "FINISHED"
    assert done["history_complete"] is True
    assert done["events"]["decision.tamiyo"] > 0
    assert not (home / "stack").exists()
