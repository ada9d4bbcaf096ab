"""One real broker for all tests of a session that need one, and small stacks for the tests of the
stack itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from esper import stack
from esper.clock import SystemClock
from esper.config import KafkaSettings, Settings
from esper.oona.admin import topic_creation
from esper.oona.bus.access import Access
from esper.stack.embedded import aot, jars
from esper.stack.embedded.broker import BrokerNode
from esper.stack.embedded.solo import running_broker
from esper.stack.processes.ports import PortClaims
from esper.stack.processes.stack_state import PartState, StackState
from tests import commands, s3proxy, waiting
from tests.waiting import PATIENCE_S

eventually = waiting.eventually


@dataclass(frozen=True)
class S3Place:
    """A location that nobody else uses, and its server."""

    location: str
    server: s3proxy.S3Server


TINY_STACK = (
    sys.executable,
    str(Path(__file__).parent / "integration" / "stack" / "tiny_stack.py"),
)


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Bootstrap string of a real Kafka with all of Esper's topics.

    Tests share it, so each uses its own run ids or topics.
    """
    folder = tmp_path_factory.mktemp("kafka")
    with PortClaims() as claims:
        node = BrokerNode(
            folder,
            claims.choose(salt=f"{folder} broker", preferred=()),
            claims.choose(salt=f"{folder} controller", preferred=()),
        )
        classpath = jars.kafka(lambda _: None)
        with running_broker(
            node,
            classpath,
            cluster_id="ZXNwZXItdGVzdC1icm9rZQ",
            clock=SystemClock(),
            java_options=aot.java_options(classpath),
        ):
            topic_creation.ensure(node.bootstrap, KafkaSettings(bootstrap=node.bootstrap))
            yield node.bootstrap


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with a whole stack that is up.

    Tests share it, so each uses its own run ids, and leaves every part running.
    """
    folder = tmp_path_factory.mktemp("home")
    environment = {**os.environ, "ESPER_HOME": str(folder)}
    up = commands.run(
        "up", "--wait", str(int(PATIENCE_S)), environment=environment, seconds=2 * PATIENCE_S
    )
    try:
        assert up.returncode == 0, up.stderr
        yield folder
    finally:
        commands.run("down", environment=environment)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3proxy.S3Server]:
    """A real S3 server; tests share it, so each uses its own prefix."""
    with s3proxy.running(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3(s3_server: s3proxy.S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> S3Place:
    """A place of its own on that server, and the credentials for it in the environment."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return S3Place(f"s3://{s3proxy.BUCKET}/{tmp_path.parent.name}-{tmp_path.name}", s3_server)


def bring_up(settings: Settings, owner_pid: int | None = None) -> stack.Endpoints:
    """`up` with the small stack of `tiny_stack.py`, owned by this test run unless told
    otherwise.
    """
    return stack.up(
        settings, owner_pid=owner_pid or os.getpid(), progress=lambda _: None, supervisor=TINY_STACK
    )


@contextmanager
def tiny_stack(settings: Settings) -> Iterator[stack.Endpoints]:
    """A small stack that is up, and down afterwards; with parts on demand, nissa is one."""
    try:
        endpoints = bring_up(settings)
        stack.wait_ready(settings, ["nissa"], PATIENCE_S)
        yield endpoints
    finally:
        stack.down(settings)


def access(settings: Settings, principal: str = "viewer") -> Access:
    """How a principal reaches the Kafka of a stack that is up."""
    endpoints = stack.running(settings)
    assert endpoints is not None
    return Access.of(settings, principal, bootstrap=endpoints.bootstrap)


def now(settings: Settings) -> StackState:
    """The state of a stack that is up."""
    state = stack.status(settings)
    assert state is not None
    return state


def part(settings: Settings, name: str) -> PartState:
    """The state of one part of it."""
    found = now(settings).part(name)
    assert found is not None
    return found


def pid_of(settings: Settings, name: str) -> int:
    """The pid of one part that runs."""
    process = part(settings, name).process
    assert process is not None
    return process.pid


def family(pid: int) -> list[psutil.Process]:
    """A process and all that descend from it."""
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def survivors(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run: `psutil` compares start times too."""
    return [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
