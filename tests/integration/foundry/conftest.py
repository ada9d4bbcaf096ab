"""The foundry as a process of its own, on the real broker."""

from __future__ import annotations

import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import httpx
import pytest

from esper.clock import SystemClock
from esper.config import Settings
from esper.errors import PoisonError
from esper.events import Event, Origin, decode
from esper.events.records import FieldReport, ReportedLayer
from esper.oona.bus.kafka import KafkaBus
from esper.oona.bus.port import Producer, Reader
from esper.service import Role
from esper.stack.processes.ports import PortClaims
from tests.commands import Command, begin
from tests.servicefixtures import bearer, client_of, token
from tests.waiting import PATIENCE_S

TOPICS = (
    "innovation.blueprints",
    "compilation.attempts",
    "compilation.kernels",
    "validation.kernels",
    "dead.letters",
)
CLOCK = SystemClock()
T = TypeVar("T")
E = TypeVar("E", bound=Event)


@dataclass
class FoundryProcess:
    """Starts, asks and ends `python -m esper.tezzeret`."""

    bootstrap: str
    home: Path
    port: int
    process: Command | None = None
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.home / "foundry.log"

    def start(self) -> None:
        """Start it unless it runs."""
        if self.process is not None and self.process.poll() is None:
            return
        environment = os.environ | {
            "ESPER_HOME": str(self.home),
            "ESPER_KAFKA__BOOTSTRAP": self.bootstrap,
            "ESPER_URZA__PORT": str(self.port),
            "OMP_NUM_THREADS": "1",
        }
        self.process = begin(module="esper.tezzeret", environment=environment, out=self.log)

    def health(self) -> tuple[int, dict[str, object]]:
        """Status code and body of /health; 0 where nobody listens."""
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}/health", timeout=30
            ) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)
        except urllib.error.URLError:
            return 0, {}

    @property
    def settings(self) -> Settings:
        """Of its home, whose key signs the tokens that it takes."""
        return Settings(home=self.home)

    def client(self, role: Role = "viewer") -> httpx.Client:
        """A client with a token of this role."""
        made = client_of(f"http://127.0.0.1:{self.port}")
        made.headers.update(bearer(token(self.settings, CLOCK, role)))
        return made

    def wait_ready(self) -> list[int]:
        """Wait until /health answers 200; gives the codes seen on the way."""
        seen: list[int] = []
        ends = CLOCK.monotonic() + PATIENCE_S
        while CLOCK.monotonic() < ends:
            if self.process is not None and self.process.poll() is not None:
                pytest.fail(f"The foundry ended; it said {self.log.read_text()}")
            code, _ = self.health()
            if not seen or seen[-1] != code:
                seen.append(code)
            if code == 200:
                return seen
            CLOCK.sleep(0.01)
        pytest.fail(f"The foundry was not ready in time; it said {self.log.read_text()}")

    def end(self, number: signal.Signals) -> int:
        """Send a signal and wait for the end; gives the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait()


@dataclass
class Listener:
    """Reads the foundry's topics from their beginning, and keeps every event."""

    reader: Reader
    events: list[Event] = field(default_factory=list)

    def until(self, find: Callable[[list[Event]], T | None]) -> T:
        """Read on until `find` gives something of all events so far."""
        ends = CLOCK.monotonic() + PATIENCE_S
        while CLOCK.monotonic() < ends:
            found = find(self.events)
            if found:
                return found
            for received in self.reader.poll(1000, 0.2):
                try:
                    self.events.append(decode(received.value))
                except PoisonError:  # another test's
                    continue
        pytest.fail(f"Nothing came in time; the last events are {self.events[-3:]}")

    def of(self, kind: type[E], run_id: str) -> list[E]:
        """The events of a kind and run heard so far."""
        return [
            event for event in self.events if isinstance(event, kind) and event.run_id == run_id
        ]


def report(
    run_id: str, *layers: tuple[int, tuple[int, ...]], families: tuple[str, ...] = ()
) -> FieldReport:
    """A field report about layers, given as (in_features, chunks)."""
    return FieldReport(
        **Origin(run_id, "tamiyo", "7" * 32, CLOCK).envelope("report"),
        run_seed=0,
        layers=tuple(
            ReportedLayer(
                name=f"layer{number}",
                kind="Linear",
                in_features=reads,
                out_features=sum(chunks),
                chunks=chunks,
                parameter_budget=20_000,
            )
            for number, (reads, chunks) in enumerate(layers)
        ),
        families=families,
    )


@pytest.fixture(scope="module")
def foundry(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FoundryProcess]:
    """One foundry with its own store; tests start it, and may kill it."""
    home = tmp_path_factory.mktemp("foundry")
    with PortClaims() as claims:
        found = FoundryProcess(broker, home, claims.choose(salt=f"{home} foundry", preferred=()))
        yield found
        if found.process is not None and found.process.poll() is None:
            found.end(signal.SIGKILL)


@pytest.fixture
def listener(broker: str) -> Iterator[Listener]:
    """Hears everything that the foundry says."""
    with KafkaBus(broker).reader(TOPICS, start="beginning") as reader:
        yield Listener(reader)


@pytest.fixture
def producer(broker: str) -> Iterator[Producer]:
    """Speaks as Tamiyo would."""
    with KafkaBus(broker).producer(sender_id="tamiyo") as found:
        yield found
        assert found.flush(10) == 0
