"""Claims about when alerts are saved, said and acknowledged: without a broker, which may fail."""

from __future__ import annotations

import asyncio
import math
import shutil
from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError

from esper.clock import ManualClock
from esper.config import Settings
from esper.events import Event, decode, encode
from esper.events.records import AlertRaised, AlertResolved
from esper.oona.bus.port import Received
from esper.oona.inbound.intake import opened
from esper_processors.nissa.alerting import desk as desk_module
from esper_processors.nissa.alerting import notices
from esper_processors.nissa.alerting.desk import HELD_BACK, STATE, AlertDesk
from tests.unit.nissa.journal import Run

TELEMETRY = "telemetry.training.step"


class Topic:
    """A topic that keeps what is sent, while its broker is there."""

    def __init__(self, broker: Broker, name: str) -> None:
        self._broker, self._name = broker, name

    async def maybe_declare(self) -> None:
        """It is there."""

    async def send(self, *, key: bytes, value: bytes | None, **_: object) -> Awaitable[None]:
        """Take a message; what is awaited says whether the broker has it."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._name in self._broker.away:
            future.set_exception(KafkaConnectionError())
        else:
            self._broker.log.append((self._name, key, value))
            future.set_result(None)
        return future


class Broker:
    """What Faust's app is to the desk; `away` are topics that cannot be written."""

    def __init__(self) -> None:
        self.log: list[tuple[str, bytes, bytes | None]] = []
        self.away: set[str] = set()

    def topic(self, name: str, **_: object) -> Topic:
        """One of them."""
        return Topic(self, name)

    def task(self, _: object) -> None:
        """Not run here."""

    service = task

    def timer(self, _: float) -> Callable[[object], None]:
        """Not run here."""
        return self.task


class Desk:
    """A desk, the broker behind it, and what was acknowledged."""

    def __init__(self, home: Path, clock: ManualClock, broker: Broker | None = None) -> None:
        self.broker = broker or Broker()
        self.reading: dict[tuple[str, int], tuple[int, int]] = {}
        app: Any = self.broker
        self.desk = AlertDesk(
            app,
            Settings(home=home),
            clock,
            reading=lambda: self.reading,
            caught_up=lambda *_: True,
            opened=opened,
        )
        topics = {one.topic: one.apply for one in self.desk.followed()}
        # what a follower would bring after a kill
        for number, (topic, key, value) in enumerate(self.broker.log):
            topics[topic](Received(topic, 0, number, key, value or b"", (), 0))
        self.acknowledged = 0
        self._offset = 0

    async def give(self, *events: Event) -> None:
        """As the agent does."""
        for event in events:
            message = encode(event)
            received = Received(TELEMETRY, 0, self._offset, message.key, message.value, (), 0)
            await self.desk.take(event, received)
            self._offset += 1
            await self.desk.acknowledge(self._acknowledge)

    async def _acknowledge(self) -> None:
        self.acknowledged += 1

    def said(self) -> list[str]:
        """Names of the events on the topic of alerts."""
        return [
            event.NAME
            for topic, _, value in self.broker.log
            if topic == notices.TOPIC and value is not None
            for event in (decode(value),)
        ]


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test as pytest calls it."""

    @wraps(test)
    def called(**fixtures: Any) -> None:
        asyncio.run(test(**fixtures))

    return called


def disk(monkeypatch: pytest.MonkeyPatch, *, free: int) -> None:
    """A disk of a TiB with so much free."""
    usage = SimpleNamespace(free=free, total=1 << 40)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)


@pytest.fixture(autouse=True)
def _room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever disk the tests run on."""
    disk(monkeypatch, free=1 << 39)


def troubled(run: Run) -> list[Event]:
    """A run whose loss becomes NaN."""
    return [run.started(), run.step(1, loss=1.0), run.step(2, loss=math.nan)]


@in_a_loop
async def test_nothing_is_acknowledged_before_it_is_saved(tmp_path: Path) -> None:
    """Messages are held back until the row of their run is on the topic, and what cannot be saved
    is said and acknowledged once it can.
    """
    one = Desk(tmp_path, ManualClock())
    run = Run("r", ManualClock())
    await one.give(run.started(), run.step(1, loss=1.0))
    assert (one.acknowledged, one.broker.log) == (0, [])
    one.broker.away = {STATE}
    with pytest.raises(KafkaConnectionError):
        await one.give(run.step(2, loss=math.nan))
    assert (one.acknowledged, one.said()) == (0, [])
    one.broker.away = set()
    await one.desk.save()
    assert one.acknowledged == 2
    assert one.said() == ["AnomalyDetected", "AlertRaised"]


@in_a_loop
async def test_what_was_saved_and_not_said_is_said_once_after_a_kill(tmp_path: Path) -> None:
    """Whether or not the broker had it when the process ended."""
    clock, run = ManualClock(), Run("r", ManualClock())
    first = Desk(tmp_path, clock)
    first.broker.away = {notices.TOPIC}
    with pytest.raises(KafkaConnectionError):
        await first.give(*troubled(run))
    first.broker.away = set()
    second = Desk(tmp_path, clock, first.broker)
    assert second.desk.ready()
    await second.desk.save()
    assert second.said() == ["AnomalyDetected", "AlertRaised"]
    # the row that says that it was said has not been written: as killed just behind the sending
    third = Desk(tmp_path, clock, first.broker)
    assert third.desk.ready()
    await third.desk.save()
    await third.give(*troubled(run))
    await third.desk.save()
    assert third.said() == ["AnomalyDetected", "AlertRaised"]
    assert [row["detector"] for row in third.desk.alerts_of("r", open_only=True)] == [
        "loss_not_finite"
    ]


@in_a_loop
async def test_a_run_is_silent_only_once_all_that_stood_on_the_topics_is_read(
    tmp_path: Path,
) -> None:
    """With a backlog, or without a broker, nobody can tell."""
    clock = ManualClock()
    one = Desk(tmp_path, clock)
    await one.give(Run("r", clock).started())
    clock.advance(3_000)
    one.reading = {(TELEMETRY, 0): (10, 1)}
    for _ in range(3):
        await one.desk.look()
        clock.advance(60)
    assert "AlertRaised" not in one.said()
    one.broker.away = {STATE}
    await one.desk.look()
    one.broker.away = set()
    one.reading = {(TELEMETRY, 0): (10, 10)}
    await one.desk.look()
    assert "AlertRaised" not in one.said()
    await one.desk.look()
    assert one.said()[-1] == "AlertRaised"
    (row,) = one.desk.alerts_of("r")
    assert row["detector"] == "stale_telemetry"


@in_a_loop
async def test_many_messages_are_not_held_back_for_long(tmp_path: Path) -> None:
    """A backlog is acknowledged as it is read."""
    clock = ManualClock()
    one, run = Desk(tmp_path, clock), Run("r", clock)
    await one.give(*(run.step(number, loss=1.0) for number in range(HELD_BACK)))
    assert one.acknowledged == HELD_BACK


@in_a_loop
async def test_runs_beyond_the_number_that_is_kept_are_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those silent longest; their alerts are over, and their rows are taken from the topic."""
    monkeypatch.setattr(desk_module, "RUNS", 1)
    clock = ManualClock()
    one = Desk(tmp_path, clock)
    await one.give(*troubled(Run("old", clock)))
    clock.advance(1)
    await one.give(Run("new", clock).started())
    await one.desk.look()
    await one.desk.look()
    assert (STATE, b"old", None) in one.broker.log
    assert one.said()[-1] == "AlertResolved"
    (row,) = one.desk.alerts_of()
    assert (row["run_id"], row["why"]) == ("old", "FORGOTTEN")


@in_a_loop
async def test_a_low_disk_is_an_alert_of_the_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raised, and over once there is room."""
    disk(monkeypatch, free=100 << 20)
    one = Desk(tmp_path, ManualClock())
    await one.desk.look()
    (row,) = one.desk.alerts_of()
    assert (row["run_id"], row["detector"], row["severity"]) == ("", "disk_space", "CRITICAL")
    assert one.desk.open_by_severity()["CRITICAL"] == 1
    disk(monkeypatch, free=1 << 39)
    await one.desk.look()
    assert one.said() == [
        "AnomalyDetected",
        AlertRaised.NAME,
        AlertResolved.NAME,
    ]


@in_a_loop
async def test_a_silence_that_begins_later_withholds_what_becomes_worse(tmp_path: Path) -> None:
    """And not that it is over; the silence leaves its topic once its time is up."""
    clock = ManualClock()
    one, run = Desk(tmp_path, clock), Run("r", clock)
    heard: list[str] = []
    one.desk.dispatcher.dispatch = lambda notice: heard.append(  # type: ignore[method-assign]
        f"{notice.NAME} {notice.severity}"
    )
    await one.give(run.started(), run.kernel_failed(1))
    until_us = clock.now_us() + 1_000_000
    rule = await one.desk.silence("me", "known", until_us, run="r", detector="*", layer="*")
    await one.give(run.kernel_failed(5))
    assert one.said()[-1] == "AlertRaised"
    assert heard == ["AlertRaised WARNING"]
    await one.give(run.completed(accuracy=0.1))
    assert heard == ["AlertRaised WARNING", "AlertResolved CRITICAL"]
    clock.advance(2)
    await one.desk.look()
    assert one.desk.silences() == []
    assert (desk_module.SILENCES, rule.silence_id.encode(), None) in one.broker.log


@in_a_loop
async def test_rows_that_cannot_be_are_refused(tmp_path: Path) -> None:
    """Whatever stands on Nissa's own topics: the follower makes dead letters of them, and what is
    sound is known.
    """
    clock = ManualClock()
    one = Desk(tmp_path, clock)
    await one.give(Run("r", clock).started())
    await one.desk.save()
    ((_, _, row),) = one.broker.log
    assert row is not None
    other = Desk(tmp_path, clock)
    apply = {followed.topic: followed.apply for followed in other.desk.followed()}
    rows = [b"{}", b"nonsense", b"[" * 100_000, row.replace(b'"form":1', b'"form":2')]
    rows += [row.replace(b'"memories"', b'"memory"'), row.replace(b'"seen":"', b'"seen":"%')]
    for topic, key, value in [
        *((STATE, b"r", value) for value in rows),
        (STATE, b"another", row),
        (desk_module.SILENCES, b"x", b"{}"),
        (notices.TOPIC, b"nissa", b"nonsense"),
    ]:
        with pytest.raises(Exception):  # noqa: B017, PT011  # of any class: all of them are letters
            apply[topic](Received(topic, 0, 0, key, value, (), 0))
    apply[STATE](Received(STATE, 0, 1, b"r", row, (), 0))
    assert other.desk.ready()
    assert set(other.desk._runs) == {"r"}
