"""The global random streams of a run's process."""

from __future__ import annotations

import random

import numpy as np

from esper.kasmina.seeded.shadow import seed_streams
from esper.tolaria.step.stepping import stream_seed


def begin_streams(seed: int, *labels: object) -> None:
    """Put torch's, numpy's and Python's global random streams to their beginning: a model may draw
    from any of them.
    """
    seed_all(stream_seed(seed, *labels))


def seed_all(seed: int) -> None:
    """Seed torch's, numpy's and Python's global random streams."""
    seed_streams(seed)
    random.seed(seed)
    np.random.seed(seed % (1 << 32))  # noqa: NPY002  # the global stream, which a user's code may draw from
