"""The performance tracker's rows in Tamiyo's table: folded in memory, written at most once a
packet.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence

from esper.clock import Clock
from esper.events import Event
from esper.events.records import AdaptationOutcome, PerformanceDelta
from esper_processors.tamiyo.deciding import performance
from esper_processors.tamiyo.deciding.performance import Performance

ROWS = b"\0performance\0"
"""What the keys of these rows begin with; run ids have no NUL."""
_RUNS = 256
"""Runs whose deltas are held until their next packet, at most: anybody may name runs that send
none.
"""


class Tracker:
    """The performance of each run in `table`, which survives restarts, and what was heard since the
    run's last packet.

    A table can be written only while a message of its partition is handled: the packet that follows
    the deltas of an epoch is one.
    """

    def __init__(self, table: MutableMapping[bytes, bytes], clock: Clock) -> None:
        self._table = table
        self._clock = clock
        self._fresh: dict[str, Performance] = {}

    def take(self, event: Event) -> None:
        """Fold a delta."""
        if isinstance(event, PerformanceDelta):
            self._fresh[event.run_id] = self._known(event.run_id).observed(event)
            if len(self._fresh) > _RUNS:
                del self._fresh[next(iter(self._fresh))]

    def turn(self, run_id: str, outcomes: Sequence[AdaptationOutcome]) -> None:
        """A packet of the run was answered: fold the ends that it showed, and write what has
        changed since the last one.
        """
        folded = self._known(run_id)
        for outcome in outcomes:
            folded = folded.ended(outcome)
        if outcomes or run_id in self._fresh:
            self._table[ROWS + run_id.encode()] = performance.encode(folded)
        self._fresh.pop(run_id, None)

    def of(self, run_id: str) -> Performance:
        """The run's seeds that have not expired."""
        return self._known(run_id).at(self._clock.now_us())

    def _known(self, run_id: str) -> Performance:
        if run_id in self._fresh:
            return self._fresh[run_id]
        return performance.known(self._table.get(ROWS + run_id.encode())).at(self._clock.now_us())
