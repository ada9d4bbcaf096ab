"""What is measured of every seed, and how healthy it is: the figures that packets, snapshots and
telemetry show, taken whether or not anybody is told.
"""

from __future__ import annotations

from esper.kasmina.growth import GrowingModel, Place
from esper.kasmina.seeded.statistics import SeedStatistics
from esper.lifecycle import RunState


class SeedMonitor:
    """Follows the seeds of one model.

    Attributes:
        statistics: Of the last sampled step, by place.
    """

    def __init__(self, growing: GrowingModel) -> None:
        self._growing = growing
        self.statistics: dict[Place, SeedStatistics] = growing.read_statistics()

    def sampled(self, state: RunState) -> None:
        """Take in the figures of the step just sampled: one copy from the device.

        A seed on its fallback scores 0; see `esper.kasmina.seeded.health`.
        """
        self.statistics = self._growing.read_statistics()
        for seed in state.seeds:
            place = (seed.layer, seed.seed)
            recovering = seed.execution == "ERROR_RECOVERY"
            self._growing.health[place].observe(self.statistics[place], recovering=recovering)
