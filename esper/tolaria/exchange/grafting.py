"""Kernels on their way into slots: asked of the loader when a seed is germinated, grafted between
two steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from esper.clock import Clock
from esper.errors import EsperError, UnavailableError
from esper.events.records import KernelPublished
from esper.kasmina.growth import GrowingModel, Place
from esper.kasmina.loader import KernelLoader, Loaded, LoaderFigures
from esper.lifecycle import RunState, SeedState
from esper.lifecycle.commands import Move, ReportFailure
from esper.tolaria.exchange.consultation import Consultation

AGAIN_S = 60.0  # how long a run that is re-executed waits for a kernel that it had


def seeds_waiting(state: RunState) -> list[SeedState]:
    """Seeds whose kernel is still to be loaded."""
    return [seed for seed in state.seeds if seed.stage == "GERMINATED"]


class Kernels(Protocol):
    """Where the kernels of a run come from."""

    def request(self, kernel_id: str, *, layer: str) -> None:
        """Ask for a kernel for a seed of `layer`; `ready` gives it, or why there is none."""

    def ready(self) -> list[Loaded]:
        """What has come since the last call. Never waits."""

    def prefetch(self, kernels: Iterable[KernelPublished]) -> None:
        """These may be asked for soon."""

    def figures(self) -> LoaderFigures:
        """Counts since the run began."""


@dataclass(frozen=True, slots=True)
class Published:
    """Kernels that were published on this Kafka, out of the kernel cache."""

    loader: KernelLoader
    consultation: Consultation

    def request(self, kernel_id: str, *, layer: str) -> None:
        """Have it loaded.

        Raises:
            UnavailableError: no such kernel was published on this Kafka.
        """
        kernel = self.consultation.catalogue.kernels.get(kernel_id)
        if kernel is None:
            raise UnavailableError(
                f"Kernel {kernel_id[:12]} of this run's journal is not on "
                "compilation.kernels: another cluster is in use, or it was deleted."
            )
        self.loader.request(kernel, layer=layer)

    def ready(self) -> list[Loaded]:
        """As the port says."""
        return self.loader.ready()

    def prefetch(self, kernels: Iterable[KernelPublished]) -> None:
        """As the port says."""
        self.loader.prefetch(kernels)

    def figures(self) -> LoaderFigures:
        """As the port says."""
        return self.loader.figures()


@dataclass(slots=True)
class Grafting:
    """`loaded` are the kernels that are here and that a seed waits for.

    `held` the seeds that are grafted at a step that is known, not before.
    """

    kernels: Kernels
    growing: GrowingModel
    clock: Clock
    held: set[Place] = field(default_factory=set)
    loaded: dict[str, Loaded] = field(default_factory=dict)

    def request(self, layer: str, kernel_id: str) -> None:
        """Have a kernel loaded for a seed of `layer`; raises as its source does."""
        self.kernels.request(kernel_id, layer=layer)

    def arrived(self, state: RunState) -> Iterator[Move | ReportFailure]:
        """Graft what the loader has ready, and say of each seed what follows: it trains, or its
        load failed.
        """
        self._fetch(state)
        waiting = [
            seed for seed in seeds_waiting(state) if (seed.layer, seed.seed) not in self.held
        ]
        for seed in [seed for seed in waiting if seed.kernel_id in self.loaded]:
            try:
                self.growing.graft((seed.layer, seed.seed), self.loaded[seed.kernel_id].slot())
            except EsperError as failure:
                yield ReportFailure(
                    layer=seed.layer, seed=seed.seed, phase="LOAD", error=str(failure)
                )
            else:
                # one at a time: the caller journals each before the next kernel is grafted
                yield Move(
                    layer=seed.layer,
                    seed=seed.seed,
                    to_stage="TRAINING",
                    reason="kernel loaded and verified",
                )

    def again(self, state: RunState, place: Place, kernel_id: str) -> None:
        """Graft a kernel that the record grafted at this step, as soon as it is here.

        Raises:
            UnavailableError: it cannot be loaded any more.
        """
        deadline = self.clock.monotonic() + AGAIN_S
        while kernel_id not in self.loaded:
            if self.clock.monotonic() > deadline:
                raise UnavailableError(
                    f"Kernel {kernel_id[:12]}, which this run grafted, cannot be loaded "
                    f"again within {AGAIN_S:.0f} s."
                )
            self._fetch(state)
            self.clock.sleep(0.001)
        self.growing.graft(place, self.loaded[kernel_id].slot())

    def _fetch(self, state: RunState) -> None:
        for loaded in self.kernels.ready():
            self.loaded[loaded.kernel_id] = loaded
        # nobody takes a kernel whose seed was culled or rolled back: it would stay in memory
        waiting = {seed.kernel_id for seed in seeds_waiting(state)}
        self.loaded = {
            kernel_id: loaded for kernel_id, loaded in self.loaded.items() if kernel_id in waiting
        }
