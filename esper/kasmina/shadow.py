"""The shadow pass: gradients for a TRAINING kernel from the same batch, with the rest of the model frozen and untouched (DESIGN: Lifecycle)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from esper.kasmina.layers import Switches


def running_norms(model: nn.Module) -> tuple[_BatchNorm, ...]:
    """The normalisation layers that keep running statistics."""
    return tuple(module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats)


@contextmanager
def untouched(norms: Sequence[_BatchNorm], random_state: Tensor | None = None) -> Iterator[None]:
    """Within: `norms` use batch statistics as in training but do not move their running ones; the random stream is put back after.

    With `random_state` the stream starts from there, so that a second pass draws what the first one drew.
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)):
        if random_state is not None:
            torch.set_rng_state(random_state)
        for norm in norms:
            norm.track_running_stats = False
        try:
            yield
        finally:
            for norm in norms:
                norm.track_running_stats = True


@contextmanager
def standing_in(switches: Switches, place: tuple[str, int]) -> Iterator[None]:
    """Within: the kernel at `place` stands in for its chunk."""
    switches.shadow, sampling, switches.sampling = place, switches.sampling, False
    try:
        yield
    finally:
        switches.shadow, switches.sampling = None, sampling


@contextmanager
def left_out(switches: Switches, place: tuple[str, int]) -> Iterator[None]:
    """Within: the seed at `place` is left out."""
    switches.without, sampling, switches.sampling = place, switches.sampling, False
    try:
        yield
    finally:
        switches.without, switches.sampling = None, sampling


def shadow_gradients(
    switches: Switches, place: tuple[str, int], parameters: Sequence[nn.Parameter], loss: Callable[[], Tensor]
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """The shadow loss (detached) and its gradients for the kernel's `parameters`; `loss` runs the model forward on the step's batch.

    Call it inside `untouched`, with the random state of before the live pass.
    """
    with standing_in(switches, place):
        value = loss()
        gradients = torch.autograd.grad(value, list(parameters), allow_unused=True)
    return value.detach(), gradients
