"""Nissa's table: rows of several kinds under keys that cannot meet, and which events change which."""

from __future__ import annotations

import json
from collections.abc import Iterator, MutableMapping

from esper.events import Event
from esper.events.records import RunStarted
from processors.nissa import attempts, compilations, custom, runs
from processors.nissa.attempts import Attempt
from processors.nissa.compilations import Compilations
from processors.nissa.custom import Series
from processors.nissa.runs import RunView

FACTS = ("system.events.run", "system.events.epoch", "decision.tamiyo")
COMPILATIONS = ("compilation.attempts", "compilation.kernels")
CUSTOM = "telemetry.custom"

_BUILDS = b"\0compilations"
_ATTEMPTS = b"\0attempts\0"
_SERIES = b"\0custom\0"
_KEPT_RUNS = 50


class Rows:
    """The rows in `table`: a run's view under its id, which has no NUL; everything else under a NUL and its kind."""

    def __init__(self, table: MutableMapping[bytes, bytes]) -> None:
        self._table = table

    def take(self, topic: str, event: Event, partition: int) -> tuple[RunView | None, bool]:
        """Fold an event into its rows. Gives the view of its run, for facts of a run, and whether anything changed."""
        if topic in FACTS:
            return self._fact(event, partition)
        if topic in COMPILATIONS:
            return None, self._compilation(event)
        return None, topic == CUSTOM and self._metric(event)

    def runs(self) -> list[RunView]:
        """Every run."""
        return [runs.decode(value) for key, value in self._table.items() if not key.startswith(b"\0")]

    def builds(self) -> Compilations:
        """Compilations of all partitions."""
        found = Compilations()
        for key, value in self._table.items():
            if key == _BUILDS:  # one a partition
                found = found.plus(compilations.decode(value))
        return found

    def attempts(self, run_id: str = "") -> list[Attempt]:
        """Attempts of a run, or of all."""
        if run_id:
            known = self._table.get(_ATTEMPTS + run_id.encode())
            return list(attempts.decode(known).values()) if known else []
        return [one for key, value in self._table.items() if key.startswith(_ATTEMPTS) for one in attempts.decode(value).values()]

    def series(self) -> list[Series]:
        """The newest value of each series of a custom metric."""
        return list(self._all_series())

    def _fact(self, event: Event, partition: int) -> tuple[RunView, bool]:
        key = event.run_id.encode()
        known = self._table.get(key)
        view = runs.decode(known) if known else RunView(run_id=event.run_id, partition=partition)
        folded = runs.fold(view, event)
        changed = folded is not view
        if changed:
            self._table[key] = runs.encode(folded)
        changed = self._attempt(event) or changed
        if isinstance(event, RunStarted):
            self._prune(partition)
        return folded, changed

    def _attempt(self, event: Event) -> bool:
        key = _ATTEMPTS + event.run_id.encode()
        known = self._table.get(key)
        before = attempts.decode(known) if known else {}
        after = attempts.fold(before, event)
        if after is not before:
            self._table[key] = attempts.encode(after)
        return after is not before

    def _compilation(self, event: Event) -> bool:
        known = self._table.get(_BUILDS)  # of the event's own partition
        view = compilations.decode(known) if known else Compilations()
        folded = compilations.fold(view, event)
        if folded is not view:
            self._table[_BUILDS] = compilations.encode(folded)
        return folded is not view

    def _metric(self, event: Event) -> bool:
        told = custom.series_of(event)
        if told is None:
            return False
        key = _SERIES + json.dumps([told.name, told.labels], separators=(",", ":")).encode()
        known = self._table.get(key)
        if known is not None and json.loads(known)["at"] >= told.at:
            return False
        self._table[key] = json.dumps({"value": told.value, "at": told.at}).encode()
        return True

    def _all_series(self) -> Iterator[Series]:
        for key, value in self._table.items():
            if key.startswith(_SERIES):
                name, labels = json.loads(key[len(_SERIES) :])
                yield Series(name, tuple((label, text) for label, text in labels), **json.loads(value))

    def _prune(self, partition: int) -> None:
        """Forget the runs of this partition that were heard of the longest ago, all but `_KEPT_RUNS`, with their attempts."""
        mine = sorted((view for view in self.runs() if view.partition == partition), key=lambda view: view.updated_at)
        for view in mine[:-_KEPT_RUNS]:
            key = view.run_id.encode()
            del self._table[key]
            if _ATTEMPTS + key in self._table:
                del self._table[_ATTEMPTS + key]
