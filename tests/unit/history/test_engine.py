"""The process that holds chDB, as its parent sees it: it dies, hangs, and ends with its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from esper.clock import SystemClock
from esper.errors import UnavailableError
from esper.events.schemas import BY_NAME, current
from esper.history.confined.engine import CellEngine, open_engine
from esper.history.confined.query_settings import QueryLimits
from esper.history.confined.refusal import NETWORK, TIMEOUT, QueryError
from esper.history.sink import Sink
from esper.history.tables.migrations import migrate
from tests.unit.history.conftest import NamedBus, example, message, rows

KILLS = 2
MESSAGES = 6_000


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CellEngine]:
    """A history whose engine may be killed."""
    opened = open_engine(tmp_path_factory.mktemp("mortal") / "history", "")
    assert isinstance(opened, CellEngine)
    migrate(opened.client, SystemClock())
    yield opened
    opened.close()


def kill(engine: CellEngine) -> None:
    """End the process that holds chDB now, whichever it is."""
    os.kill(engine.pid, signal.SIGKILL)


def test_a_killed_engine_is_begun_again(mortal: CellEngine) -> None:
    """The query under way is refused with a code for a lost connection, the next one is answered by
    another process.
    """
    before = mortal.pid
    kill(mortal)
    with pytest.raises(QueryError) as caught:
        rows(mortal, "SELECT 1 AS n")
    assert caught.value.code == NETWORK
    assert rows(mortal, "SELECT 1 AS n") == [{"n": 1}]
    assert mortal.pid != before


def test_a_query_that_does_not_heed_its_time_is_ended(
    mortal: CellEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where ClickHouse itself does not stop in time, the process is ended: a caller waits no longer
    than the limit and a grace.
    """
    monkeypatch.setattr("esper.history.confined.engine._GRACE_S", -0.8)
    long = "SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 1"
    with pytest.raises(QueryError) as caught:
        mortal.answer(
            long, default_format="TSV", settings={"max_execution_time": "1"}, parameters={}
        )
    assert caught.value.code == TIMEOUT
    monkeypatch.undo()
    assert rows(mortal, "SELECT 1 AS n") == [{"n": 1}]


def test_a_sink_whose_engine_is_killed_loses_and_doubles_nothing(
    mortal: CellEngine, bus: NamedBus
) -> None:
    """The engine is killed again and again while blocks go in; every message is one row
    in the end.
    """
    wire = current(BY_NAME["TrainingStep"])
    with bus.producer(sender_id="test") as producer:
        for number in range(MESSAGES):
            datum = {
                **example("TrainingStep"),
                "event_id": f"00000000-0000-8000-8000-{number:012d}",
                "run_id": "killed",
                "step": number,
            }
            producer.send_message(message(wire, datum, "killed"))
        producer.flush(20)
    sink, stop = Sink(mortal.client, bus, SystemClock(), block_messages=200), threading.Event()
    thread = threading.Thread(target=sink.run, args=(stop,))
    thread.start()
    clock = SystemClock()
    deadline = clock.monotonic() + 150
    try:
        for kills in range(KILLS):
            while sink.progress.rows < (kills + 1) * MESSAGES // (KILLS + 1):
                assert clock.monotonic() < deadline
                clock.sleep(0.002)
            kill(mortal)
        while sum(sink.progress.positions.values()) < MESSAGES:
            assert clock.monotonic() < deadline, sink.progress
            clock.sleep(0.02)
    finally:
        stop.set()
        thread.join(60)
    found = rows(
        mortal,
        (
            "SELECT count() AS n, uniqExact(_partition, _offset) AS places FROM "
            "raw_training_step WHERE run_id = 'killed'"
        ),
    )
    assert found == [{"n": MESSAGES, "places": MESSAGES}]


def test_the_engine_ends_with_its_parent(tmp_path: Path) -> None:
    """A parent that is killed leaves no engine behind, not even in the middle of a query, so that
    the folder is free for the next.
    """
    code = (
        "import sys, threading, time\nfrom pathlib import Path\nfrom "
        "esper.history.confined.engine import open_engine\n"
        "engine = open_engine(Path(sys.argv[1]), '')\nlong = 'SELECT count() FROM "
        "numbers(1000000000000) WHERE sipHash64(number) = 1'\n"
        "threading.Thread(target=lambda: engine.answer(long, default_format='TSV', "
        "settings={}, parameters={}), daemon=True).start()\n"
        "print(engine.pid, flush=True)\ntime.sleep(100)"
    )
    parent = subprocess.Popen(
        (sys.executable, "-c", code, str(tmp_path / "history")),
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    assert parent.stdout is not None
    engine = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert psutil.wait_procs([engine], timeout=20)[1] == []
    opened = open_engine(tmp_path / "history", "")
    assert rows(opened, "SELECT 1 AS n") == [{"n": 1}]
    opened.close()


def test_a_closed_history_says_so(tmp_path: Path) -> None:
    """After `close` nothing is begun again."""
    opened = open_engine(tmp_path / "history", "", QueryLimits())
    opened.close()
    with pytest.raises(UnavailableError, match="closed"):
        opened.client.command("SELECT 1")
