"""What a probe saw: the shapes that each layer read and wrote in one forward, the geometry that
follows, and whether seeds would have run there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Final, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointFunction

from esper.errors import BuildError
from esper.kasmina.seeded.hosts import seen_geometry
from esper.kasmina.seeded.layers import SeededLayer
from esper.kasmina.seeded.statistics import LayerStatistics

Call = tuple[torch.Size, torch.Size | None]
"""Shapes that a layer read and wrote; None when it wrote no tensor."""
REFUSED: Final[WeakKeyDictionary[nn.Module, str]] = WeakKeyDictionary()
"""Layers that a probe has taken seeds from, and why."""


class _Runs(LayerStatistics):
    """Stands where statistics are taken: that happens in the seeded forward, after the seeds."""

    def __init__(self) -> None:
        super().__init__(torch.empty(0, 4), ())
        self.count = 0

    def observe(self, output: Tensor) -> None:
        """Count the forward."""
        del output
        self.count += 1


class Seen:
    """Within this context, each forward call of the layers is noted in `calls`, seeded forwards are
    counted in `runs`, and calls that record no gradients in `frozen`.
    """

    def __init__(self, layers: Mapping[str, SeededLayer]) -> None:
        self.calls: dict[str, list[Call]] = {name: [] for name in layers}
        self.runs = {name: _Runs() for name in layers}
        self.frozen: set[str] = set()
        self._layers = layers
        self._handles: list[Any] = []
        self._before: list[tuple[LayerStatistics | None, bool]] = []

    def __enter__(self) -> None:
        for name, layer in self._layers.items():
            seeds = layer.seeds
            self._before.append((seeds.statistics, seeds.switches.sampling))
            seeds.statistics, seeds.switches.sampling = self.runs[name], True

            def note(
                layer: nn.Module,
                args: tuple[Any, ...],
                named: dict[str, Any],
                output: Any,
                # bound now: later every hook would see the loop's last name
                name: str = name,
            ) -> None:
                reads = args[0] if args else named[cast("SeededLayer", layer).seeds.argument]
                if not torch.is_grad_enabled() and not _checkpointed():
                    self.frozen.add(name)
                self.calls[name].append(
                    (reads.shape, output.shape if isinstance(output, Tensor) else None)
                )

            self._handles.append(layer.register_forward_hook(note, with_kwargs=True))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()
        before = zip(self._layers.values(), self._before, strict=True)
        # the last one first: layers share their switches, which only the first one saw unchanged
        for layer, (statistics, sampling) in reversed(list(before)):
            layer.seeds.statistics, layer.seeds.switches.sampling = statistics, sampling


def _checkpointed() -> bool:
    """Whether a reentrant checkpoint is what holds gradients off: it runs the layer once more."""
    frame: FrameType | None = sys._getframe()  # noqa: SLF001  # the only way to see who calls
    while frame is not None:
        if frame.f_code is CheckpointFunction.forward.__code__:
            return True
        frame = frame.f_back
    return False


@contextmanager
def uncompiled() -> Iterator[None]:
    """Within: compiled models run as they were written, so that hooks are called."""
    # nothing is compiled in a process that has not imported the compiler, which takes seconds
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def geometries(
    layers: Mapping[str, SeededLayer], seen: Seen, *, batch: int
) -> tuple[dict[str, str], dict[str, str]]:
    """The geometry of each layer as text, and why a layer has none that its kernels could be made
    for.
    """
    known: dict[str, str] = {}
    refused: dict[str, str] = {}
    for name, layer in layers.items():
        try:
            known[name] = _geometry(layer, seen.calls[name], batch)
            _require_runs(seen, name)
        except BuildError as error:
            refused[name] = str(error)
    return known, refused


def _require_runs(seen: Seen, name: str) -> None:
    """Raises BuildError where kernels would change nothing, or could not learn."""
    if not seen.runs[name].count:
        raise BuildError("another forward was put in the place of its own, and runs no seeds")
    if name in seen.frozen:
        raise BuildError("the model calls it without gradients, so that no kernel could learn")


def _geometry(layer: SeededLayer, calls: Sequence[Call], batch: int) -> str:
    if not calls:
        raise BuildError("the model's forward does not reach it")
    if any(writes is None for _, writes in calls):
        raise BuildError("its class gives something else than one tensor")
    seen = {
        seen_geometry(layer.seeds.kind, layer, reads, writes, batch).text
        for reads, writes in calls
        if writes is not None
    }
    if len(seen) == 1:
        return seen.pop()
    if layer.seeds.kind.at_each_position:
        return ""  # of several lengths: kernels of features run at each position
    raise BuildError(
        f"one forward gives it several sizes ({', '.join(sorted(seen))}), and a kernel is "
        "verified at one"
    )
