"""A small run in one process: the whole trainer on the bus in memory, with kernels at hand, that a
test may disturb between any two steps.

Commands come in at the step that the test names, in every life of the run, so that a run which was
killed is asked the same as one that was not.
"""

from __future__ import annotations

import copy
import io
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from esper.checkpoint import open_tensors
from esper.clock import SystemClock
from esper.config import Settings
from esper.events import Event, JournalEvent, Origin, decode
from esper.events.envelope import event_id
from esper.events.records import Command, KernelPublished, SeedCommand
from esper.karn import BlueprintIR, Budget, generate
from esper.kasmina.unpacked import Unpacked
from esper.kernels.build import module_of
from esper.oona.bus.memory import MemoryBus
from esper.oona.bus.port import Bus
from esper.oona.durable.journal_reader import read
from esper.oona.durable.outbox import Outbox
from esper.oona.inbound.inbox import Delivered
from esper.tolaria.exchange.grafting import Published
from esper.tolaria.recipes.environment import observe
from esper.tolaria.recipes.recipe import OWNER, Recipe
from esper.tolaria.recipes.splits import Splits
from esper.tolaria.record.forking import ForkStart
from esper.tolaria.replay.archive import Archived
from esper.tolaria.replay.reexecution import Archive, RecipeLoop
from esper.tolaria.run.past import forked, nothing, past
from esper.tolaria.run.trainee import inputs_of, trainee_of
from esper.tolaria.run.trainer import RunOutcome, Trainer
from esper.tolaria.run.wiring import RunContext, Runtime, rig
from esper.tolaria.session.progress import Progress
from esper.tolaria.session.session import Session
from esper.tolaria.step.method import method_of
from esper.urza.artefact import Sealed, seal
from esper.urza.local import LocalStore
from esper.urza.publish import store_artefact

CLOCK = SystemClock()
BATCH, BATCHES = 20, 8


class Killed(BaseException):
    """The process ends here."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A command for a seed that comes in before step number `step`."""

    step: int
    command: Command
    layer: str = "first"
    seed: int = 0
    alpha: float = -1.0


def model() -> nn.Module:
    """A host with everything that has state: batch statistics and dropout."""
    return nn.Sequential(
        OrderedDict(
            first=nn.Linear(12, 16),
            norm=nn.BatchNorm1d(16),
            relu=nn.ReLU(),
            drop=nn.Dropout(0.2),
            second=nn.Linear(16, 8),
            relu2=nn.ReLU(),
            third=nn.Linear(8, 4),
        )
    )


def pair(samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Labelled points around four centres."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(4, 12, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 4, (samples,), generator=generator)
    return centres[labels] + torch.randn(samples, 12, generator=generator), labels


def data() -> Splits:
    """Eight batches to train on, and two splits of 100."""
    return Splits(pair(BATCH * BATCHES, 1), pair(100, 2), pair(100, 3))


def recipe(**sections: Any) -> Recipe:
    """A short recipe; `sections` change it."""
    raw: dict[str, Any] = {
        "name": "laboratory",
        "model": f"{__name__}:model",
        "data": f"{__name__}:data",
        "run": {"epochs": 8, "batch_size": BATCH},
        "kasmina": {"seeds": 2, "include": ["first", "second"]},
        "kernels": {"blend_steps": 10, "warmup_steps": 4, "shadow_passes": 2},
        "gates": {"min_training_steps": 10_000, "max_training_steps": 10_000, "z": 1_000.0},
        "guardrails": {"cooldown": 0, "per_epoch": 100},
        "tamiyo": {"enabled": False},
        "telemetry": {"every_steps": 3},
    }
    for name, section in sections.items():
        raw[name] = {**raw[name], **section} if isinstance(raw.get(name), dict) else section
    return Recipe.model_validate(raw)


def blueprint(layer: str) -> BlueprintIR:
    """A kernel for a seed of a layer."""
    sizes = {"first": (12, 8), "second": (16, 4)}[layer]
    ir = generate(
        in_features=sizes[0], out_features=sizes[1], family="mlp", budget=Budget.of(5_000), seed=3
    )
    assert ir is not None
    return ir


@cache
def sealed(layer: str) -> Sealed:
    """The artefact of that kernel."""
    ir = blueprint(layer)
    return seal(ir, {name: one.detach().numpy() for name, one in module_of(ir).named_parameters()})


def kernel_id(layer: str) -> str:
    """The id of that kernel."""
    return sealed(layer).kernel_id


def published(layer: str) -> KernelPublished:
    """What the foundry would have said of it."""
    ir = blueprint(layer)
    return KernelPublished(
        **Origin("", "foundry", "0" * 32, CLOCK).envelope(layer),
        kernel_id=kernel_id(layer),
        blueprint_id=ir.blueprint_id,
        family=ir.family,
        in_features=ir.in_features,
        out_features=ir.out_features,
        tap=ir.tap,
        blend=ir.blend,
        parameters=ir.parameters,
        flops=1,
        address=sealed(layer).address,
        sha256=sealed(layer).sha256,
        size_bytes=len(sealed(layer).content),
        tags=(),
        parents=(),
        latency_us=1,
    )


def unpacked(layer: str) -> Unpacked:
    """Its blueprint and weights."""
    ir = blueprint(layer)
    return Unpacked(
        ir, {name: one.detach() for name, one in module_of(ir).named_parameters()}, 1_000
    )


@dataclass
class Laboratory:
    """A bus, an installation, and the lives of one run.

    `said` is what the trainer told people, over all lives.
    """

    folder: Path
    recipe: Recipe
    asked: Sequence[Asked] = ()
    run_id: str = "laboratory-1"
    said: io.StringIO = field(default_factory=io.StringIO)
    disturb: Callable[[Session], None] = lambda _: None
    telemetry: list[Event] = field(default_factory=list)
    bus: Bus = field(default_factory=lambda: MemoryBus(clock=CLOCK))

    def __post_init__(self) -> None:
        """Publish the kernels."""
        self.settings = Settings(home=self.folder)
        self.root = Path(self.settings.store_location)
        self.tensors = open_tensors(self.settings, self.run_id)
        with self.bus.producer(sender_id="foundry") as producer:
            for layer in ("first", "second"):
                store_artefact(LocalStore(self.root), sealed(layer))
                producer.send(published(layer))
            assert producer.flush(30) == 0

    def journal(self) -> list[JournalEvent]:
        """What Kafka has of the run."""
        found = [
            decode(received.value, received.headers)
            for received in read(self.bus, self.run_id, clock=CLOCK)
        ]
        assert all(isinstance(event, JournalEvent) for event in found)
        return found  # type: ignore[return-value]

    def archive(self) -> Archive:
        """What executing the run again takes."""
        return Archived(self.settings, tuple(self.journal())).open(CLOCK)

    def sends(self, session: Session, sent: set[Asked]) -> None:
        """Let the commands of this step come in, and let the test do its worst.

        A snapshot under way is finished first: on a busy machine it would still be there when the
        next is due, which then is not taken.
        """
        session.parts.checkpoints.writer.wait()
        for number, one in enumerate(self.asked):
            if one.step == session.step and one not in sent:
                sent.add(one)
                session.parts.consultation.waiting.append(
                    Delivered(self.command(one, number), ("laboratory", 0, number))
                )
        self.disturb(session)

    def command(self, one: Asked, number: int) -> SeedCommand:
        """The event of a command."""
        envelope = Origin(self.run_id, "operator", "0" * 32, CLOCK).envelope(f"asked/{number}")
        assert envelope["event_id"] == event_id(self.run_id, 0, f"asked/{number}")
        chosen = kernel_id(one.layer) if one.command == "GERMINATE" else ""
        return SeedCommand(
            **envelope,
            command=one.command,
            layer=one.layer,
            seed=one.seed,
            kernel_id=chosen,
            alpha=one.alpha,
            reason="test",
            expires_at=2**52,
        )

    def fork_lab(self, run_id: str, asked: Sequence[Asked], **changes: Any) -> Laboratory:
        """A laboratory for a fork of this run: the same bus and installation, its own commands and
        recipe.
        """
        other = copy.copy(self)
        other.run_id, other.asked, other.telemetry = run_id, asked, []
        other.recipe = changes.get("recipe", self.recipe)
        return other

    @contextmanager
    def life(
        self, *, resumed: bool = False, fork: ForkStart | None = None
    ) -> Iterator[tuple[Trainer, Runtime]]:
        """One process of the run, from its start, as a fork or not, or its resumption to
        its end.
        """
        progress = Progress(Console(file=self.said, width=1000))
        torch.set_num_threads(self.recipe.run.threads)
        with ExitStack() as stack:
            outbox = Outbox.open(self.settings.runs_dir / self.run_id / "outbox", clock=CLOCK)
            stack.callback(outbox.close)
            place = RunContext(self.settings, self.run_id, self.bus, outbox, CLOCK, progress)
            if resumed:
                before = past(
                    outbox,
                    self.bus,
                    CLOCK,
                    place.trust,
                    partial(open_tensors, self.settings),
                    progress,
                )
            else:
                before = (
                    forked(
                        outbox,
                        self.bus,
                        CLOCK,
                        place.trust,
                        family=fork.family,
                        offered=fork.offered,
                    )
                    if fork
                    else nothing(outbox, self.bus, CLOCK, place.trust)
                )
            trainee = trainee_of(self.recipe, model, data(), method_of(self.recipe, OWNER))
            rigged = rig(
                stack,
                place,
                before,
                self.recipe,
                task=trainee.task,
                growing=trainee.growing,
                stepper=trainee.stepper,
                held_out=trainee.splits.validation,
                test=trainee.splits.test,
                steps=trainee.steps,
                environment=observe(inputs_of(self.recipe, trainee.splits)),
            )
            session, sent = rigged.session, set[Asked]()
            session.parts.consultation.catalogue = session.parts.consultation.catalogue.evolve(
                [published("first"), published("second")]
            )
            for layer in ("first", "second"):
                kernels = session.parts.grafting.kernels
                assert isinstance(kernels, Published)
                kernels.loader._cache.put(kernel_id(layer), unpacked(layer), 1_000, layer)
            stack.enter_context(session.hooked(lambda session: self.sends(session, sent)))
            emit = session.parts.telemetry._emit

            def emitted(event: Event) -> None:
                self.telemetry.append(event)
                emit(event)

            session.parts.telemetry._emit = emitted
            yield Trainer(session, trainee.splits.train, fork), rigged

    def run(
        self, *, resumed: bool = False, fork: ForkStart | None = None
    ) -> tuple[RunOutcome, Session]:
        """A life to its end."""
        with self.life(resumed=resumed, fork=fork) as (trainer, rigged):
            outcome = trainer.run()
            rigged.settle()
            return outcome, rigged.session

    def killed_at(self, step: int, *, resumed: bool = False) -> None:
        """A life that is killed before step number `step`."""
        self.killed_when(lambda session: session.step == step, resumed=resumed)

    def run_until_timeline(self, timeline: int) -> None:
        """A first life that is killed as soon as a timeline has begun."""
        self.killed_when(lambda session: session.state.timeline == timeline, resumed=False)

    def killed_when(
        self, moment: Callable[[Session], bool], *, resumed: bool, fork: ForkStart | None = None
    ) -> None:
        """A life that is killed between two steps, once its record is used up and `moment` has
        come.
        """
        before = self.disturb

        def disturb(session: Session) -> None:
            before(session)
            if moment(session) and not session.parts.journal.replaying:
                raise Killed

        self.disturb = disturb
        try:
            self.run(resumed=resumed, fork=fork)
        except Killed:
            return
        finally:
            self.disturb = before
        raise AssertionError("the moment never came")


def stages(session: Session) -> Mapping[tuple[str, int], str]:
    """The stage of every seed."""
    return {(seed.layer, seed.seed): seed.stage for seed in session.state.seeds}


GROWTH = (
    Asked(1, "GERMINATE"),
    Asked(6, "ADVANCE"),
    Asked(8, "GERMINATE", "second", 1),
    Asked(18, "ADVANCE"),
    Asked(20, "ADVANCE", "second", 1),
    Asked(21, "ADVANCE"),
    Asked(23, "FOSSILISE"),
    Asked(28, "GERMINATE", "first", 1),
    Asked(40, "SET_ALPHA", "second", 1, 0.2),
)
"""Commands after which, at step 25, there is a FOSSILIZED and a BLENDING seed, and from 28 on a
TRAINING one.
"""


def with_loop(archive: Archive, **changes: Any) -> Archive:
    """The archive with another model, method or data."""
    loop = archive.loop
    assert isinstance(loop, RecipeLoop)
    return replace(archive, loop=replace(loop, **changes))


def splits_of(archive: Archive) -> Splits:
    """Its data."""
    loop = archive.loop
    assert isinstance(loop, RecipeLoop)
    return loop.splits
