"""`esper replay verify RUN`: the pieces of a run re-executed in processes side by side."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from rich.console import Console

from esper.cli.shared.run_states import bar
from esper.clock import SystemClock
from esper.errors import UnavailableError
from esper.tolaria.recipes.environment import observe
from esper.tolaria.record.resume import differences
from esper.tolaria.replay.archive import Archived
from esper.tolaria.replay.figures import StepTold
from esper.tolaria.replay.reexecution import Archive
from esper.tolaria.replay.scripts import ScriptLoop, silent
from esper.tolaria.replay.side_by_side import process_pool
from esper.tolaria.replay.verification import (
    PieceCheck,
    Proof,
    Segment,
    Verdict,
    in_few,
    narrowed,
    segments,
)
from esper.tolaria.session.progress import say


@dataclass(slots=True)
class _Worker:
    """What a process of the pool keeps between two pieces."""

    archives: list[Archive] = field(default_factory=list)


_WORKER = _Worker()


def prove(
    source: Archived,
    console: Console,
    *,
    workers: int | None,
    from_scratch: bool,
    reports: Callable[[], Mapping[str, StepTold]] = dict,
) -> Proof:
    """Execute a whole run again.

    The first fault is looked at again in this process, beside what the run reported of its steps.

    Raises:
        UsageError, CorruptError: the run cannot be executed, or its journal was changed.
        UnavailableError: a process was ended from outside.
    """
    clock = SystemClock()
    begun = clock.monotonic()
    archive = source.open(clock, partial(say, console))
    torch.set_num_threads(archive.threads)
    pieces = segments(archive, from_scratch=from_scratch)
    others = differences(source.events, observe(archive.inputs))
    for difference in others:
        say(console, f"{difference}; what is re-executed may have other bits.")
    count = min(workers or len(os.sched_getaffinity(0)), len(pieces))
    if isinstance(archive.loop, ScriptLoop):
        pieces = in_few(pieces, count)
        verdicts = _in_order(_scripts(source, pieces, count, console))
    else:
        verdicts = _in_order(
            _here(archive, pieces, console)
            if count == 1
            else _side_by_side(source, pieces, count, console)
        )
    faults = [verdict for verdict in verdicts if verdict.fault is not None]
    first_fault = (
        narrowed(archive, faults[0].segment, faults[0].fault, reports())
        if faults and faults[0].fault
        else None
    )
    for note in sorted({note for verdict in verdicts for note in verdict.notes}):
        say(console, note)
    return Proof(archive.run_id, tuple(verdicts), first_fault, others, clock.monotonic() - begun)


def _in_order(verdicts: Sequence[Verdict]) -> list[Verdict]:
    return sorted(
        verdicts,
        key=lambda verdict: (
            verdict.segment.timeline,
            verdict.segment.ways[0].step,
            verdict.segment.ways[0].sequence,
        ),
    )


def _here(archive: Archive, pieces: Sequence[Segment], console: Console) -> list[Verdict]:
    with bar(console) as shown:
        return [
            PieceCheck(archive, piece).run()
            for piece in shown.track(pieces, description="re-executing")
        ]


def _scripts(
    source: Archived, pieces: Sequence[Segment], count: int, console: Console
) -> list[Verdict]:
    """Each piece in a process of its own."""
    pool = process_pool(count, _open_script, (source,), scripts=True)
    return _executed(pool, _check_script, pieces, console)


def _side_by_side(
    source: Archived, pieces: Sequence[Segment], count: int, console: Console
) -> list[Verdict]:
    return _executed(process_pool(count, _open, (source,)), _check, pieces, console)


def _executed(
    executor: ProcessPoolExecutor,
    check: Callable[[Segment], Verdict],
    pieces: Sequence[Segment],
    console: Console,
) -> list[Verdict]:
    with bar(console) as shown, _pool(executor) as pool:
        task = shown.add_task("re-executing", total=len(pieces))
        verdicts = []
        try:
            with _unheard(signal.SIGINT):  # what is started now never hears of it
                running = [pool.submit(check, piece) for piece in pieces]
            for done in as_completed(running):
                verdicts.append(done.result())
                shown.advance(task)
        except BrokenProcessPool as error:
            raise UnavailableError(
                "A process that re-executed the run was ended from outside; try again, "
                "with fewer --workers."
            ) from error
        return verdicts


@contextmanager
def _pool(pool: ProcessPoolExecutor) -> Iterator[ProcessPoolExecutor]:
    """A pool whose processes end when the command is interrupted, whatever they do."""
    try:
        yield pool
    except BaseException:
        for child in multiprocessing.active_children():
            child.terminate()
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    pool.shutdown()


@contextmanager
def _unheard(number: signal.Signals) -> Iterator[None]:
    """Within, a signal waits.

    Processes that are started have it waiting forever: Ctrl-C is their parent's business.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})


def _open(source: Archived) -> None:
    """The beginning of a process of the pool."""
    _WORKER.archives.append(source.open(SystemClock()))


def _check(piece: Segment) -> Verdict:
    return PieceCheck(_WORKER.archives[0], piece).run()


def _open_script(source: Archived) -> None:
    silent()
    _open(source)


def _check_script(piece: Segment) -> Verdict:
    archive = _WORKER.archives[0]
    loop = archive.loop
    assert isinstance(loop, ScriptLoop)  # noqa: S101  # the pool was made for one
    return loop.driven(PieceCheck(archive, piece).run)
