"""What there is of a run before this process: nothing, or a journal that is brought together with
its outbox and folded.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from esper.checkpoint import TensorStore
from esper.checkpoint.retention import family_of
from esper.clock import Clock
from esper.errors import UsageError
from esper.events import Event, JournalEvent
from esper.events.records import FieldReportAnswered, KernelPublished
from esper.events.seals import Trust
from esper.journal.story import fork_of
from esper.lifecycle import RunState
from esper.oona.bus.port import Bus, Received
from esper.oona.durable.authentic import Aside, Judge, judged
from esper.oona.durable.journal_reader import read_topics, require_new
from esper.oona.durable.outbox import Outbox
from esper.oona.durable.start import start
from esper.tolaria.record.resume import RestorePoint, Wanted, beginning, folded
from esper.tolaria.session.progress import Progress
from esper.urza.catalogue import Catalogue


@dataclass(frozen=True, slots=True)
class Past:
    """What there is of a run: its events and their fold, where it begins now, the kernels that it
    may meet, and the family of its snapshots.

    `head` is the digest of its last event, which the next one names; `aside` are messages under its
    key that are no part of it.
    """

    events: tuple[JournalEvent, ...]
    state: RunState
    beginning: RestorePoint
    catalogue: Catalogue
    offered: tuple[str, ...] | None
    family: str
    head: str = ""
    aside: tuple[Aside, ...] = ()


def nothing(outbox: Outbox, bus: Bus, clock: Clock, trust: Trust) -> Past:
    """The past of a new run, whose id nobody has used."""
    run_id = outbox.run_id
    require_new(bus, run_id, clock=clock, trust=trust)
    if outbox.next_sequence > 0:
        raise UsageError(
            f"Run {run_id} was begun here and never reached Kafka; its events are in "
            f"{outbox.directory}. Go on with it by --resume, or choose "
            "another --run-id."
        )
    start(outbox, bus, clock=clock, trust=trust)
    state = RunState(run_id)
    return Past((), state, RestorePoint(state, None, "", ()), Catalogue(), None, run_id)


def forked(
    outbox: Outbox, bus: Bus, clock: Clock, trust: Trust, *, family: str, offered: tuple[str, ...]
) -> Past:
    """The past of a new fork: no events of its own, but its parent's family and the kernels that
    its parent may have had. Raises as `nothing` does.
    """
    before = nothing(outbox, bus, clock, trust)
    return replace(
        before,
        family=family,
        catalogue=Catalogue().evolve(read_topics(bus, [KernelPublished.TOPIC], clock=clock)),
        offered=offered or None,
    )


def past(
    outbox: Outbox,
    bus: Bus,
    clock: Clock,
    trust: Trust,
    tensors: Callable[[str], TensorStore],
    progress: Progress,
    wanted: Wanted | None = None,
) -> Past:
    """The past of a run that is resumed: fences any other writer of it, brings outbox and Kafka
    together, folds. `tensors` opens a family's; `wanted` says at which snapshots it may begin.
    """
    run_id, messages, judge = outbox.run_id, list[Received](), Judge(outbox.run_id, trust)

    with ThreadPoolExecutor(1) as beside:  # two waits for the broker, side by side
        reading = beside.submit(_kernels, bus, run_id, clock)
        started = start(outbox, bus, clock=clock, trust=trust, on_event=messages.append)
        events = [event for event, _ in judged(messages, judge)]
        judge.require_events()
        state = folded(run_id, events)
        family = family_of(events)
        point = beginning(run_id, events, tensors(family), wanted)
        catalogue, answered = reading.result()
    inherited = forked_run.offered if (forked_run := fork_of(events)) else ()
    offered = (
        # None is not empty: it says that the foundry has not answered, and the run waits
        tuple(sorted({*inherited, *(answered or ())}))
        if inherited or answered is not None
        else None
    )
    for note in (*started.notes, *point.notes, *judge.warnings()):
        progress.say(note)
    progress.say(
        f"Run {run_id} goes on from {f'snapshot {point.name}' if point.name else 'its first step'}."
    )
    return Past(
        tuple(events), state, point, catalogue, offered, family, judge.head, tuple(judge.aside)
    )


def _kernels(bus: Bus, run_id: str, clock: Clock) -> tuple[Catalogue, tuple[str, ...] | None]:
    """Every kernel that was published, and those that answered the run's field reports.

    None when none was answered.
    """
    kernels: list[Event] = []
    offered: set[str] | None = None
    for event in read_topics(bus, [KernelPublished.TOPIC, FieldReportAnswered.TOPIC], clock=clock):
        if isinstance(event, KernelPublished):
            kernels.append(event)
        elif isinstance(event, FieldReportAnswered) and event.run_id == run_id:
            offered = (offered or set()) | set(event.kernels)
    return Catalogue().evolve(kernels), None if offered is None else tuple(sorted(offered))
