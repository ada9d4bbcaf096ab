"""A trainer that sleeps while its run is resumed elsewhere: when it wakes, it stops, and the run
has one writer only.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from esper.clock import SystemClock
from esper.errors import UsageError
from esper.events import decode
from esper.events.envelope import JournalEvent
from esper.events.records import RunResumed
from esper.journal.reading import from_kafka
from esper.journal.replay import fold_journal, live_state
from tests.commands import Command, begin
from tests.waiting import until

CLOCK = SystemClock()
RUN = "zombie"
EPOCHS = 60  # more than are trained until the first two are seen
pytestmark = pytest.mark.slow


def trainer(home: Path, store: Path, broker: str, epochs: int, run_id: str = RUN) -> Command:
    environment = {**os.environ, "ESPER_HOME": str(home), "ESPER_URZA__STORE": str(store)}
    environment["ESPER_CHECKPOINTS__MASTER_KEY"] = base64.b64encode(
        bytes(range(32))
    ).decode()  # who shares a store shares its key
    return begin(
        broker, run_id, str(epochs), module="tests.chaos.run.trainer", environment=environment
    )


def journal(broker: str) -> list[JournalEvent]:
    try:
        events = [decode(received.value) for received in from_kafka(broker, RUN, clock=CLOCK)]
    except UsageError:
        return []  # nothing has reached Kafka yet
    assert all(isinstance(event, JournalEvent) for event in events)
    return events  # type: ignore[return-value]


def epochs_of(broker: str) -> int:
    return sum(event.NAME == "EpochEnded" for event in journal(broker))


def frames_of(home: Path) -> int:
    return sum(path.stat().st_size for path in (home / "runs" / RUN / "outbox").glob("*.frames"))


def test_a_trainer_that_wakes_up_after_another_took_over_stops(tmp_path: Path, broker: str) -> None:
    """SIGSTOP here, --resume from another home, SIGCONT: exit code 4 with a sentence, a sealed
    outbox, and a journal that only the other wrote.
    """
    here, there, store = tmp_path / "here", tmp_path / "there", tmp_path / "store"
    zombie = trainer(here, store, broker, EPOCHS)
    resumed = None
    try:
        until(lambda: epochs_of(broker) >= 2, zombie.poll)
        zombie.send_signal(signal.SIGSTOP)
        before = CLOCK.now_us()
        shutil.copytree(
            here / "keys", there / "keys"
        )  # the same installation, elsewhere: it has the keys that sign the journal
        resumed = trainer(there, store, broker, 0)
        until(lambda: any(isinstance(event, RunResumed) for event in journal(broker)), resumed.poll)
        taken = next(event.sequence for event in journal(broker) if isinstance(event, RunResumed))
        zombie.send_signal(signal.SIGCONT)
        _, said = zombie.said()
        assert zombie.returncode == 4, said
        assert said.splitlines()[-1] == (
            f"esper: Another trainer has taken over run {RUN}; this one has stopped and "
            "writes nothing more."
        )
        outbox = here / "runs" / RUN / "outbox"
        assert "another writer has taken over" in (outbox / "sealed").read_text()
        left = frames_of(here)
        out, said = resumed.said()
        assert resumed.returncode == 0, said
        assert frames_of(here) == left
    finally:
        for one in (zombie, resumed):
            if one is not None:
                one.kill()
    found = json.loads(out.splitlines()[-1])
    assert (found["outcome"], found["epochs"]) == ("FINISHED", EPOCHS)
    events = journal(broker)
    assert [event.sequence for event in events] == list(range(len(events)))
    assert [event.NAME for event in events].count("RunResumed") == 1
    assert all(event.occurred_at >= before for event in events[taken:])
    report = fold_journal(
        RUN,
        (one.value for one in from_kafka(broker, RUN, clock=CLOCK)),
        live_state(there / "runs" / RUN),
        clock=CLOCK,
    )
    assert report.compared
    assert (report.state.status, report.state.incarnation, report.epochs) == (
        "COMPLETED",
        1,
        EPOCHS,
    )
    again = trainer(here, store, broker, 0)
    _, said = again.said()
    assert again.returncode == 2
    assert (
        said.splitlines()[-1]
        == f"esper: Run {RUN} is finished, so there is nothing to resume; start a new run."
    )
    unknown = trainer(here, store, broker, 0, run_id="nobody-began-this")
    _, said = unknown.said()
    assert unknown.returncode == 2
    assert "has no journal on this Kafka, so there is nothing to resume" in said.splitlines()[-1]
    assert not (here / "runs" / "nobody-began-this").exists()
