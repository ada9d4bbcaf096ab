"""What a session is made of, where it stands, and how its loop is left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch.optim import Optimizer

from esper.checkpoint.tensors import Tensors
from esper.clock import Clock
from esper.events import Origin
from esper.kasmina.growth import GrowingModel
from esper.kasmina.monitor import SeedMonitor
from esper.tolaria.exchange.consultation import Consultation
from esper.tolaria.exchange.grafting import Grafting
from esper.tolaria.exchange.telemetry import Telemetry
from esper.tolaria.recipes.environment import Environment
from esper.tolaria.recipes.recipe import Recipe
from esper.tolaria.recipes.splits import Split
from esper.tolaria.record.checkpoints import Checkpoints
from esper.tolaria.record.journal import Journal
from esper.tolaria.session.cursor import Cursor
from esper.tolaria.session.progress import Progress
from esper.tolaria.session.registered import Registered
from esper.tolaria.step.tasks import Task
from esper.vault.boxes import Box


class Interrupted(Exception):  # noqa: N818  # not an error: a person ended the run
    """The run was asked to end early."""


class RolledBack(Exception):  # noqa: N818  # not an error: the loop begins again at the restored cursor
    """The run stands at an earlier step, in a new timeline."""


class Arrived(Exception):  # noqa: N818  # not an error: what was asked for is done
    """A run that is re-executed stands where it was to end."""


def arrived() -> None:
    """Leave the loop: the goal is reached."""
    raise Arrived


class Stepping(Protocol):
    """What moves the host, as far as a snapshot has to hold it: a recipe's `Stepper`, or a user's
    own optimizer.
    """

    @property
    def host_optimizer(self) -> Optimizer:
        """The host's optimizer."""

    def state_dict(self) -> dict[str, Any]:
        """What a snapshot keeps of it beside the optimizer's tensors: JSON."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave; the optimizer's tensors are there already."""


@dataclass(slots=True)
class Parts:
    """What a session is made of; `esper.tolaria.run.wiring` puts it together.

    Without `stepper` no snapshots are taken: the loop is a user's own and draws its batches itself,
    so that nobody could go on in its middle. `registered` is what else such a loop moves.
    """

    recipe: Recipe
    task: Task
    held_out: Split
    test: Split
    growing: GrowingModel
    stepper: Stepping | None
    journal: Journal
    consultation: Consultation
    monitor: SeedMonitor
    telemetry: Telemetry
    grafting: Grafting
    checkpoints: Checkpoints
    tensors: Tensors
    origin: Origin
    clock: Clock
    progress: Progress
    environment: Environment
    run_dir: Path
    models: Box
    lost: Callable[[], dict[str, int]]
    require_pen: Callable[[], None]
    registered: Registered = field(default_factory=Registered)


@dataclass(slots=True)
class Standing:
    """Where a run stands between two steps, of how many, and whether it goes on.

    `stop` says that a person wants it to end; `goal` is the step at which a re-executed run ends:
    there `arrive` is called, which raises Arrived, or returns once there is another goal.
    `batch` is the digest of the next batch, where a script is executed again. A loop that `defers`
    goes back to a snapshot between two steps alone; `unstable` says that it has to.
    """

    total_steps: int
    cursor: Cursor = field(default_factory=Cursor)
    stop: bool = False
    goal: int | None = None
    arrive: Callable[[], None] = arrived
    batch: str = ""
    defers: bool = False
    unstable: bool = False
