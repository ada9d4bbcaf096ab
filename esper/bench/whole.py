"""The whole on this machine: a stack of its own with a short run, its memory, its cache, and how
soon Nissa knows.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import psutil

from esper import stack
from esper.bench.estimate import Estimate, Samples, exactly, p99
from esper.bench.figure_registry import Bench, figure
from esper.bench.history import messages
from esper.clock import Clock
from esper.config import ServiceSettings, Settings
from esper.errors import UnavailableError
from esper.events import Event, decode
from esper.events.records import CacheSampled, ResourceSampled
from esper.oona.bus.access import Access
from esper.oona.bus.kafka import KafkaBus
from esper.service.client import Client
from esper.stack.processes.parts import child_environment

E = TypeVar("E", bound=Event)

EPOCHS = 30
PARTS = ("tolaria", "tamiyo", "nissa", "history", "foundry")
_READY_S = 120.0
_RUN_S = 170.0
_SIGNALS = 20
_PATIENCE_S = 20.0


@dataclass(frozen=True)
class Whole:
    """What was seen of one stack: MB of each process, the trainer's last samples, and seconds until
    Nissa had a health signal.
    """

    megabytes: dict[str, float]
    cache: CacheSampled
    nissa: Samples


def whole(bench: Bench) -> Whole:
    """Start a stack, train mnist1d for some epochs on it, look at both, and stop it.

    Raises:
        UnavailableError: the stack or the run does not come to its end.
    """
    settings = Settings(
        home=bench.folder / "home", service=ServiceSettings(rate=1000.0)
    )  # it asks Nissa every 5 ms
    bench.progress("starting a stack")
    try:
        endpoints = stack.up(settings, owner_pid=os.getpid(), progress=bench.progress)
        stack.wait_ready(settings, PARTS, _READY_S)
        bench.progress(f"training mnist1d for {EPOCHS} epochs")
        _train(settings)
        bus = KafkaBus(Access.of(settings, "viewer", bootstrap=endpoints.bootstrap))
        resources, cache = (
            _last(bus, ResourceSampled, bench.clock),
            _last(bus, CacheSampled, bench.clock),
        )
        megabytes = _memory(settings) | {"trainer": resources.rss_bytes / 1e6}
        sending = KafkaBus(Access.of(settings, "trainer", bootstrap=endpoints.bootstrap))
        return Whole(megabytes, cache, _nissa(bench, sending, endpoints.nissa_url, settings))
    finally:
        stack.down(settings)


def _train(settings: Settings) -> None:
    command = [
        sys.executable,
        "-m",
        "esper.cli",
        "run",
        "mnist1d",
        "--json",
        "--set",
        f"run.epochs={EPOCHS}",
    ]
    environment = child_environment(os.environ, settings)
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=_RUN_S
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(
            f"A run of {EPOCHS} epochs takes more than {_RUN_S:g} s here; see what else "
            "the machine does."
        ) from None
    if done.returncode:
        raise UnavailableError(
            f"The run of the benchmark failed: {done.stderr.strip().splitlines()[-1]}"
        )


def _last(bus: KafkaBus, kind: type[E], clock: Clock) -> E:
    """The newest event of a kind from the trainer."""
    newest: E | None = None
    deadline = clock.monotonic() + _PATIENCE_S
    with bus.reader([kind.TOPIC], start="beginning") as reader:
        ends = reader.stable_end()
        while (
            any(at < ends[pair] for pair, at in reader.position().items())
            and clock.monotonic() < deadline
        ):
            for received in reader.poll(1000, 0.5):
                event = decode(received.value)
                if (
                    isinstance(event, kind)
                    and event.sender_id == "trainer"
                    and (newest is None or event.occurred_at > newest.occurred_at)
                ):
                    newest = event
    if newest is None:
        raise UnavailableError(
            f"The run of the benchmark left no {kind.NAME} on {kind.TOPIC}; see whether "
            "telemetry is on."
        )
    return newest


def _memory(settings: Settings) -> dict[str, float]:
    """Resident MB of the supervisor and of each part, with what it has started."""
    now = stack.status(settings)
    if now is None:
        raise UnavailableError(
            "The stack of the benchmark has ended by itself; its logs went with it."
        )
    pids = {"supervisor": now.supervisor.pid} | {
        part.name: part.process.pid for part in now.parts if part.process
    }
    found = {}
    for name, pid in pids.items():
        process = psutil.Process(pid)
        # the supervisor's children are the other parts, which have figures of their own
        family = [process] if name == "supervisor" else [process, *process.children(recursive=True)]
        found[name] = sum(one.memory_info().rss for one in family) / 1e6
    return found


def _nissa(bench: Bench, bus: KafkaBus, url: str, settings: Settings) -> Samples:
    """Seconds from sending a health signal to Nissa's status counting it."""
    client = Client(settings, subject="bench", part="nissa", clock=bench.clock)
    waits = []
    with bus.producer(sender_id="bench") as producer:
        for message in messages(bench, _SIGNALS):
            known = _counted(client, url)
            began = bench.clock.monotonic()
            producer.send_message(message)
            producer.flush(5)
            while _counted(client, url) <= known:
                if bench.clock.monotonic() - began > _PATIENCE_S:
                    raise UnavailableError(
                        f"Nissa has not counted a health signal within {_PATIENCE_S:g} s."
                    )
                bench.clock.sleep(0.005)
            waits.append(bench.clock.monotonic() - began)
    return np.array(waits)


def _counted(client: Client, url: str) -> int:
    """How many health signals Nissa has counted."""
    status = client.json(f"{url}/api/v1/status", timeout=5)
    return int(status["events"].get("telemetry.seed.health", 0))


@figure(
    "health_to_nissa",
    "s",
    "from sending a health signal to Nissa's status counting it, p99",
    at_most=1,
)
def health_to_nissa(bench: Bench) -> Estimate:
    """One signal after the other, through the real broker."""
    return p99(bench.once(whole).nissa)


@figure(
    "cache_hit_rate",
    "%",
    (
        f"kernels asked for in {EPOCHS} epochs of mnist1d that memory or disk had, on a fresh "
        "installation"
    ),
    at_least=80,
)
def cache_hit_rate(bench: Bench) -> Estimate:
    """What was fetched ahead counts as a hit when it is asked for."""
    cache = bench.once(whole).cache
    hits = cache.hits_memory + cache.hits_disk
    asked = hits + cache.hits_store + cache.misses
    if not asked:
        raise UnavailableError(
            "The run of the benchmark asked for no kernel; the foundry was too slow for it."
        )
    return exactly(100 * hits / asked)


def _memory_of(name: str) -> None:
    @figure(f"memory_{name}", "MB", f"resident memory of the {name} after a run")
    def memory(bench: Bench) -> Estimate:
        """One look."""
        megabytes = bench.once(whole).megabytes
        if name not in megabytes:
            raise UnavailableError(f"The stack runs no {name} of its own.")
        return exactly(megabytes[name])


for _name in ("broker", *PARTS, "supervisor", "trainer"):
    _memory_of(_name)
