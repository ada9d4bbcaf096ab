"""Compilations of one partition, counted once each. Pure."""

from __future__ import annotations

import json
from bisect import bisect_left
from dataclasses import asdict, dataclass, replace

from esper.events import Event
from esper.events.records import CompilationFailed, CompilationStarted, KernelCompiled

BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the latency histogram, seconds."""
REMEMBERED = 128
"""Event ids that are remembered: more than can be delivered again after a crash, which is what one
second brings.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compilations:
    """Counts and latencies. `counts` has one entry a bucket and one for what is slower than all."""

    started: int = 0
    failed: int = 0
    compiled: int = 0
    last_s: float = 0.0
    last_at: int = 0
    sum_s: float = 0.0
    counts: tuple[int, ...] = (0,) * (len(BUCKETS_S) + 1)
    recent: tuple[str, ...] = ()

    def plus(self, other: Compilations) -> Compilations:
        """Both partitions together."""
        later = self if self.last_at >= other.last_at else other
        return Compilations(
            started=self.started + other.started,
            failed=self.failed + other.failed,
            compiled=self.compiled + other.compiled,
            last_s=later.last_s,
            last_at=later.last_at,
            sum_s=self.sum_s + other.sum_s,
            counts=tuple(
                mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)
            ),
        )


def encode(view: Compilations) -> bytes:
    """The view's bytes for the table."""
    return json.dumps(asdict(view), separators=(",", ":")).encode()


def decode(data: bytes) -> Compilations:
    """The view in `data`."""
    plain = json.loads(data)
    return Compilations(
        **{**plain, "counts": tuple(plain["counts"]), "recent": tuple(plain["recent"])}
    )


def fold(view: Compilations, event: Event) -> Compilations:
    """The view after an event; the same view when it was counted before or is of no interest."""
    # by id, since these events have no number of their own, as a journal's have
    if event.event_id in view.recent or not isinstance(
        event, CompilationStarted | CompilationFailed | KernelCompiled
    ):
        return view
    view = replace(view, recent=(*view.recent, event.event_id)[-REMEMBERED:])
    if isinstance(event, CompilationStarted):
        return replace(view, started=view.started + 1)
    if isinstance(event, CompilationFailed):
        return replace(view, failed=view.failed + 1)
    seconds = event.compile_ms / 1e3
    bucket = bisect_left(BUCKETS_S, seconds)
    counts = tuple(count + (index == bucket) for index, count in enumerate(view.counts))
    return replace(
        view,
        compiled=view.compiled + 1,
        last_s=seconds,
        last_at=event.occurred_at,
        sum_s=view.sum_s + seconds,
        counts=counts,
    )
