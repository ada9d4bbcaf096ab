"""Host layers: the kinds that are known, which layers of a model can have seeds, why others cannot,
and the geometry that a layer shows in a forward pass.
"""

from __future__ import annotations

import fnmatch
import importlib
import itertools
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Final, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from esper.errors import BuildError, EsperError, UsageError, printable
from esper.events.geometry import Geometry
from esper.kasmina.seeded.built_in_hosts import BUILT_IN, OPTIONAL
from esper.kasmina.seeded.host_kind import HostKind, LinearMap, Seeded
from esper.plugins import HOST_KINDS, plugged

T = TypeVar("T")
_KERNEL: Final = re.compile(r"kernel_[0-9]+")
"""Names of kernels in their layer."""
_registered: Final[dict[str, HostKind]] = {}


def register(kind: HostKind) -> HostKind:
    """Let layers of a kind have seeds in every model that is germinated after this, and return it.

    An installed package's are registered by themselves (entry points `esper.host_kinds`); a module
    that is imported before the model is made may call this.

    Raises:
        UsageError: another kind has its name or its class.
    """
    for other in _registered.values():
        again = (kind.name, _class(kind)) == (other.name, _class(other))  # as in a notebook
        if not again and (kind.name == other.name or kind.layer is other.layer):
            raise UsageError(
                f"There are two kinds of host layer {kind.name!r} ({_class(kind)}) and "
                f"{other.name!r} ({_class(other)}), and name and class have to be of one: rename "
                "yours, or uninstall the package that brings it."
            )
    _registered[kind.name] = kind
    return kind


def _class(kind: HostKind) -> str:
    return f"{kind.layer.__module__}.{kind.layer.__qualname__}"


for own in BUILT_IN:
    register(own)


@cache
def _install() -> None:
    for entry, kind in plugged(HOST_KINDS, HostKind).items():
        if entry != kind.name:
            raise UsageError(
                f"The entry point {entry!r} of {HOST_KINDS} has a kind of the name "
                f"{kind.name!r}: both have to be the same; mend or uninstall that package."
            )
        register(kind)


def known(wanted: Collection[str] = ()) -> Mapping[str, HostKind]:
    """Every kind by name: Esper's own, those of installed packages, those that were registered.

    Of libraries that have a kind of Esper's (`OPTIONAL`), those that are imported already, and
    those whose kind is `wanted`.

    Raises:
        UsageError: a package's kind cannot be used; the package is named.
    """
    # at first use, not at import: packages import this very module to make their kinds
    _install()
    for name, (home, layer, make) in OPTIONAL.items():
        if name in _registered:
            continue
        if name in wanted:
            with suppress(ImportError):
                importlib.import_module(home)
        if (module := sys.modules.get(home)) is not None and hasattr(module, layer):
            register(make(getattr(module, layer)))
    return _registered


def kind_of(layer: nn.Module) -> HostKind | None:
    """The kind of a layer: of its class, else of its nearest parent class that has one.

    None when none has.
    """
    by_class = {kind.layer: kind for kind in known().values()}
    return next((by_class[parent] for parent in type(layer).__mro__ if parent in by_class), None)


def channels(kind: HostKind, layer: nn.Module) -> tuple[int, int]:
    """Channels that a host layer reads and writes; a Linear layer's features are its channels."""
    reads, writes = _asked(kind, lambda: kind.channels(layer))
    return reads, writes


def gradient(kind: HostKind, layer: nn.Module) -> Tensor | None:
    """Gradient [O, ...] of a layer's weight, a row for each output channel; None if it has none."""
    return _asked(kind, lambda: kind.gradient(layer))


def merge(kind: HostKind, layer: nn.Module, added: LinearMap) -> bool:
    """Make a linear map part of a layer's own parameters; false where it cannot be."""
    do = kind.merge
    return do is not None and _asked(kind, lambda: do(layer, added))


def _asked(kind: HostKind, question: Callable[[], T]) -> T:
    """What a kind answers; a package's may do anything at all.

    Raises:
        UsageError: it failed.
    """
    try:
        return question()
    except EsperError:
        raise
    except Exception as error:
        # a failure of Esper's own kind is a defect: it keeps its traceback
        if kind in BUILT_IN:
            raise
        raise UsageError(
            f"Host kind {kind.name} of {_class(kind)} has failed ({type(error).__name__}: "
            f"{printable(str(error))}): correct it, or leave its layers out (kasmina.exclude)."
        ) from error


def host_layers(model: nn.Module) -> dict[str, tuple[nn.Module, HostKind]]:
    """The layers of `model` that are of a known kind, with it, by name.

    A layer that several names share comes once.
    """
    kinds = {name: (layer, kind_of(layer)) for name, layer in model.named_modules()}
    return {name: (layer, kind) for name, (layer, kind) in kinds.items() if kind is not None}


def unsuited(model: nn.Module) -> dict[str, str]:
    """Layers of a host's class whose forward does not run, or not always, and why: seeds there
    would change nothing.
    """
    reasons: dict[int, str] = {}
    layers = host_layers(model)
    for layer, _ in layers.values():
        if why := _unsuited_itself(layer):
            reasons[id(layer)] = why
    for owner in model.modules():
        for kind in known().values():
            refused = _asked(kind, lambda kind=kind, owner=owner: [*kind.refuses(owner)])  # type: ignore[misc]
            reasons |= {id(layer): why for layer, why in refused}
    return {name: reasons[id(layer)] for name, (layer, _) in layers.items() if id(layer) in reasons}


def _unsuited_itself(layer: nn.Module) -> str:
    """Why a module could have no seeds whatever its kind; empty where nothing is in the way."""
    if isinstance(layer, LazyModuleMixin):
        return "its shape is not known before a first forward"
    if any(parameter.is_complex() for parameter in layer.parameters(recurse=False)):
        return "its parameters are complex, and kernels are not"
    if isinstance(layer, Seeded):  # a probe sees whether its seeds run
        return ""
    if "forward" in layer.__dict__:
        return (
            "its forward was replaced on the object, so that seeds would not run; replace it after "
            "esper.germinate(...)"
        )
    own = (layer.__dict__, layer._parameters, layer._buffers, layer._modules)  # noqa: SLF001  # all that would be overwritten
    names = itertools.chain(*own, *(vars(parent) for parent in type(layer).__mro__))
    if clash := next((name for name in names if name == "seeds" or _KERNEL.fullmatch(name)), ""):
        return f"its own attribute {clash!r} has a name that Esper gives; rename it"
    return ""


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a layer's name fits one of the patterns (fnmatch).

    Brackets are those of fnmatch or of the name itself, whichever fits.
    """
    return any(
        name == pattern
        or fnmatch.fnmatchcase(name, pattern)
        or fnmatch.fnmatchcase(name, pattern.replace("[", "[[]"))
        for pattern in patterns
    )


def seen_geometry(
    kind: HostKind, layer: nn.Module, reads: torch.Size, writes: torch.Size, batch: int
) -> Geometry:
    """The geometry of a layer that turned a tensor of shape `reads` into one of shape `writes`, in
    a forward on `batch` samples.

    Raises:
        BuildError: the layer's class writes something else than its attributes say.
        UsageError: a package's kind has failed, or says something that its layers cannot be.
    """
    geometry = _asked(kind, lambda: kind.geometry(layer, tuple(reads), batch))
    if not isinstance(geometry, Geometry) or geometry.channel_dim != kind.channel_dim:
        raise UsageError(
            f"Host kind {kind.name} of {_class(kind)} says {printable(repr(geometry))}, which is "
            f"no geometry of layers with their channels in dimension {kind.channel_dim}: "
            "correct it."
        )
    if tuple(writes) != _asked(kind, lambda: kind.written(layer, tuple(reads), geometry)):
        raise BuildError(
            f"it turns {tuple(reads)} into {tuple(writes)}, which is not what its "
            f"{'kernel size, stride and padding give' if geometry.convolves else 'features give'}"
        )
    return geometry
