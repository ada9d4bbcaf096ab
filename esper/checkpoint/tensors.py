"""The tensor store of one family of runs: snapshots in, snapshots out."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from esper.bounded import Limits
from esper.checkpoint.manifest import OWN, Stores
from esper.config import Settings
from esper.urza.opening import open_store, store_at
from esper.urza.store import Store
from esper.vault.family_keys import FamilyKey, any_in, made
from esper.vault.masters import held, masters

if TYPE_CHECKING:
    from esper.checkpoint.snapshot import Snapshot, Stored


class Tensors(Protocol):
    """Where a run's snapshots are read and written: a `TensorStore`, or one that is opened when it
    is first asked.
    """

    def write(self, snap: Snapshot) -> Stored:
        """Store a snapshot; see `TensorStore`."""

    def read(self, address: str, sha256: str, *, kinds: Collection[str] | None = None) -> Snapshot:
        """Read a snapshot; see `TensorStore`."""


@dataclass(frozen=True, slots=True)
class TensorStore:
    """Snapshots of the runs of one family in an object store, sealed: what is unchanged among them
    is stored once. `cold` has what is old.
    """

    store: Store
    family: FamilyKey
    cold: Store | None = None
    readers: int = 4
    limits: Limits = OWN

    @property
    def stores(self) -> Stores:
        """Where they lie."""
        return Stores(self.store, self.cold, self.readers, self.limits)

    def write(self, snap: Snapshot) -> Stored:
        """Store a snapshot: every chunk, then the manifest; durable before it returns.

        Raises:
            StorageFullError: no room; what was stored already is garbage that nothing names.
            UnavailableError: the store cannot be reached.
        """
        from esper.checkpoint import snapshot  # noqa: PLC0415 - torch, which whoever sweeps need not wait for

        return snapshot.write(self.stores, self.family, snap)

    def read(self, address: str, sha256: str, *, kinds: Collection[str] | None = None) -> Snapshot:
        """The snapshot whose manifest lies at `address`, every hash verified.

        With `kinds`, only tensors whose names begin with one of these.

        Raises:
            CorruptError: the manifest or a chunk is missing or not what its hash says; the sentence
                names it.
        """
        from esper.checkpoint import snapshot  # noqa: PLC0415 - as above

        return snapshot.read(self.stores, self.family, address, sha256, kinds=kinds)


@dataclass(slots=True)
class Unopened:
    """A tensor store that `open` opens when it is first asked: what needs no snapshot needs no key.

    Its methods raise as `open` does, too.
    """

    open: Callable[[], TensorStore]
    _opened: TensorStore | None = field(default=None, init=False, repr=False)

    def write(self, snap: Snapshot) -> Stored:
        """Store a snapshot; see `TensorStore`."""
        return self._store().write(snap)

    def read(self, address: str, sha256: str, *, kinds: Collection[str] | None = None) -> Snapshot:
        """Read a snapshot; see `TensorStore`."""
        return self._store().read(address, sha256, kinds=kinds)

    def _store(self) -> TensorStore:
        if self._opened is None:
            self._opened = self.open()
        return self._opened


def open_tensors(settings: Settings, family: str) -> TensorStore:
    """The tensor store of a family, which is named after its first run.

    Its key is made when the store has none.

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
