"""Fold a journal and prove it: no event missing, doubled or out of order, each epoch's state as the
trainer had it, and the end too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from esper.clock import Clock
from esper.disk import write_file
from esper.errors import CorruptError
from esper.events.records import EpochEnded
from esper.events.seals import Trust, fingerprint
from esper.lifecycle import Fold, RunState, from_canonical
from esper.oona.bus.port import Received
from esper.oona.durable.authentic import Aside, Judge, as_received, judged

STATE_FILE = "state.json"


@dataclass(frozen=True, slots=True)
class FoldReport:
    """Result of a fold.

    `compared` says whether a live state was at hand; it was equal then, or the fold would have
    raised.

    `signed` says by whom, in a sentence, `signers` by which keys; `aside` are messages under the
    run's key that are no part of its journal, `set_aside` in all.
    """

    run_id: str
    state: RunState
    events: int
    epochs: int
    seconds: float
    compared: bool
    signed: str
    signers: Sequence[str]
    aside: Sequence[Aside]
    set_aside: int

    def sentence(self) -> str:
        """What was found, for people."""
        rate = f"{self.events / self.seconds:,.0f} events/s" if self.seconds else "at once"
        equal = (
            "equals the live one" if self.compared else "has no live state here to be compared with"
        )
        return (
            f"Run {self.run_id}: {self.events} events folded ({rate}), gapless and in "
            f"order; {self.epochs} epoch digests agree; "
            f"the folded state ({self.state.status}, step {self.state.step}) {equal}. {self.signed}"
        )

    def as_json(self) -> dict[str, Any]:
        """The same for scripts."""
        return {
            "run_id": self.run_id,
            "events": self.events,
            "epochs": self.epochs,
            "seconds": round(self.seconds, 6),
            "status": self.state.status,
            "step": self.state.step,
            "sequence": self.state.sequence,
            "digest": self.state.digest(),
            "equals_live": True if self.compared else None,
            "signed_by": [fingerprint(key) for key in self.signers],
            "set_aside": self.set_aside,
            "aside": [{"place": message.place, "why": message.why} for message in self.aside],
        }


def save_state(run_dir: Path, state: RunState) -> None:
    """Keep the live folded state beside the run, for `esper replay fold` to compare with."""
    write_file(run_dir / STATE_FILE, state.canonical().encode())


def live_state(run_dir: Path) -> RunState | None:
    """The live state that the trainer kept last, or None when the run was trained elsewhere."""
    path = run_dir / STATE_FILE
    return from_canonical(path.read_text(encoding="utf-8")) if path.exists() else None


def fold_journal(
    run_id: str,
    values: Iterable[bytes],
    live: RunState | None,
    *,
    clock: Clock,
    trust: Trust | None = None,
) -> FoldReport:
    """Fold framed journal events that are not on Kafka and compare with `live`, which may be older
    than the journal's end.

    Raises:
        CorruptError: an event is missing, doubled, out of order, undecodable, changed, or a state
            differs; the sentence says which.
    """
    return fold_messages(
        as_received(values, run_id, source="file"),
        Judge(run_id, trust or Trust(), strict=True),
        live,
        clock=clock,
    )


def fold_messages(
    messages: Iterable[Received], judge: Judge, live: RunState | None, *, clock: Clock
) -> FoldReport:
    """Fold the events that `judge` finds among messages, and compare with `live`.

    Raises as `fold_journal` does; UsageError where there is none.
    """
    run_id = judge.run_id
    begin, run, events, epochs = clock.monotonic(), Fold(RunState(run_id)), 0, 0
    compared = False
    for event, _ in judged(messages, judge):
        if not events and event.sequence == 0:
            run.timeline = event.timeline
        run.apply(event)
        events += 1
        if isinstance(event, EpochEnded):
            epochs += 1
        # Where the live state stands, not at the end: a trainer that was killed kept it some events
        # before.
        if live and run.sequence == live.sequence:
            _compare(run_id, run.state(), live)
            compared = True
    judge.require_events()
    if live and not compared:
        raise CorruptError(
            f"The journal of run {run_id} ends after event {run.sequence - 1}, but the "
            f"trainer had written {live.sequence - 1}: the rest is missing."
        )
    seconds = clock.monotonic() - begin
    return FoldReport(
        run_id,
        run.state(),
        events,
        epochs,
        seconds,
        compared,
        judge.seal_sentence(),
        judge.signers,
        judge.aside,
        judge.set_aside,
    )


def _compare(run_id: str, folded: RunState, live: RunState) -> None:
    if folded == live:
        return
    differing = [
        attribute.name
        for attribute in fields(RunState)
        if getattr(folded, attribute.name) != getattr(live, attribute.name)
    ]
    raise CorruptError(
        f"The folded state of run {run_id} after event {folded.sequence - 1} differs from "
        f"the live one in: {', '.join(differing)}."
    )
