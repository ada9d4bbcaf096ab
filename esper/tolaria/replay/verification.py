"""A whole run proven by re-executing it, in pieces that may run side by side.

And where it differs, to which step that can be narrowed.

The journal has a digest of the parameters at the end of each epoch and of each snapshot: a
difference from the record lies between the last state that agrees and the first that does not.
Between them, what the run told of each step narrows it to one: its loss and the norm of its
gradient, every bit of them. Two executions that differ from each other, because code or machine are
not deterministic, are compared step by step and tensor by tensor.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch

from esper.checkpoint import Snapshot
from esper.errors import CorruptError, EsperError, KeyMissingError
from esper.events import Event
from esper.events.records import CheckpointTaken, EpochEnded, TrainingStep
from esper.tolaria.record.addresses import Address, Anchor, TimelineSpan, address_of, line_of, lines
from esper.tolaria.record.journal import Diverged
from esper.tolaria.replay.comparison import differing
from esper.tolaria.replay.figures import StepTold
from esper.tolaria.replay.proof import require_proven
from esper.tolaria.replay.reexecution import Archive, Reexecution, quiet
from esper.tolaria.session.progress import Progress
from esper.tolaria.session.session import Session
from esper.tolaria.step.evaluation import parameters_digest


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a timeline: begun from the nearest snapshot at or before `begin` (None: where the
    timeline begins), through the states of `ways`.

    With `from_scratch` no snapshot is used, but for that of another run.
    """

    timeline: int
    begin: Address | None
    ways: tuple[Address, ...]
    from_scratch: bool = False


@dataclass(frozen=True, slots=True)
class Fault:
    """Where a piece differs: `agreed` is the last state that did not, `at` the first that did,
    `names` the tensors and notes known to differ.
    """

    sentence: str
    agreed: Address
    at: Address
    names: tuple[str, ...] = ()
    epoch: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one piece has shown: steps executed, epoch digests and snapshots that agreed, and what
    did not.
    """

    segment: Segment
    begun: str
    steps: int
    epochs: int
    snapshots: int
    notes: tuple[str, ...] = ()
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class Narrowed:
    """A fault, looked at again.

    `deterministic` says whether two executions of its steps agree; else `step` and `names` are
    where they do not.

    Where they agree, `step` is the first whose `figure` is not the one that the run told, `then`
    and `now`; `agreed` tells how many steps before it have the figures that the run told.
    """

    fault: Fault
    deterministic: bool
    step: int | None = None
    names: tuple[str, ...] = ()
    figure: str = ""
    then: float = 0.0
    now: float = 0.0
    agreed: int = 0

    def sentence(self) -> str:
        """What is known, for people."""
        first, last = self.fault.agreed.step, self.fault.at.step
        differing_names = (
            f"; known to differ: {', '.join(self.fault.names[:4])}" if self.fault.names else ""
        )
        if not self.deterministic:
            return (
                f"{self.fault.sentence} Two executions of steps {first} to {last} differ "
                f"from each other, first after step {self.step} in "
                f"{', '.join(self.names[:4])}: the code or the machine is not deterministic."
            )
        whose = (
            "Two executions here agree with each other, so the record is of other code, "
            "settings or numerics."
        )
        if self.figure:
            arises = (
                f"in step {self.step}"
                if self.figure != "loss"
                else f"in the update of the step before or in the batch of step {self.step}"
            )
            return (
                f"{self.fault.sentence} In timeline {self.fault.at.timeline}, the "
                f"{self.figure} of step {self.step} is the first that differs from "
                f"what the run reported ({self.then!r} then, {self.now!r} now; {self.agreed} steps "
                f"from step {first} on agree): the difference arises {arises}"
                f"{differing_names}. {whose}"
            )
        agreeing = (
            f"; what the run reported of {self.agreed} steps there agrees" if self.agreed else ""
        )
        span = (
            f"at step {last}"
            if first == last
            else f"after step {first} and at the latest at step {last}"
        )
        return (
            f"{self.fault.sentence} The difference arises {span}, in timeline "
            f"{self.fault.at.timeline}; the journal has no digest in "
            f"between{agreeing}{differing_names}. {whose}"
        )


def segments(archive: Archive, *, from_scratch: bool = False) -> list[Segment]:
    """The pieces of a run that together are all of it: one between any two snapshots that are
    there, or with `from_scratch` one for each timeline.

    Snapshots that are not there, because they were lost or retired, are passed on the way: the
    journal has the digests of their parameters. Nothing lies before a snapshot of the first step:
    only with `from_scratch` that one is proven, too.
    """
    events, pieces = archive.events, list[Segment]()
    for line in lines(events):
        end = address_of(events, line.last, timeline=line.timeline)
        snapshots = {
            Address(line.timeline, event.at_step, event.at_sequence): event
            for event in events
            if isinstance(event, CheckpointTaken)
            and event.at_timeline == line.timeline
            # one at the very end is compared there; as a beginning it would open an empty piece
            and (event.at_step, event.at_sequence) < (end.step, end.sequence)
        }
        begin, ways = None, list[Address]()
        for address in sorted(snapshots, key=lambda address: (address.step, address.sequence)):
            ways.append(address)
            # a piece that could not begin there would re-execute the one before it as well
            if not from_scratch and _present(archive, snapshots[address]):
                if address.step or line.timeline or archive.loop.seeded:
                    pieces.append(Segment(line.timeline, begin, tuple(ways)))
                begin, ways = address, []
        pieces.append(Segment(line.timeline, begin, (*ways, end), from_scratch))
    return pieces


def in_few(pieces: Sequence[Segment], count: int) -> list[Segment]:
    """The same pieces, joined with those before them where more than `count` would be left: each
    costs a script that is executed from its beginning.
    """
    joined: list[Segment] = []
    for number, piece in enumerate(pieces):
        last = joined[-1] if joined else None
        if (
            last is None
            or last.timeline != piece.timeline
            or number * count // len(pieces) != (number - 1) * count // len(pieces)
        ):
            joined.append(piece)
        else:
            joined[-1] = replace(last, ways=(*last.ways, *piece.ways))
    return joined


def _present(archive: Archive, snapshot: CheckpointTaken) -> bool:
    """Whether a snapshot's manifest is there; its chunks are not looked at."""
    try:
        archive.tensors.read(snapshot.address, snapshot.sha256, kinds=())
    except CorruptError:
        return False
    return True


def usable_for(segment: Segment, anchor: Anchor) -> bool:
    """Whether a piece may begin there: at what opens its timeline, or at a snapshot that is not
    after its beginning.
    """
    begin = segment.begin
    if anchor.opens:
        return not segment.from_scratch or anchor.source is None
    return begin is not None and (anchor.at.step, anchor.at.sequence) <= (
        begin.step,
        begin.sequence,
    )


@dataclass(slots=True)
class PieceCheck:
    """Executes one piece of an archived run."""

    archive: Archive
    segment: Segment
    line: TimelineSpan = field(init=False)
    agreed: Address = field(init=False)
    first: int | None = None
    snapshots: int = 0
    sealed: bool = False

    def __post_init__(self) -> None:
        """What is not executed agrees."""
        self.line = line_of(self.archive.events, self.segment.timeline)
        self.agreed = self.segment.begin or Address(
            self.line.timeline, self.line.first, self.line.begin
        )

    def run(self) -> Verdict:
        """Execute the piece, and compare with every digest and snapshot on the way.

        A lost kernel or state of another run is a fault too.

        Raises:
            KeyMissingError: it begins with a snapshot whose key is not at hand.
        """
        execution = Reexecution(
            self.archive, quiet(), usable=partial(usable_for, self.segment), told=self._told
        )
        rerun, begun = None, ""
        try:
            for way in self.segment.ways:
                if rerun is None:
                    rerun = execution.rebuild(way)
                    begun = rerun.begun
                else:
                    execution.go_on(rerun, way)
                fault = self._compared(way, rerun.snapshot())
                if fault is not None:
                    return self._verdict(begun, execution, fault)
                require_proven(
                    self.archive.events, way, parameters_digest(rerun.session.parts.growing.module)
                )
                self.agreed = way
        except KeyMissingError:  # no fault of the run
            raise
        except Diverged as error:
            return self._verdict(begun, execution, self._diverged(error, execution.session))
        except EsperError as error:
            return self._verdict(
                begun, execution, Fault(str(error), self.agreed, self.segment.ways[-1])
            )
        return self._verdict(begun, execution, None)

    def _told(self, session: Session) -> None:
        self.first = session.step if self.first is None else self.first
        ended = self._ended(session)
        # never back: a piece may begin at a snapshot behind the last end of an epoch
        if ended is not None and (ended.step, ended.sequence) > (
            self.agreed.step,
            self.agreed.sequence,
        ):
            self.agreed = ended

    def _ended(self, session: Session) -> Address | None:
        """The end of the last epoch, whose digest the journal has compared."""
        for number in range(session.state.sequence - 1, self.line.begin - 1, -1):
            last = self.archive.events[number]
            if isinstance(last, EpochEnded):
                return Address(last.timeline, last.step, last.sequence + 1)
        return None

    def _compared(self, way: Address, rebuilt: Snapshot) -> Fault | None:
        """What differs from the snapshot that the run wrote at `way`, if it wrote one that can
        still be read.
        """
        for event in self.archive.events:
            if isinstance(event, CheckpointTaken) and (
                event.at_timeline,
                event.at_step,
                event.at_sequence,
            ) == (
                way.timeline,
                way.step,
                way.sequence,
            ):
                try:
                    names = differing(
                        rebuilt, self.archive.tensors.read(event.address, event.sha256)
                    )
                except CorruptError:
                    # a damaged snapshot proves nothing against the execution
                    return None
                except KeyMissingError:
                    if not self.segment.from_scratch:
                        raise
                    self.sealed = True
                    return None
                self.snapshots += 1
                if names:
                    return Fault(
                        f"Re-executed, run {self.archive.run_id} is not what snapshot "
                        f"{event.snapshot_id} has at {way}: {len(names)} tensors or "
                        f"notes differ.",
                        self.agreed,
                        way,
                        tuple(names),
                    )
        return None

    def _diverged(self, error: Diverged, session: Session | None) -> Fault:
        event = error.recorded or error.decided
        if event is None or session is None:
            return Fault(str(error), self.agreed, self.segment.ways[-1])
        at = Address(event.timeline, event.step, event.sequence)
        epoch = event.epoch if isinstance(event, EpochEnded) else None
        return Fault(str(error), self.agreed, at, self._names(at, session), epoch)

    def _names(self, at: Address, session: Session) -> tuple[str, ...]:
        """Tensors that differ from those of a snapshot at the same step, which was taken right
        after the epoch's end.
        """
        for event in self.archive.events:
            if isinstance(event, CheckpointTaken) and (event.at_timeline, event.at_step) == (
                at.timeline,
                at.step,
            ):
                try:
                    written = self.archive.tensors.read(event.address, event.sha256)
                except (CorruptError, KeyMissingError):
                    continue
                living = session.snapshots.living().tensors
                common = living.keys() & written.tensors.keys()
                pair = [
                    Snapshot({name: side[name] for name in common}, {})
                    for side in (living, written.tensors)
                ]
                return tuple(name for name in differing(*pair) if not name.startswith("random/"))
        return ()

    def _verdict(self, begun: str, execution: Reexecution, fault: Fault | None) -> Verdict:
        session = execution.session
        done = session.state.sequence if session is not None else 0
        first = self.segment.begin.sequence if self.segment.begin else self.line.begin
        epochs = sum(isinstance(event, EpochEnded) for event in self.archive.events[first:done])
        steps = 0 if session is None or self.first is None else session.step - self.first
        notes = [
            *execution.notes,
            *(["Snapshots were not compared: their key is not available."] if self.sealed else []),
        ]
        return Verdict(self.segment, begun, steps, epochs, self.snapshots, tuple(notes), fault)


def narrowed(
    archive: Archive, segment: Segment, fault: Fault, told: Mapping[str, StepTold]
) -> Narrowed:
    """A fault looked at again: its steps are executed twice, with a digest of every tensor after
    each step.

    `told` is what the run told of its steps, as far as that is at hand, by the id of the event.
    """
    # twice: one execution cannot tell another record from a machine that is not deterministic
    job = partial(_steps, segment=segment, fault=fault)
    first, second = (archive.apart(job, quiet()) for _ in range(2))
    for step in sorted(first.digests.keys() | second.digests.keys()):
        one_run, other_run = first.digests.get(step, {}), second.digests.get(step, {})
        names = [
            name
            for name in sorted(one_run.keys() | other_run.keys())
            if one_run.get(name) != other_run.get(name)
        ]
        if names:
            return Narrowed(fault, deterministic=False, step=step, names=tuple(names))
    agreed = 0
    for event in first.told:
        if (then := told.get(event.event_id)) is None:
            continue
        now = StepTold(event.loss, event.gradient_norm)
        if figure := then.odd(now):
            pair = (
                (then.loss, now.loss)
                if figure == "loss"
                else (then.gradient_norm, now.gradient_norm)
            )
            return Narrowed(
                fault,
                deterministic=True,
                step=event.step,
                figure=figure,
                then=pair[0],
                now=pair[1],
                agreed=agreed,
            )
        agreed += 1
    return Narrowed(fault, deterministic=True, agreed=agreed)


@dataclass(frozen=True, slots=True)
class _Steps:
    """Digests of all tensors by name, by the number of steps completed, and what was told of the
    steps, in their order.
    """

    digests: dict[int, dict[str, str]] = field(default_factory=dict)
    told: list[TrainingStep] = field(default_factory=list)


def _steps(archive: Archive, progress: Progress, *, segment: Segment, fault: Fault) -> _Steps:
    """The steps from the last state that agreed to the first that did not."""
    steps = _Steps()
    digests = steps.digests

    def told(session: Session) -> None:
        if fault.agreed.step <= session.step <= fault.at.step:
            digests[session.step] = _digests(session)

    def heard(event: Event) -> None:
        if isinstance(event, TrainingStep) and fault.agreed.step < event.step <= fault.at.step:
            steps.told.append(event)

    execution = Reexecution(
        archive, progress, usable=partial(usable_for, segment), told=told, heard=heard
    )
    try:
        execution.rebuild(segment.ways[-1])
    except EsperError:
        if execution.session is not None:
            digests[execution.session.step] = _digests(execution.session)
    return steps


def _digests(session: Session) -> dict[str, str]:
    standing = session.standing
    batch = {f"the batch of step {session.step + 1}": standing.batch} if standing.batch else {}
    return batch | {
        name: hashlib.sha256(
            # bytes, not values: NaN equals itself, and 0.0 differs from -0.0
            tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        ).hexdigest()
        for name, tensor in session.snapshots.living().tensors.items()
    }


@dataclass(frozen=True, slots=True)
class Proof:
    """A whole run, re-executed."""

    run_id: str
    verdicts: tuple[Verdict, ...]
    narrowed: Narrowed | None
    differences: tuple[str, ...]
    seconds: float

    def sentence(self) -> str:
        """The result, for people."""
        steps, epochs = (
            sum(verdict.steps for verdict in self.verdicts),
            sum(verdict.epochs for verdict in self.verdicts),
        )
        snapshots = sum(verdict.snapshots for verdict in self.verdicts)
        if self.narrowed is not None:
            why = (
                f" Not as it was when the run began: {'; '.join(self.differences)}."
                if self.differences
                else ""
            )
            return f"{self.narrowed.sentence()}{why}"
        return (
            f"Run {self.run_id} is proven: {steps} steps re-executed in "
            f"{len(self.verdicts)} pieces; the parameters agree at the end of "
            f"{epochs} epochs, and {snapshots} snapshots bit for bit ({self.seconds:.1f} s)."
        )

    def as_json(self) -> dict[str, Any]:
        """The same for scripts."""
        return {
            "run_id": self.run_id,
            "proven": self.narrowed is None,
            "pieces": len(self.verdicts),
            "steps": sum(verdict.steps for verdict in self.verdicts),
            "epochs": sum(verdict.epochs for verdict in self.verdicts),
            "snapshots": sum(verdict.snapshots for verdict in self.verdicts),
            "seconds": round(self.seconds, 3),
            "notes": sorted({note for verdict in self.verdicts for note in verdict.notes}),
            "differences": list(self.differences),
            "fault": None
            if self.narrowed is None
            else asdict(self.narrowed) | {"sentence": self.narrowed.sentence()},
        }
