"""Attack: everything at once against a whole stack beside which a run trains, by one who may write
every topic and reach every port.

Mutated messages on all topics, queries and settings of a grammar, malformed HTTP, hostile exports.
Expected: every part is alive, ready and the process that it was, its memory is bounded, each bad
message is one dead letter of each consumer that reads it, and the run trains to the digest that it
has without all this; its journal folds.

`ESPER_FUZZ=100000` runs the full length; `ESPER_FUZZ_SEED` another seed.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from esper.config import Settings
from esper.events.records import KernelPublished
from esper.history.confined import engine
from esper.oona.bus.kafka import KafkaBus
from esper.service.transport import signing
from tests import commands
from tests.attacks.hostile import real
from tests.attacks.siege import (
    DECISIONS,
    LETTERS,
    Amounts,
    Letters,
    Place,
    Siege,
    decided,
    environment,
    held,
    kept_once,
    watched,
)
from tests.chaos.run.lives import LONGEST_S
from tests.integration.run.whole import LOCKSTEP, endpoints, result
from tests.stackfixtures import access, now
from tests.waiting import PATIENCE_S, until

COUNT = int(os.environ.get("ESPER_FUZZ", "200"))
SEED = int(os.environ.get("ESPER_FUZZ_SEED", "11"))
_QUERY = 256 << 20
LIMITS = {
    "ESPER_SERVICE__RATE": "1000000",
    "ESPER_SERVICE__BURST": "1000000",
    "ESPER_HISTORY__MEMORY_BYTES": str(_QUERY),
}
"""What is given to the stack: nobody is turned away for asking often, so that all of it is met.

And a query may take a quarter of a gigabyte.
"""
RECIPE = (*(one for one in LOCKSTEP if not one.startswith("run.epochs")), "run.epochs=5")
GROWTH = engine._READERS * _QUERY + (512 << 20)
"""Bytes by which a part may grow, children included: the memory of as many queries as the history
runs at once, and 512 MiB for tables and their merges, rows and heaps.

One caller asks, but a query whose time is over may still run while the next ones begin. The short
form takes 46 MiB in the history and 6 MiB at most in another part; 20,000 messages with 1,000
queries 819 MiB in the history, 123 in the broker, 21 at most in another part; 100,000 with 5,000
(and 252,000 letters) 1,386 MiB in the history, 101 in the broker, 55 at most in another part.
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_800 + COUNT)]


@pytest.fixture(scope="module")
def besieged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with a whole stack of its own."""
    home = tmp_path_factory.mktemp("besieged")
    up = commands.run(
        "up",
        "--wait",
        str(int(PATIENCE_S)),
        environment={**environment(home), **LIMITS},
        seconds=2 * PATIENCE_S,
    )
    try:
        assert up.returncode == 0, up.stderr
        yield home
    finally:
        commands.run("down", environment=environment(home))


@dataclass
class Runs:
    """Runs of one recipe with one seed in a home; `ended` has what each said at its end."""

    home: Path
    ended: list[dict[str, Any]] = field(default_factory=list)

    def begin(self, run_id: str) -> commands.Command:
        """The next one, once it has ended its first epoch."""
        sets = (part for one in RECIPE for part in ("--set", one))
        life = commands.begin(
            "run",
            "mnist1d",
            "--json",
            "--run-id",
            run_id,
            *sets,
            environment=environment(self.home),
        )
        outbox = self.home / "runs" / run_id / "outbox"
        until(
            lambda: (
                life.poll() is not None
                or any(
                    b"esper.events.EpochEnded" in path.read_bytes()
                    for path in outbox.glob("*.frames")
                )
            )
        )
        return life

    def end(self, life: commands.Command) -> None:
        """Wait for its end, which has to be a good one."""
        code = life.wait(LONGEST_S)
        assert code == 0, life.err.read_text()[-4_000:]
        self.ended.append(json.loads(life.out.read_text().splitlines()[-1]))


def test_a_run_beside_an_attack_on_everything_trains_to_the_same_bits(
    besieged: Path, tmp_path: Path
) -> None:
    """Runs follow each other for as long as the attack lasts, each as the one before it in quiet.

    Then every letter is counted.
    """
    settings, amounts = Settings(home=besieged), Amounts.of(COUNT)
    runs = Runs(besieged)
    quiet = runs.begin("quiet")
    exported = real(tmp_path / "real")
    runs.end(quiet)
    before, beginning = now(settings), held(now(settings))
    siege = Siege(settings, before, exported, tmp_path, amounts, SEED)
    with watched(before) as most, ThreadPoolExecutor(4) as pool:
        attacks: list[Future[None]] = []
        while not attacks or not all(one.done() for one in attacks):
            siege.run_id = f"beside-{len(runs.ended)}"
            life = runs.begin(siege.run_id)
            attacks = attacks or siege.begin(pool)
            runs.end(life)
        for attack in attacks:
            attack.result()
    assert siege.failed == []
    assert len(siege.sent) == amounts.messages
    letters, owed = told(settings, siege, len(runs.ended))
    figures = {
        "seed": SEED,
        "messages": amounts.messages,
        "queries": amounts.queries,
        "requests": amounts.requests,
        "exports": amounts.exports,
        "runs": len(runs.ended) - 1,
        "letters": letters,
        "owed": owed,
        "answers": dict(sorted(siege.answered.items())),
        "imported": siege.refused.count(""),
        "mib": {
            name: {
                "before": size >> 20,
                "most": most[name] >> 20,
                "after": held(before)[name] >> 20,
            }
            for name, size in beginning.items()
        },
    }
    sys.stdout.write(json.dumps(figures) + "\n")
    until(
        lambda: all(part.phase == "ready" for part in now(settings).parts),
        lambda: str(now(settings).parts),
    )
    after = {part.name: (part.process, part.restarts) for part in now(settings).parts}
    assert after == {part.name: (part.process, part.restarts) for part in before.parts}
    assert all(part.restarts == 0 for part in before.parts)
    assert {one["digest"] for one in runs.ended} == {runs.ended[0]["digest"]}
    assert {one["accuracy"] for one in runs.ended} == {runs.ended[0]["accuracy"]}
    assert runs.ended[0]["seeds"].get("DORMANT", 0) < 8
    for one in runs.ended:
        folded = result(
            commands.run(
                "replay", "fold", one["run_id"], "--json", environment=environment(besieged)
            )
        )
        assert (folded["status"], folded["equals_live"]) == ("COMPLETED", True)
    assert {
        name: most[name] - size for name, size in beginning.items() if most[name] - size > GROWTH
    } == {}


def lacking(
    owed: set[tuple[str, Place]], there: Collection[tuple[str, Place]], parts: Iterable[object]
) -> str:
    """Which letters lack, by consumer and partition: how many, and between which offsets."""
    found: dict[tuple[str, str, int], list[int]] = {}
    for consumer, (topic, partition, offset) in sorted(owed - set(there)):
        found.setdefault((consumer, topic, partition), []).append(offset)
    ranges = {key: (len(one), one[0], one[-1]) for key, one in found.items()}
    return f"{len(owed - set(there))} letters lack: {ranges}; {list(parts)}"


def told(settings: Settings, siege: Siege, runs: int) -> tuple[int, int]:
    """That each consumer has written its one letter about each message that it cannot take, and
    none about any that nobody attacked with.

    Gives the numbers of letters, and of those that had to be there.
    """
    bus, trust = KafkaBus(access(settings)), signing.trust(settings.keys_dir)
    owed = {(consumer, place) for place, consumers in siege.sent.items() for consumer in consumers}
    for run_id in set(siege.aimed.values()):
        first, *_, last = decided(bus, run_id, trust)
        aimed = (place for place, aim in siege.aimed.items() if aim == run_id)
        owed |= {
            ("trainer", place) for place in aimed if place[0] == DECISIONS and first < place < last
        }
    with bus.reader([LETTERS], start="beginning") as reader:
        letters = Letters(reader, siege.sent.keys())

        def all_there() -> bool:
            letters.read()
            return owed <= letters.counts.keys()

        until(
            all_there,
            lambda: lacking(owed, letters.counts.keys(), now(settings).parts),
        )
        kept_once(settings, endpoints(settings.home).history_url, letters, siege.sent.keys())
        letters.read()
    # kernels are for all runs, and each trainer reads them from the beginning
    most = {("trainer", KernelPublished.TOPIC): runs}
    assert {
        about: count
        for about, count in letters.counts.items()
        if count > most.get((about[0], about[1][0]), 1)
    } == {}
    assert {about for about in letters.counts if about[1] not in siege.sent} == set()
    return letters.counts.total(), len(owed)
