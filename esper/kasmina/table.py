"""Seed state as structure of arrays: what the hot path and telemetry read, 26 bytes a seed (MISSION: Data)."""

from __future__ import annotations

from typing import Final

import numpy as np

from esper.events.records import ExecutionState
from esper.lifecycle import RunState
from esper.lifecycle.stages import STAGES

EXECUTION_CODES: Final[dict[ExecutionState, int]] = {"DORMANT": 0, "LOADING": 1, "ACTIVE": 2, "ERROR_RECOVERY": 3, "FOSSILIZED": 4}


class SeedTable:
    """One row a seed, in the order of the folded state. `active` counts the seeds that run a kernel, on the host."""

    def __init__(self, seeds: int) -> None:
        self.lifecycle = np.zeros(seeds, np.uint8)
        self.execution = np.zeros(seeds, np.uint8)
        self.kernel_id = np.zeros(seeds, np.int64)
        self.alpha = np.zeros(seeds, np.float32)
        self.health = np.zeros(seeds, np.float32)
        self.last_update_epoch = np.zeros(seeds, np.int32)
        self.latency_us = np.zeros(seeds, np.uint16)
        self.errors = np.zeros(seeds, np.uint8)
        self.fallback = np.zeros(seeds, np.bool_)
        self.active = 0

    def follow(self, state: RunState) -> None:
        """Take over what the folded state says."""
        for row, seed in enumerate(state.seeds):
            self.lifecycle[row] = STAGES.index(seed.stage)
            self.execution[row] = EXECUTION_CODES[seed.execution]
            self.kernel_id[row] = int.from_bytes(bytes.fromhex(seed.kernel_id[:16]), "big", signed=True) if seed.kernel_id else 0
            self.last_update_epoch[row] = seed.stage_epoch
            self.errors[row] = min(seed.errors, 255)
            self.fallback[row] = seed.execution == "ERROR_RECOVERY"
        self.active = int(np.isin(self.execution, (EXECUTION_CODES["ACTIVE"], EXECUTION_CODES["FOSSILIZED"])).sum())

    @property
    def bytes_per_seed(self) -> float:
        """Memory of one row."""
        arrays = (
            self.lifecycle,
            self.execution,
            self.kernel_id,
            self.alpha,
            self.health,
            self.last_update_epoch,
            self.latency_us,
            self.errors,
            self.fallback,
        )
        return sum(array.itemsize for array in arrays)
