"""Kernels of one layer side by side on a GPU: each on a stream of a small pool, joined again before
the layer goes on.

Autograd runs each backward operation on the stream of its forward and joins them itself, so
gradients are those of serial execution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

POOL = 4  # streams a device: more kernels than these rarely fit side by side


@cache
def pool(device: torch.device) -> tuple[torch.cuda.Stream, ...]:
    """The side streams of a CUDA device, made when they are first wanted."""
    return tuple(torch.cuda.Stream(device) for _ in range(POOL))


def side_by_side(calls: Sequence[Callable[[], Tensor]], read: Sequence[Tensor]) -> list[Tensor]:
    """What `calls` give, in their order.

    On a GPU several run on side streams; `read` are the tensors that they read.

    A call that raises has to be caught by itself: the streams are joined after the last one.
    """
    device = read[0].device
    if device.type != "cuda" or len(calls) < 2:
        return [call() for call in calls]
    current = torch.cuda.current_stream(device)
    streams = pool(device)[: len(calls)]
    for stream in streams:
        # the current stream may still be writing what they read
        stream.wait_stream(current)
        for tensor in read:
            tensor.record_stream(
                stream
            )  # its memory is not given away before the stream has read it
    results = []
    for index, call in enumerate(calls):
        with torch.cuda.stream(streams[index % len(streams)]):
            results.append(call())
    for stream in streams:
        current.wait_stream(stream)
    for result in results:
        # allocated on a side stream: else its memory could be reused while this one reads it
        result.record_stream(current)
    return results
