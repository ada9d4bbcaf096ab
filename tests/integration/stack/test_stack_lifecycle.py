"""Up, down, owners, ports.

Where the broker is not the point, the stack uses the one that all tests share.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from esper import stack
from esper.config import KafkaSettings, PartSettings, Settings
from esper.errors import UnavailableError, UsageError
from esper.events.topics import TOPICS
from esper.stack.processes import stack_state
from esper.stack.processes.parts import default_parts
from esper.stack.processes.ports import HOST
from tests.stackfixtures import (
    access,
    bring_up,
    eventually,
    family,
    now,
    part,
    pid_of,
    survivors,
    tiny_stack,
)
from tests.waiting import PATIENCE_S, never


@pytest.fixture
def settings(tmp_path: Path, broker: str) -> Settings:
    """Of a home of its own, on the shared broker."""
    return Settings(home=tmp_path / "home", kafka=KafkaSettings(bootstrap=broker))


def test_two_homes_side_by_side_and_two_ups_at_once_in_one(tmp_path: Path) -> None:
    """One stack a home, each with its own broker, all topics and no shared port.

    After `down` no process is left, and ports are kept.
    """
    one, other = Settings(home=tmp_path / "one"), Settings(home=tmp_path / "other")
    try:
        with ThreadPoolExecutor(3) as pool:
            first, second, third = pool.map(bring_up, (one, other, one))
        assert first == third == stack.running(one)
        assert not set(now(one).ports.values()) & set(now(other).ports.values())
        clusters = [
            AdminClient(access(home).librdkafka()).list_topics(timeout=10) for home in (one, other)
        ]
        assert len({cluster.cluster_id for cluster in clusters}) == 2
        assert all(set(TOPICS) <= set(cluster.topics) for cluster in clusters)
        stack.wait_ready(one, ["broker", "nissa"], PATIENCE_S)
        members = family(now(one).supervisor.pid)
        assert len(members) >= 5  # supervisor, leash, broker, part, the part's child
        ports = now(one).ports
        assert stack.down(one)
        assert survivors(members) == []
        left = stack_state.read(one.stack_dir)
        assert left is not None
        assert (left.phase, left.ports) == ("down", ports)
        assert stack.running(other) == second
    finally:
        stack.down(one)
        stack.down(other)


@contextmanager
def taken(*ports: int) -> Iterator[None]:
    """Within: these ports of the machine are somebody's, of this test or of another."""
    with ExitStack() as held:
        for port in ports:
            listener = held.enter_context(socket.socket())
            with suppress(OSError):
                listener.bind((HOST, port))
                listener.listen()
        yield


def test_ports_of_the_last_time_are_taken_again(settings: Settings) -> None:
    """A bookmark on a part's page survives a restart of the stack: it takes them again although
    the well-known ones, which every stack of the machine wants, are free now.
    """
    wanted = [one.well_known for one in default_parts(settings)]
    with taken(*wanted), tiny_stack(settings) as before:
        pass
    assert stack.running(settings) is None
    assert not stack.down(settings)
    with tiny_stack(settings) as after:
        assert after == before


def test_a_part_that_does_not_exist_yet_is_reported_and_does_not_stop_the_stack(
    settings: Settings,
) -> None:
    """It backs off, its reason is in the state, and waiting for it says so in one sentence."""
    with tiny_stack(settings):
        assert eventually(lambda: part(settings, "tamiyo").restarts >= 2)
        assert eventually(lambda: part(settings, "tamiyo").phase == "backing off")
        assert "No module named esper_processors.no_such_part" in part(settings, "tamiyo").reason
        with pytest.raises(
            UnavailableError, match=r"tamiyo is not ready after 0 s .*no_such_part.*tamiyo\.log"
        ):
            stack.wait_ready(settings, ["nissa", "tamiyo"], 0.1)
        assert part(settings, "nissa").phase == "ready"


def test_a_part_that_falls_silent_is_killed_and_started_again(settings: Settings) -> None:
    """Stopped, not dead: only the health check can tell."""
    with tiny_stack(settings) as endpoints:
        before = pid_of(settings, "nissa")
        os.kill(before, signal.SIGSTOP)
        assert eventually(lambda: part(settings, "nissa").restarts == 1)
        stack.wait_ready(settings, ["nissa"], PATIENCE_S)
        assert pid_of(settings, "nissa") != before
        assert "did not answer" in part(settings, "nissa").reason
        connection = HTTPConnection(endpoints.nissa_url.removeprefix("http://"), timeout=5)
        connection.request("GET", "/health")
        assert connection.getresponse().status == 200
        connection.close()


def test_the_stack_ends_with_its_last_owner(settings: Settings) -> None:
    """Two owners, one of them killed with SIGKILL: it stays; both gone: every process of
    it ends.
    """
    program = (sys.executable, "-I", "-S", "-c", "input()")
    with (
        subprocess.Popen(program, stdin=subprocess.PIPE) as one,
        subprocess.Popen(program, stdin=subprocess.PIPE) as other,
    ):
        try:
            bring_up(settings, one.pid)
            bring_up(settings, other.pid)
            members = family(now(settings).supervisor.pid)
            one.kill()
            one.wait()
            assert never(lambda: stack.running(settings) is None)
            other.kill()
            other.wait()
            assert eventually(lambda: not survivors(members))
        finally:
            one.kill()
            other.kill()
            stack.down(settings)


def test_an_owner_may_release_the_stack_while_it_lives(settings: Settings) -> None:
    """A run that ends inside a longer program leaves nothing behind.

    Who asks again meanwhile gets a stack that works.
    """
    with tiny_stack(settings):
        stack.release(settings, os.getpid())
        assert eventually(lambda: stack.running(settings) is None)
        assert bring_up(settings) == stack.running(settings)
        stack.wait_ready(settings, ["nissa"], PATIENCE_S)


def test_a_port_that_the_user_set_and_that_is_taken_is_one_sentence(tmp_path: Path) -> None:
    """The start is refused, with the holder and the variable, and nothing runs afterwards."""
    with socket.create_server((HOST, 0)) as holder:
        settings = Settings(
            home=tmp_path / "home", nissa=PartSettings(port=holder.getsockname()[1])
        )
        with pytest.raises(
            UnavailableError,
            match=rf"port {settings.nissa.port} for nissa is in use by .* set ESPER_NISSA__PORT",
        ):
            bring_up(settings)
    assert stack.running(settings) is None
    assert not stack.down(settings)


def test_asking_a_home_for_another_kafka_than_its_stack_uses_is_refused(settings: Settings) -> None:
    """With ESPER_KAFKA__BOOTSTRAP no broker is started; the same home cannot be on two clusters."""
    with tiny_stack(settings) as endpoints:
        assert endpoints.bootstrap == settings.kafka.bootstrap
        assert now(settings).part("broker") is None
        with pytest.raises(UsageError, match=r"not the embedded broker: run `esper down` first"):
            bring_up(Settings(home=settings.home))


def test_a_home_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    """No traceback from deep inside."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError, match="cannot be written"):
        bring_up(Settings(home=tmp_path / "file" / "home"))
