"""Nissa's table: rows of several kinds under keys that cannot meet, and which events
change which.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import asdict
from functools import cache, partial
from typing import Any, TypeVar

from pydantic import TypeAdapter

from esper.errors import PoisonError
from esper.events import Event
from esper.events.records import RunStarted
from esper_processors.consumers import fitting, readable
from esper_processors.nissa import attempts, compilations, custom, runs
from esper_processors.nissa.attempts import Attempt
from esper_processors.nissa.compilations import Compilations
from esper_processors.nissa.custom import Series
from esper_processors.nissa.runs import RunView

FACTS = ("system.events.run", "system.events.epoch", "decision.tamiyo")
COMPILATIONS = ("compilation.attempts", "compilation.kernels")
CUSTOM = "telemetry.custom"

_BUILDS = b"\0compilations"
_ATTEMPTS = b"\0attempts\0"
_SERIES = b"\0custom\0"
_KEPT_RUNS = 50
SERIES = 10_000
"""Series of custom metrics that are kept at most: the API bounds those of one metric, and others
may write to the topic.
"""

T = TypeVar("T")


class RunRows:
    """The rows in `table`: a run's view under its id, which has no NUL.

    Everything else under a NUL and its kind.
    """

    def __init__(self, table: MutableMapping[bytes, bytes]) -> None:
        self._table = table

    def take(self, topic: str, event: Event, partition: int) -> tuple[RunView | None, bool]:
        """Fold an event into its rows.

        Gives the view of its run, for facts of a run, and whether anything changed.
        """
        if topic in FACTS:
            return self._fact(event, partition)
        if topic in COMPILATIONS:
            return None, self._compilation(event)
        return None, topic == CUSTOM and self._metric(event)

    def runs(self) -> list[RunView]:
        """Every run."""
        views = (
            _read(runs.decode, value)
            for key, value in self._table.items()
            if not key.startswith(b"\0")
        )
        return [view for view in views if view is not None]

    def builds(self) -> Compilations:
        """Compilations of all partitions."""
        total = Compilations()
        for key, value in self._table.items():
            if key == _BUILDS:  # one a partition
                total = total.plus(_read(compilations.decode, value) or Compilations())
        return total

    def attempts(self, run_id: str = "") -> list[Attempt]:
        """Attempts of a run, or of all."""
        if run_id:
            return list(
                (
                    _read(attempts.decode, self._table.get(_ATTEMPTS + run_id.encode())) or {}
                ).values()
            )
        rows = (
            _read(attempts.decode, value) or {}
            for key, value in self._table.items()
            if key.startswith(_ATTEMPTS)
        )
        return [attempt for row in rows for attempt in row.values()]

    def series(self) -> list[Series]:
        """The newest value of each series of a custom metric."""
        return list(self._all_series())

    def _fact(self, event: Event, partition: int) -> tuple[RunView, bool]:
        key = event.run_id.encode()
        stored = self._table.get(key)
        view = _read(runs.decode, stored) or RunView(run_id=event.run_id, partition=partition)
        folded = runs.fold(view, event)
        changes = (
            # both rows are made before either is written: one that does not fit leaves the table as
            # it was
            {} if folded is view else {key: fitting(runs.encode(folded), f"run {event.run_id}")}
        )
        changes |= self._attempt(event)
        for row, content in changes.items():  # Faust's tables have no update
            self._table[row] = content
        if isinstance(event, RunStarted):
            # only at a run's start: its own partition alone may be written while its event is
            # handled
            self._prune(partition)
        return folded, bool(changes)

    def _attempt(self, event: Event) -> dict[bytes, bytes]:
        """The row of the run's attempts, where the event changes it."""
        key = _ATTEMPTS + event.run_id.encode()
        before = _read(attempts.decode, self._table.get(key)) or {}
        after = attempts.fold(before, event)
        return (
            {}
            if after is before
            else {key: fitting(attempts.encode(after), f"the attempts of run {event.run_id}")}
        )

    def _compilation(self, event: Event) -> bool:
        view = (
            _read(compilations.decode, self._table.get(_BUILDS)) or Compilations()
        )  # of the event's own partition
        folded = compilations.fold(view, event)
        if folded is not view:
            self._table[_BUILDS] = compilations.encode(folded)
        return folded is not view

    def _metric(self, event: Event) -> bool:
        series = custom.series_of(event)
        if series is None:
            return False
        key = _SERIES + json.dumps([series.name, series.labels], separators=(",", ":")).encode()
        kept = _read(partial(_series, key), self._table.get(key))
        # a sample that comes again, or late, must not replace a newer one
        if kept is not None and kept.at >= series.at:
            return False
        if (
            kept is None
            and sum(row.startswith(_SERIES) for row, _ in self._table.items()) >= SERIES
        ):
            raise PoisonError(
                f"There are {SERIES:,} series of custom metrics already; send fewer "
                "combinations of labels."
            )
        self._table[key] = fitting(
            json.dumps({"value": series.value, "at": series.at}).encode(), f"metric {series.name}"
        )
        return True

    def _all_series(self) -> Iterator[Series]:
        for key, value in self._table.items():
            if (
                key.startswith(_SERIES)
                and (series := _read(partial(_series, key), value)) is not None
            ):
                yield series

    def _prune(self, partition: int) -> None:
        """Forget the runs of this partition that were heard of the longest ago, all but
        `_KEPT_RUNS`, with their attempts.
        """
        mine = sorted(
            (view for view in self.runs() if view.partition == partition),
            key=lambda view: view.updated_at,
        )
        for view in mine[:-_KEPT_RUNS]:
            key = view.run_id.encode()
            del self._table[key]
            if _ATTEMPTS + key in self._table:
                del self._table[_ATTEMPTS + key]


@cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    """Made once a type: making one takes longer than a thousand rows."""
    return TypeAdapter(kind)


def check(key: bytes, value: bytes) -> None:
    """Make sure that a row of the table can be read and has the types that its readers expect.

    Raises whatever says that it does not.
    """
    if key == _BUILDS:
        kind, read = Compilations, compilations.decode(value)
        # decoding builds the class from whatever types are there; a text for a number would fail
        # readers
        _adapter(kind).validate_python(asdict(read))
        if len(read.counts) != len(Compilations().counts):
            raise PoisonError(
                "A row of compilations has another number of counts than the histogram has buckets."
            )
    elif key.startswith(_ATTEMPTS):
        for attempt in attempts.decode(value).values():
            _adapter(Attempt).validate_python(asdict(attempt))
    elif key.startswith(_SERIES):
        _adapter(Series).validate_python(asdict(_series(key, value)))
    elif key.startswith(b"\0"):
        raise PoisonError("A row of Nissa's table is of no kind that it has.")
    else:
        view = runs.decode(value)
        _adapter(RunView).validate_python(asdict(view))
        if view.run_id.encode() != key:
            raise PoisonError(
                f"The row of run {view.run_id[:200]} stands under the key of another one."
            )


def _series(key: bytes, value: bytes) -> Series:
    name, labels = json.loads(key[len(_SERIES) :])
    return Series(name, tuple((label, text) for label, text in labels), **json.loads(value))


def _read(decode: Callable[[bytes], T], data: bytes | None) -> T | None:
    return readable(decode, data, "A row of Nissa's table")
