"""The shadow pass: gradients for a TRAINING kernel from the same batch, with the rest of the model
frozen and untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from esper.kasmina.seeded.layers import Switches


def running_norms(model: nn.Module) -> tuple[_NormBase, ...]:
    """The normalisation layers that keep running statistics."""
    return tuple(
        module
        for module in model.modules()
        if isinstance(module, _NormBase) and module.track_running_stats
    )


class Kept:
    """Copies of what a pass in training moves beside gradients: the running statistics of
    normalisation layers.
    """

    def __init__(self, norms: Sequence[_NormBase]) -> None:
        self._copies = [
            (buffer, buffer.clone()) for norm in norms for buffer in norm.buffers(recurse=False)
        ]

    @torch.no_grad()
    def restore(self) -> None:
        """Put them back."""
        for buffer, copy in self._copies:
            buffer.copy_(copy)

    def norm(self) -> Tensor:
        """Euclidean norm of what they are now: not finite when a pass has spoilt them."""
        return nn.utils.get_total_norm(
            [buffer for buffer, _ in self._copies if buffer.is_floating_point()]
        )


@contextmanager
def untouched(norms: Sequence[_NormBase], random_seed: int | None = None) -> Iterator[None]:
    """Within: `norms` use batch statistics as in training, and what they keep of them is put back
    after; so are the random streams.

    With `random_seed` the streams start from it, so that a second pass draws what the first one
    drew.
    """
    batch_norms = [norm for norm in norms if isinstance(norm, _BatchNorm)]
    kept = Kept(
        [norm for norm in norms if not isinstance(norm, _BatchNorm)]
    )  # instance norms move theirs whatever their flag says
    # by default fork_rng takes every GPU, and so starts CUDA in a run on the CPU
    with torch.random.fork_rng(
        devices=range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)
    ):
        if random_seed is not None:
            torch.manual_seed(random_seed)
        for norm in batch_norms:
            # torch then hands batch norm no buffers in training: cheaper than copies of them
            norm.track_running_stats = False
        try:
            yield
        finally:
            for norm in batch_norms:
                norm.track_running_stats = True
            kept.restore()


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Within: `module` is in evaluation mode; after, each part of it is in the mode that
    it was in.

    Layers with a `train` of their own, such as those that merge low-rank weights in evaluation, are
    asked to go back.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            if type(part).train is not nn.Module.train:
                part.train(training)
        for part, training in modes:
            # not train(): it would set all parts below as well
            part.training = training


@contextmanager
def standing_in(switches: Switches, place: tuple[str, int]) -> Iterator[None]:
    """Within: the kernel at `place` stands in for its chunk."""
    # statistics are the live pass's: this one would overwrite them
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
    switches: Switches,
    place: tuple[str, int],
    parameters: Sequence[nn.Parameter],
    loss: Callable[[], Tensor],
) -> tuple[Tensor | None, ...]:
    """Gradients of the shadow loss for the kernel's `parameters`.

    `loss` runs the model forward on the step's batch.

    None for each when the kernel failed. Call it inside `untouched`, with the random seed of the
    live pass.
    """
    with standing_in(switches, place):
        value = loss()
        if place in switches.notes.raised:
            # the host's chunk stood in, so the loss does not depend on the kernel
            return (None,) * len(parameters)
        # not backward(): that would add to the gradients of the host and of other kernels
        return torch.autograd.grad(value, list(parameters), allow_unused=True)
