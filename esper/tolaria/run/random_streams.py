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
    first = stream_seed(seed, *labels)
    seed_streams(first)
    random.seed(first)
    np.random.seed(first % (1 << 32))  # noqa: NPY002  # the global stream, which a user's model may draw from
