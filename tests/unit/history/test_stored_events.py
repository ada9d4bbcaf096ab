"""Events come back out of a real chDB as they went in."""

from __future__ import annotations

import math
from typing import Any

from esper.anomalies import READ
from esper.events.schemas import BY_NAME, current
from esper.history.confined.engine import Engine
from esper.history.queries import FolderSource
from esper.history.stored_events import events_of
from tests.unit.history.conftest import NamedBus, example, message
from tests.unit.history.test_sink import caught_up, send, sinking
from tests.waiting import until


def test_events_of_runs_come_back_whole_once_and_in_order(engine: Engine, bus: NamedBus) -> None:
    """Every record that detectors read, with numbers that JSON has no text for; of what was sent
    again the first copy, of much the latest, of other runs nothing.
    """
    data: list[tuple[str, dict[str, Any]]] = []
    for place, record in enumerate(READ):
        told = {"occurred_at": 1_000 + place, "run_id": "kept"}
        data.append((record.NAME, {**example(record.NAME), **told}))
    steps = [
        {**example("TrainingStep"), "run_id": "kept", "step": step, "occurred_at": 9_000 - step}
        for step in range(5)
    ]
    steps[2]["loss"] = math.nan
    again = {**steps[3], "occurred_at": 20_000}
    data += [("TrainingStep", one) for one in (*steps, again)]
    data.append(("TrainingStep", {**example("TrainingStep"), "run_id": "else's"}))
    with sinking(engine, bus) as sink:
        send(bus, [message(current(BY_NAME[name]), datum) for name, datum in data])
        until(lambda: caught_up(sink, bus))
    history = FolderSource(engine)
    found = events_of(history, READ, ["kept", "nobody", "else's"], most=100)
    assert (found["nobody"].events, found["else's"].events) == ([], [])
    assert found["kept"].cut == ()
    kept = found["kept"].events
    assert [type(event) for event in kept[: len(READ)]] == list(READ)
    for event, (_, datum) in zip(kept, data, strict=False):
        if event.occurred_at < 2_000:
            assert event == type(event).from_avro(datum)
    last = kept[len(READ) :]
    assert [event.to_avro()["step"] for event in last] == [4, 3, 2, 1, 0]
    assert math.isnan(last[2].to_avro()["loss"])
    few = events_of(history, [BY_NAME["TrainingStep"]], ["kept"], most=2)["kept"]
    assert [event.occurred_at for event in few.events] == [9_000, 20_000]
    assert few.cut == ("TrainingStep",)
