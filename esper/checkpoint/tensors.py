"""The tensor store of one family of runs: snapshots in, snapshots out."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from esper.checkpoint.families import Family, any_in, made
from esper.checkpoint.manifest import Stores
from esper.checkpoint.masters import held, masters
from esper.config import Settings
from esper.urza.opening import open_store, store_at
from esper.urza.store import Store

if TYPE_CHECKING:
    from esper.checkpoint.snapshot import Snapshot, Stored


@dataclass(frozen=True, slots=True)
class TensorStore:
    """Snapshots of the runs of one family in an object store, sealed: what is unchanged among them is stored once. `cold` has what is old."""

    store: Store
    family: Family
    cold: Store | None = None
    readers: int = 4

    @property
    def stores(self) -> Stores:
        """Where they lie."""
        return Stores(self.store, self.cold, self.readers)

    def write(self, snap: Snapshot) -> Stored:
        """Store a snapshot: every chunk, then the manifest; durable before it returns.

        Raises:
            StorageFullError: no room; what was stored already is garbage that nothing names.
            UnavailableError: the store cannot be reached.
        """
        from esper.checkpoint import snapshot  # noqa: PLC0415 - torch, which whoever sweeps need not wait for

        return snapshot.write(self.stores, self.family, snap)

    def read(self, address: str, sha256: str, *, kinds: Collection[str] | None = None) -> Snapshot:
        """The snapshot whose manifest lies at `address`, every hash verified. With `kinds`, only tensors whose names begin with one of these.

        Raises:
            CorruptError: the manifest or a chunk is missing or not what its hash says; the sentence names it.
        """
        from esper.checkpoint import snapshot  # noqa: PLC0415 - as above

        return snapshot.read(self.stores, self.family, address, sha256, kinds=kinds)


def open_tensors(settings: Settings, family: str) -> TensorStore:
    """The tensor store of a family, which is named after its first run; its key is made when the store has none.

    Raises:
        UsageError: the master key is missing or another one, so that nothing can be read.
        CorruptError: the family's file or the master key's was changed.
        UnavailableError, StorageFullError: the store cannot be used.
    """
    store = open_store(settings)
    with held(settings.master_key_path):
        keys = masters(settings, make=not any_in(store))
        return TensorStore(store, made(store, keys, family), open_cold(settings))


def open_cold(settings: Settings) -> Store:
    """The store that takes what is old. Raises as `open_store` does."""
    return store_at(settings.cold_location, settings.urza.endpoint)
