"""Kernels of an archived run: read when they are grafted, known by their id alone, which is the
hash of what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from esper.errors import CorruptError
from esper.events.records import KernelPublished
from esper.kasmina.loader import Loaded, LoaderFigures
from esper.kasmina.unpacked import Unpacked


@dataclass(slots=True)
class ArchivedKernels:
    """Kernels by id.

    `read` raises CorruptError for one that is lost, which matters only if it is grafted.
    """

    read: Callable[[str], Unpacked]
    _asked: list[str] = field(default_factory=list)

    def request(self, kernel_id: str, *, layer: str) -> None:
        """Note that it will be wanted."""
        del layer
        self._asked.append(kernel_id)

    def ready(self) -> list[Loaded]:
        """All that were asked for, at once."""
        requested, self._asked = self._asked, []
        return [self._loaded(kernel_id) for kernel_id in requested]

    def prefetch(self, kernels: Iterable[KernelPublished]) -> None:
        """Nothing is fetched ahead."""

    def figures(self) -> LoaderFigures:
        """There is no cache."""
        return LoaderFigures(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0, 0)

    def _loaded(self, kernel_id: str) -> Loaded:
        try:
            return Loaded(kernel_id, self.read(kernel_id))
        except CorruptError as error:
            return Loaded(kernel_id, None, str(error))
