"""The kernels of a store, sealed at rest: whoever uses the store this way puts and gets plain
artefacts, and the store holds none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from esper.config import Settings
from esper.urza.opening import open_store
from esper.urza.store import Listed, Store
from esper.vault.boxes import KERNELS, Box, is_sealed, open_box

PREFIX = "kernels/"


@dataclass(frozen=True, slots=True)
class SealedKernels(Store):
    """A store whose objects under `kernels/` are sealed in `box`, each under its own key.

    All others are as they are.
    """

    store: Store
    box: Box

    def put_if_absent(self, key: str, content: bytes) -> bool:
        """Store unless taken; see `Store`."""
        return self.store.put_if_absent(
            key, self.box.sealed(key, content) if key.startswith(PREFIX) else content
        )

    def get(self, key: str) -> bytes | None:
        """The plain bytes or None; see `Store`.

        Raises:
            CorruptError: the object was changed, or is sealed with another key.
        """
        content = self.store.get(key)
        return (
            content
            if content is None or not key.startswith(PREFIX)
            else self.box.opened(key, content)
        )

    def exists(self, key: str) -> bool:
        """Whether it is there; see `Store`."""
        return self.store.exists(key)

    def objects(self, prefix: str = "") -> Iterator[Listed]:
        """What there is, sorted, with sizes as they lie there; see `Store`."""
        return self.store.objects(prefix)

    def delete(self, key: str) -> bool:
        """Remove; see `Store`."""
        return self.store.delete(key)


def open_kernels(settings: Settings) -> SealedKernels:
    """The store of an installation with its kernels. Raises as `open_store` and `open_box` do."""
    store = open_store(settings)
    return SealedKernels(store, open_box(settings, store, KERNELS))


def seal_kernels(kernels: SealedKernels) -> int:
    """Seal what an older Esper left in the clear; gives how many.

    It can be killed at any point and called again.

    Between the two steps of one kernel it is missing: whoever wants it then takes it for lost, and
    the foundry builds the same again.
    """
    count = 0
    # a list first: the loop deletes and puts below the same prefix
    for key in list(kernels.list(PREFIX)):
        content = kernels.store.get(key)
        if content is not None and not is_sealed(content):
            kernels.store.delete(key)
            kernels.put_if_absent(key, content)
            count += 1
    return count
