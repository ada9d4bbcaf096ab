"""The fold of a run's journal, beside fastavro alone on the same messages, and of a very long one
from a file.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from io import BytesIO
from typing import Any, Final

import numpy as np
import psutil
from fastavro import schemaless_reader

from esper.bench.estimate import Estimate, exactly, rate
from esper.bench.figure_registry import Bench, figure
from esper.clock import Clock, ManualClock
from esper.events import JournalEvent, Origin, encode
from esper.events.codec import schema_id
from esper.events.records import (
    AdaptationApplied,
    AdaptationRejected,
    CheckpointTaken,
    EpochEnded,
    LayerInventory,
    RunStarted,
    SeedTransitioned,
    Stage,
)
from esper.events.schemas import wire_schema
from esper.journal.reading import from_file, to_file
from esper.journal.replay import fold_journal
from esper.lifecycle import EXECUTION, HOLDING, Fold, RunState

MIX = (
    "an epoch of 5 events: 2 transitions of seeds, 1 command applied or rejected, EpochEnded, "
    "CheckpointTaken; 12 seeds"
)

_RUN: Final = "bench"
_EVENTS: Final = 5_000
_LONG: Final = 1_000_000
_ROUNDS: Final = 12
_SAMPLED: Final = 20_000  # events between two looks at the memory
_LIFE: Final[tuple[Stage, ...]] = (
    "DORMANT",
    "GERMINATED",
    "TRAINING",
    "BLENDING",
    "SHADOWING",
    "PROBATIONARY",
    "CULLED",
    "EMBARGOED",
)
_FIGURES: Final[dict[str, Any]] = dict.fromkeys(
    (
        "train_loss",
        "train_accuracy",
        "validation_loss",
        "validation_accuracy",
        "test_loss",
        "test_accuracy",
        "learning_rate",
    ),
    0.4375,
)


class _Run:
    """A run that writes its journal, in the mix above."""

    def __init__(self, clock: Clock) -> None:
        self.fold, self.origin, self.step = (
            Fold(RunState(_RUN)),
            Origin(_RUN, "trainer", "0" * 32, clock),
            0,
        )

    def place(self, subject: str) -> dict[str, Any]:
        """The fields that every event begins with."""
        run = self.fold
        envelope = self.origin.envelope(f"{run.sequence}/{subject}")
        return {
            **envelope,
            "timeline": 0,
            "sequence": run.sequence,
            "epoch": run.epoch,
            "step": self.step,
        }

    def written(self, event: JournalEvent) -> bytes:
        """The message of an event that is taken in."""
        self.fold.apply(event)
        return encode(event).value

    def start(self) -> bytes:
        """The first message."""
        layers = tuple(
            LayerInventory(
                name=f"layers.{n}",
                kind="Linear",
                in_features=100,
                out_features=100,
                parameters=10_100,
                chunks=(25,) * 4,
            )
            for n in range(3)
        )
        texts: dict[str, Any] = dict.fromkeys(
            ("recipe", "decisions", "source_sha256", "instruction_set", "blas"), "LIVE"
        ) | {
            "config": "{}",
            "versions": "{}",
        }
        numbers: dict[str, Any] = dict.fromkeys(
            ("incarnation", "seed", "total_steps", "parameters", "threads"), 1
        )
        return self.written(
            RunStarted(**self.place("start"), **texts, **numbers, layers=layers, onednn=False)
        )

    def epoch(self) -> Iterator[bytes]:
        """The messages of the next epoch."""
        epoch = self.fold.epoch
        self.step = (epoch + 1) * 75
        yield self.written(self.answer(epoch))
        for moving in (2 * epoch, 2 * epoch + 1):
            yield self.written(self.transition(moving))
        yield self.written(
            EpochEnded(
                **self.place("end"),
                **_FIGURES,
                parameters_digest="ab" * 32,
                state_digest=self.fold.digest(),
                alphas=(),
            )
        )
        texts: dict[str, Any] = {
            "snapshot_id": f"t0-s{self.step}",
            "address": "manifests/" + "ab" * 32,
            "parent": f"t0-s{self.step - 75}",
            "reason": "epoch",
        }
        whole: dict[str, Any] = {
            "at_timeline": 0,
            "at_sequence": self.fold.sequence,
            "at_epoch": epoch,
            "at_step": self.step,
            "tensors": 48,
        }
        costs: dict[str, Any] = {
            "size_bytes": 1 << 20,
            "stored_bytes": 1 << 18,
            "stall_us": 900,
            "duration_us": 40_000,
        }
        digests: dict[str, Any] = {"sha256": "cd" * 32, "parameters_digest": "ab" * 32}
        source: dict[str, Any] = {
            "command_id": "",
            "source_topic": "",
            "source_partition": 0,
            "source_offset": -1,
        }
        yield self.written(
            CheckpointTaken(**self.place("taken"), **texts, **whole, **costs, **digests, **source)
        )

    def answer(self, number: int) -> JournalEvent:
        """A command of Tamiyo, answered: every second one is rejected."""
        asked = f"00000000-0000-4000-8000-{number:012d}"
        texts: dict[str, Any] = {
            "command_id": asked,
            "decision_id": asked,
            "command": "GERMINATE",
            "kernel_id": "ef" * 32,
            "layer": f"layers.{number % 3}",
        }
        source: dict[str, Any] = {
            "source_topic": "decision.tamiyo",
            "source_partition": 0,
            "source_offset": number,
            "seed": number % 4,
        }
        if number % 2:
            return AdaptationRejected(
                **self.place(asked),
                **texts,
                **source,
                reason="This seed was adapted 2 epochs ago; 3 have to pass.",
            )
        weights: dict[str, Any] = {
            "family": "conv1d",
            "alpha": -1.0,
            "confidence": 0.875,
            "urgency": 0.75,
        }
        return AdaptationApplied(**self.place(asked), **texts, **source, **weights)

    def transition(self, number: int) -> JournalEvent:
        """The next stage of one of the seeds, in turn."""
        seed = list(self.fold.seeds.values())[number % len(self.fold.seeds)]
        to_stage = _LIFE[(_LIFE.index(seed.stage) + 1) % len(_LIFE)]
        holding = to_stage in HOLDING
        texts: dict[str, Any] = {
            "layer": seed.layer,
            "from_stage": seed.stage,
            "to_stage": to_stage,
            "execution": EXECUTION[to_stage],
        }
        kernel: dict[str, Any] = {
            "kernel_id": "ef" * 32 if holding else "",
            "family": "conv1d" if holding else "",
        }
        target = 1.0 if holding else 0.0
        reason = "the gate opened: 0.12 nats (z 4.1) over 2 epochs"
        return SeedTransitioned(
            **self.place("moved"),
            **texts,
            **kernel,
            seed=seed.seed,
            decision_id="",
            alpha=0.0,
            alpha_target=target,
            reason=reason,
        )


def messages(count: int) -> Iterator[bytes]:
    """The first messages of the journal of a run that goes on for long."""
    run = _Run(ManualClock())
    epochs = itertools.chain.from_iterable(run.epoch() for _ in itertools.count())
    return itertools.islice(itertools.chain((run.start(),), epochs), count)


def in_turns(bench: Bench) -> tuple[Estimate, Estimate, Estimate]:
    """Events a second of the whole fold and of fastavro's reader alone on the same messages, in
    turns; and the first in percent of the second.
    """
    values = list(messages(_EVENTS))
    # parsed beforehand: the comparison is with fastavro at its best
    parsed = {schema_id(value): wire_schema(schema_id(value)).parsed for value in values}

    def fold() -> None:
        fold_journal(_RUN, values, None, clock=bench.clock)

    def alone() -> None:
        for value in values:
            stream = BytesIO(value)
            schemaless_reader(stream, parsed[int.from_bytes(stream.read(5), "big")], None)

    seconds = np.array(
        [(bench.processor_seconds(fold), bench.processor_seconds(alone)) for _ in range(_ROUNDS)]
    )
    return (
        rate(_EVENTS, seconds[:, 0]),
        rate(_EVENTS, seconds[:, 1]),
        rate(100, seconds[:, 0] / seconds[:, 1]),
    )


@figure("fold", "events/s", f"a journal decoded, folded and proven; {MIX}", at_least=100_000)
def fold(bench: Bench) -> Estimate:
    """With the digest of each epoch."""
    return bench.once(in_turns)[0]


@figure("fold_reader", "events/s", "fastavro's schemaless_reader alone on the same messages")
def fold_reader(bench: Bench) -> Estimate:
    """What decoding them by the library alone would allow."""
    return bench.once(in_turns)[1]


@figure("fold_relative", "%", "the fold's events/s in percent of fastavro's alone")
def fold_relative(bench: Bench) -> Estimate:
    """Of rounds side by side."""
    return bench.once(in_turns)[2]


def long(bench: Bench) -> tuple[float, float]:
    """Events a second of a journal of a million events, folded from its file, and by how many MB
    the process grew meanwhile.
    """
    bench.progress(f"writing a journal of {_LONG:,} events")
    path, process = bench.folder / "long.journal", psutil.Process()
    to_file(path, messages(_LONG))
    grown = [process.memory_info().rss]

    def watched(values: Iterable[bytes]) -> Iterator[bytes]:
        for number, value in enumerate(values):
            if not number % _SAMPLED:
                grown.append(process.memory_info().rss)
            yield value

    seconds = bench.processor_seconds(
        lambda: fold_journal(_RUN, watched(from_file(path)), None, clock=bench.clock)
    )
    return _LONG / seconds, (max(grown) - grown[0]) / 1e6


@figure(
    "fold_long",
    "events/s",
    f"a journal of {_LONG:,} events, read from its file and folded",
    at_least=100_000,
)
def fold_long(bench: Bench) -> Estimate:
    """Once, so without an interval."""
    return exactly(bench.once(long)[0])


@figure("fold_long_memory", "MB", "how much the process grew by folding it", at_most=32)
def fold_long_memory(bench: Bench) -> Estimate:
    """The largest of 50 looks at the resident memory, less the one before."""
    return exactly(bench.once(long)[1])
