"""What a probe saw: the shapes that each layer read and wrote in one forward, and the geometry that
follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, cast

import torch
from torch import Tensor, nn

from esper.errors import BuildError
from esper.kasmina.seeded.hosts import seen_geometry
from esper.kasmina.seeded.layers import SeededLayer

Call = tuple[torch.Size, torch.Size | None]
"""Shapes that a layer read and wrote; None when it wrote no tensor."""


class Seen:
    """Within this context, each forward call of the layers is noted in `calls`."""

    def __init__(self, layers: Mapping[str, SeededLayer]) -> None:
        self.calls: dict[str, list[Call]] = {name: [] for name in layers}
        self._layers = layers
        self._handles: list[Any] = []

    def __enter__(self) -> None:
        for name, layer in self._layers.items():

            def note(
                layer: nn.Module,
                args: tuple[Any, ...],
                named: dict[str, Any],
                output: Any,
                # bound now: later every hook would see the loop's last name
                name: str = name,
            ) -> None:
                reads = args[0] if args else named[cast("SeededLayer", layer).seeds.argument]
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


def geometries(
    layers: Mapping[str, SeededLayer], calls: Mapping[str, Sequence[Call]], *, batch: int
) -> tuple[dict[str, str], dict[str, str]]:
    """The geometry of each layer as text, and why a layer has none that its kernels could be made
    for.
    """
    known: dict[str, str] = {}
    refused: dict[str, str] = {}
    for name, layer in layers.items():
        try:
            known[name] = _geometry(layer, calls[name], batch)
        except BuildError as error:
            refused[name] = str(error)
    return known, refused


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
