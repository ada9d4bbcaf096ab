"""Real workers in tests: `python -m esper_processors.<part>` as the stack starts it, against the
session's broker.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from esper.clock import SystemClock
from esper.config import Settings
from esper.errors import PoisonError
from esper.events import Event, Message, decode, encode
from esper.events.records import AdaptationOutcome, EpochReviewed
from esper.events.seals import TAMIYO
from esper.oona.bus.kafka import KafkaBus
from esper.oona.bus.port import Received
from esper.service import Role
from esper.service.checks.tokens import own
from esper.service.transport import signing
from tests.commands import Command, begin
from tests.waiting import PATIENCE_S, eventually

CLOCK = SystemClock()

Part = Literal["tamiyo", "nissa"]


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Worker:
    """One worker process; `start` and `kill` as often as wanted."""

    def __init__(
        self,
        part: Part,
        bootstrap: str,
        home: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.port = free_port()
        self.log = home / f"{part}.log"
        self._part = part
        self.settings = Settings(home=home)
        self._environment = {
            **os.environ,
            "ESPER_HOME": str(home),
            "ESPER_KAFKA__BOOTSTRAP": bootstrap,
            f"ESPER_{part.upper()}__PORT": str(self.port),
            **(environment or {}),
        }
        self._child: Command | None = None

    def start(self) -> None:
        """Start the process; returns at once."""
        self._child = begin(
            module=f"esper_processors.{self._part}", environment=self._environment, out=self.log
        )

    def signal(self, number: int) -> tuple[float, int]:
        """Send a signal and wait for the end; gives the seconds that it took, and the exit code."""
        assert self._child is not None
        began = CLOCK.monotonic()
        self._child.send_signal(number)
        code = self._child.wait(PATIENCE_S)
        self._child = None
        return CLOCK.monotonic() - began, code

    def wait(self, seconds: float) -> int:
        """Wait for the process to end by itself; gives the exit code."""
        assert self._child is not None
        code = self._child.wait(seconds)
        self._child = None
        return code

    def stop(self) -> None:
        """End the process if it runs."""
        if self._child is not None:
            self.signal(signal.SIGKILL)

    def get(self, path: str, role: Role | None = "viewer") -> tuple[int, bytes]:
        """Status and body of a GET with a token of this role, or without one.

        Status 0 when nobody listens.
        """
        return self.ask("GET", path, role=role)

    def post(self, path: str, body: Any, role: Role | None = "operator") -> tuple[int, Any]:
        """Status and JSON of a POST."""
        code, answer = self.ask("POST", path, json.dumps(body).encode(), role=role)
        return code, json.loads(answer)

    def ask(
        self, method: str, path: str, body: bytes | None = None, *, role: Role | None
    ) -> tuple[int, bytes]:
        """Status and body of a request; status 0 when nobody listens."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", body, method=method
        )  # our own port
        if role is not None:
            request.add_header(
                "Authorization",
                f"Bearer {own(self.settings.keys_dir, subject='tests', clock=CLOCK, role=role)}",
            )
        if body is not None:
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310  # our own port
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()
        except (urllib.error.URLError, OSError):
            return 0, b""

    def json(self, path: str) -> Any:
        """The JSON body of a GET that must succeed."""
        code, body = self.get(path)
        assert code == 200, (code, body)
        return json.loads(body)

    def wait_ready(self) -> float:
        """Wait until it consumes; gives the seconds."""
        began = CLOCK.monotonic()
        wait_for(
            lambda: self.get("/health", None)[0] == 200,
            PATIENCE_S,
            lambda: self.log.read_text()[-3000:],
        )
        return CLOCK.monotonic() - began


def wait_for(
    condition: Callable[[], bool], seconds: float = PATIENCE_S, told: Callable[[], str] = lambda: ""
) -> None:
    """Wait until the condition holds; fail with what `told` says when it does not in time."""
    if not eventually(condition, seconds):
        pytest.fail(f"not within {seconds} s: {told()}")


def shared_home(factory: pytest.TempPathFactory) -> Path:
    """One home for all workers of a session: the next one takes over the group membership of the
    one before, which takes 6 s from another home.
    """
    home = factory.getbasetemp() / "processors"
    home.mkdir(mode=0o700, exist_ok=True)
    return home


@contextlib.contextmanager
def running(
    part: Part, bootstrap: str, home: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Worker]:
    """A worker that is ready, and ended afterwards; `environment` has settings of its own."""
    worker = Worker(part, bootstrap, home, environment)
    worker.start()
    try:
        worker.wait_ready()
        yield worker
    finally:
        worker.stop()


def review_of(run_id: str, packet: int) -> Callable[[Event, Received], bool]:
    """Whether an event is the review of this packet."""
    return lambda event, _: (
        isinstance(event, EpochReviewed) and (event.run_id, event.packet) == (run_id, packet)
    )


class Line:
    """Sends to the broker and collects what comes on some topics.

    With the home of an installation its decisions are signed as that one's Tamiyo.
    """

    def __init__(self, bootstrap: str, *topics: str, home: Path | None = None) -> None:
        self._keys = None if home is None else Settings(home=home).keys_dir
        bus = KafkaBus(bootstrap)
        self._producer = bus.producer(sender_id="test")
        self._reader = bus.reader(topics, start="end")
        self.received: list[Received] = []

    def send(self, *messages: Message | Event) -> None:
        """Send, and wait until the broker has them."""
        for message in messages:
            self._producer.send_message(
                self._encoded(message) if isinstance(message, Event) else message
            )
        assert self._producer.flush(20) == 0

    def _encoded(self, event: Event) -> Message:
        if self._keys is None or not isinstance(event, EpochReviewed | AdaptationOutcome):
            return encode(event)
        return signing.ensure(self._keys, TAMIYO, CLOCK).seal(event)

    def wait(
        self,
        wanted: Callable[[Event, Received], bool],
        *,
        count: int = 1,
        seconds: float = PATIENCE_S,
    ) -> Sequence[tuple[Event, Received]]:
        """The first `count` events that are `wanted`, of all that were ever received."""
        deadline = CLOCK.monotonic() + seconds
        while True:
            found = [
                (event, one)
                for one in self.received
                if (event := _event(one)) is not None and wanted(event, one)
            ]
            if len(found) >= count:
                return found
            if CLOCK.monotonic() > deadline:
                pytest.fail(f"{len(found)} of {count} events within {seconds} s")
            self.received += self._reader.poll(1000, 0.1)

    def close(self) -> None:
        """Give up connections."""
        self._producer.close()
        self._reader.close()


def _event(received: Received) -> Event | None:
    """The event in a message; None where a test has put something else there."""
    try:
        return decode(received.value, received.headers)
    except PoisonError:
        return None
