"""The shadow pass: gradients for a TRAINING kernel from the same batch, with the rest of the model
frozen and untouched.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.parallel import DistributedDataParallel

from esper.errors import UsageError
from esper.kasmina.seeded.host_kind import Seeded
from esper.kasmina.seeded.kernel_training import total_norm
from esper.kasmina.seeded.layers import Switches
from esper.kasmina.seeded.slots import Slot

_INTERNALS: Final = frozenset(nn.Module().__dict__)
"""Attributes that torch itself gives each module."""


class Kept:
    """Copies of what a forward pass may move beside gradients, to be put back.

    These are the buffers of all `parts`, the attributes of those of the user's own classes (with
    tensors and random generators among them), and Python's and numpy's global random streams.
    `spared` are parts whose buffers nothing moves. With `parameters`, those of modules that
    override `train` or `eval` are copied too: such a method may write into them.
    """

    def __init__(
        self,
        parts: Iterable[nn.Module],
        *,
        spared: Collection[nn.Module] = (),
        parameters: bool = False,
    ) -> None:
        without = {id(one) for one in spared}
        self._copies: list[tuple[Tensor, Tensor, int, bool]] = []
        self._names: list[tuple[dict[str, Any], dict[str, Any], frozenset[str]]] = []
        self._generators: list[Callable[[], object]] = [_global_streams()]
        for part in parts:
            if part._buffers and id(part) not in without:  # noqa: SLF001
                norm = isinstance(part, _NormBase)
                self._keep(part._buffers, frozenset(), watched=norm)  # noqa: SLF001
            if parameters and _changes_modes(part):
                self._keep(part._parameters, frozenset(), watched=False)  # noqa: SLF001
            if _users_own(type(part)):
                self._keep(part.__dict__, _INTERNALS, watched=False)

    def _keep(self, names: dict[str, Any], ignored: frozenset[str], *, watched: bool) -> None:
        own = {name: value for name, value in names.items() if name not in ignored}
        self._names.append((names, own, ignored))
        for value in own.values():
            if isinstance(value, Tensor):
                if _can_be_written(value):
                    copy = value.detach().clone()
                    self._copies.append((value, copy, _version(value), watched))
            elif (put_back := _stream_of(value)) is not None:
                self._generators.append(put_back)

    @torch.no_grad()
    def restore(self) -> None:
        """Put them back."""
        for tensor, copy, _, _ in self._copies:
            # by .data: a graph of the user's that holds this very tensor is not told of a change
            tensor.data.copy_(copy)
        for names, own, ignored in self._names:
            for name in names.keys() - own.keys() - ignored:
                del names[name]
            names.update(own)
        for put_back in self._generators:
            put_back()

    def norm(self) -> Tensor:
        """Euclidean norm of what norms keep, and of what else has moved: not finite when a pass
        has spoilt it.
        """
        return total_norm(
            [
                tensor
                for tensor, _, version, watched in self._copies
                # a constant may hold -inf, as masks do
                if tensor.is_floating_point() and (watched or _version(tensor) != version)
            ]
        )


def _version(tensor: Tensor) -> int:
    """How often autograd has seen a write into a tensor."""
    return tensor._version  # noqa: SLF001  # torch has no public name for it


def _users_own(kind: type[nn.Module]) -> bool:
    """Whether a module's class may do anything: it is neither torch's nor that of a kernel."""
    host = next(
        one
        for one in kind.__mro__
        # parametrizations put a class of torch's above the layer's own, and germinate one of ours
        if not issubclass(one, Seeded) and one.__module__ != "torch.nn.utils.parametrize"
    )
    return not host.__module__.startswith(("torch.", "esper.kernels."))


def _can_be_written(tensor: Tensor) -> bool:
    """Whether a forward may write into a tensor: not into one that autograd made, nor one that is
    expanded, sparse or of inference mode.
    """
    return (
        tensor.is_leaf
        and not tensor.is_inference()
        and not tensor.is_nested
        and tensor.layout == torch.strided
        and (
            tensor.is_contiguous()
            or not any(
                stride == 0 and size > 1
                for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
            )
        )
    )


def _global_streams() -> Callable[[], object]:
    """What puts Python's and numpy's global random streams where they are now."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  # the global stream, which a user's model may draw from

    def put_back() -> None:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002  # as above

    return put_back


def _stream_of(value: object) -> Callable[[], object] | None:
    """What puts a random generator where it is now; None for what is none."""
    if isinstance(value, torch.Generator):
        state = value.get_state()
        return lambda: value.set_state(state)
    if isinstance(value, random.Random):
        words = value.getstate()
        return lambda: value.setstate(words)
    if isinstance(value, np.random.Generator):
        bits = value.bit_generator
        content = bits.state
        return lambda: setattr(bits, "state", content)
    return None


def seed_streams(seed: int) -> None:
    """Put torch's global random streams to the beginning that `torch.manual_seed(seed)` gives them:
    the CPU's, and those of the devices that this process uses.
    """
    # torch.manual_seed keeps the seed for every kind of device that may still be started, each time
    # with a written stack trace: up to 3 ms, where this takes 1 µs
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)


@contextmanager
def _streams(random_seed: int | None = None) -> Iterator[None]:
    """Within: torch's global random streams are copies, which start from `random_seed` if given."""
    # by default fork_rng takes every GPU, and so starts CUDA in a run on the CPU
    with torch.random.fork_rng(
        devices=range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)
    ):
        if random_seed is not None:
            seed_streams(random_seed)
        yield


@contextmanager
def untouched(module: nn.Module, random_seed: int | None = None) -> Iterator[None]:
    """Within: batch norms use batch statistics as in training; after, what a forward moves is as
    it was (`Kept`), and so are the random streams.

    With `random_seed` torch's streams start from it, so that a second pass draws what the first one
    drew.
    """
    parts = list(module.modules())
    batch_norms = [
        part
        for part in parts
        if isinstance(part, _BatchNorm)
        and part.track_running_stats
        # a user's own may read its statistics whatever the flag says
        and not _users_own(type(part))
    ]
    kept = Kept(parts, spared=batch_norms)
    with _streams(random_seed), ExitStack() as silenced:
        for part in parts:
            if isinstance(part, DistributedDataParallel):
                # it waits for the gradients of all parameters, and this pass has the kernel's alone
                silenced.enter_context(part.no_sync())
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
    """Within: `module` is in evaluation mode; after, each part of it is in the mode that it was in,
    and what a forward moves is as it was (`Kept`).

    Modules that override `train` or `eval` are called as torch calls them.
    """
    modes = [(part, part.training) for part in module.modules()]
    kept = Kept((part for part, _ in modes), parameters=True)
    with _streams():
        module.eval()
        try:
            yield
        finally:
            for part, training in modes:
                if part.training != training:
                    if _changes_modes(part):
                        # it may have merged or frozen weights; those below it follow in this loop
                        part.train(training)
                    else:
                        # not train(): it would set all parts below as well
                        part.training = training
            # last: a method of the user's own may have rounded what it took back
            kept.restore()


def _changes_modes(part: nn.Module) -> bool:
    """Whether a module has a `train` or `eval` of its own."""
    kind = type(part)
    return (
        kind.train is not nn.Module.train
        or kind.eval is not nn.Module.eval
        or "train" in part.__dict__
        or "eval" in part.__dict__
    )


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


Gradients = tuple[Tensor | None, ...]
"""Of each parameter of a kernel; None where there is none."""


class Unrecorded(Exception):  # noqa: N818  # no error: a pass has to go another way
    """A kernel ran where no gradients are recorded, as within a reentrant checkpoint."""


def shadow_gradients(
    switches: Switches,
    place: tuple[str, int],
    slot: Slot,
    parameters: Sequence[nn.Parameter],
    loss: Callable[[], Tensor],
    *,
    through: nn.Module | None = None,
) -> Gradients:
    """Gradients of the shadow loss for the `parameters` of the kernel in `slot`.

    `loss` runs the model forward on the step's batch. With `through`, the model, the backward goes
    through all of it, as reentrant checkpoints need it.

    None for each when the kernel failed. Call it inside `untouched`, with the random seed of the
    live pass.

    Raises:
        Unrecorded: it has to be called again, with `through`.
        UsageError: the backward through all of it would step the host.
    """
    with standing_in(switches, place):
        slot.unrecorded = False
        value = loss()
        if place in switches.notes.raised:
            # the host's chunk stood in, so the loss does not depend on the kernel
            return (None,) * len(parameters)
        if through is not None:
            return _whole_backward(through, parameters, value)
        if slot.unrecorded:
            raise Unrecorded
        # not backward(): that would add to the gradients of the host and of other kernels
        return torch.autograd.grad(value, list(parameters), allow_unused=True)


def _whole_backward(
    model: nn.Module, parameters: Sequence[nn.Parameter], value: Tensor
) -> Gradients:
    """Gradients of `parameters` by a backward through the model, whose own gradients stay."""
    held = [(parameter, parameter.grad) for parameter in model.parameters()]
    if any(getattr(parameter, "_post_accumulate_grad_hooks", None) for parameter, _ in held):
        raise UsageError(
            "The model has reentrant checkpoints and an optimizer that steps within backward, so "
            "a shadow pass would step the host: call checkpoint(..., use_reentrant=False)."
        )
    for parameter, _ in held:
        parameter.grad = None
    try:
        value.backward()
        return tuple(parameter.grad for parameter in parameters)
    finally:
        for parameter, gradient in held:
            parameter.grad = gradient
