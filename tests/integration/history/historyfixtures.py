"""A history process at work, for tests."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from confluent_kafka import Producer

from esper.clock import SystemClock
from esper.config import Settings
from esper.events.codec import encode
from esper.events.envelope import Event, Origin
from esper.events.records import SeedTransitioned, TrainingStep
from esper.stack.processes.ports import PortClaims
from tests.commands import Command, begin
from tests.servicefixtures import bearer, token

ROOT = Path(__file__).parents[3]


@dataclass(slots=True)
class HistoryPart:
    """One `python -m esper.history`."""

    home: Path
    url: str
    child: Command

    @property
    def settings(self) -> Settings:
        """Of its home."""
        return Settings(home=self.home)

    def token(self) -> str:
        """A viewer's token."""
        return token(self.settings, SystemClock())

    def ask(self, sql: str) -> list[list[Any]]:
        """The rows of a query; an empty list while nobody answers."""
        address = f"{self.url}/?query={quote(sql)}&default_format=JSONCompactEachRow"
        try:
            request = urllib.request.Request(address, headers=bearer(self.token()))  # noqa: S310
            with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310 - our own
                return [json.loads(line) for line in response.read().splitlines()]
        except (urllib.error.URLError, ConnectionError):
            return []

    def health(self) -> dict[str, Any]:
        """What /health says; empty while nobody answers or it is not ready."""
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=30) as response:  # noqa: S310 - the same
                found: dict[str, Any] = json.load(response)
                return found
        except (urllib.error.URLError, ConnectionError):
            return {}


def environment(
    home: Path, bootstrap: str, port: int, more: Mapping[str, str] | None = None
) -> dict[str, str]:
    """What the supervisor would give the part."""
    given = {
        "ESPER_HOME": str(home),
        "ESPER_KAFKA__BOOTSTRAP": bootstrap,
        "ESPER_HISTORY__PORT": str(port),
        "PYTHONPATH": str(ROOT),
    }
    return {**os.environ, **given, **(more or {})}


def launch(home: Path, bootstrap: str, port: int) -> HistoryPart:
    """Start the process; it comes up behind."""
    home.mkdir(parents=True, exist_ok=True)
    child = begin(
        module="esper.history",
        environment=environment(home, bootstrap, port),
        cwd=home,
        out=home / "history.log",
    )
    return HistoryPart(home, f"http://127.0.0.1:{port}", child)


@contextmanager
def history_part(home: Path, bootstrap: str) -> Iterator[HistoryPart]:
    """A history process for as long as the block runs, and after it whatever it was replaced by."""
    with PortClaims() as claims:
        part = launch(home, bootstrap, claims.choose(salt=f"{home} history", preferred=()))
        try:
            yield part
        finally:
            part.child.kill()


def steps(run_id: str, numbers: Sequence[int]) -> list[Event]:
    """Training steps of a run."""
    origin = Origin(run_id, "trainer-0", "0" * 32, SystemClock())
    return [
        TrainingStep(
            **origin.envelope(f"step/{number}"),
            epoch=0,
            step=number,
            loss=0.5,
            accuracy=0.5,
            gradient_norm=1.0,
            learning_rate=0.1,
            samples=10,
            duration_us=5,
        )
        for number in numbers
    ]


def transitions(run_id: str, numbers: Sequence[int]) -> list[Event]:
    """Events of a run's journal."""
    origin = Origin(run_id, "trainer-0", "0" * 32, SystemClock())
    return [
        SeedTransitioned(
            **origin.envelope(f"transition/{number}"),
            timeline=0,
            sequence=number,
            epoch=0,
            step=number,
            layer="l",
            seed=0,
            from_stage="DORMANT",
            to_stage="GERMINATED",
            execution="LOADING",
            kernel_id="k",
            family="mlp",
            decision_id="",
            alpha=0.0,
            alpha_target=0.3,
            reason="A test.",
        )
        for number in numbers
    ]


class PlainProducer:
    """Sends framed events with a client that knows nothing of Esper's bus."""

    def __init__(self, bootstrap: str) -> None:
        self._client = Producer(
            {
                "bootstrap.servers": bootstrap,
                "partitioner": "murmur2_random",
                "linger.ms": 5,
                "enable.idempotence": True,
            }
        )

    def send(self, events: Sequence[Event]) -> None:
        """Send and wait for the acknowledgement."""
        for event in events:
            message = encode(event)
            self._client.produce(
                message.topic, message.value, message.key, headers=list(message.headers)
            )
            self._client.poll(0)
        assert self._client.flush(20) == 0

    def send_raw(self, topic: str, key: bytes, value: bytes) -> None:
        """Send bytes as they are."""
        self._client.produce(topic, value, key)
        assert self._client.flush(20) == 0
