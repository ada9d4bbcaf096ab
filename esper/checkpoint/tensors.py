"""The tensor store of one family of runs: snapshots in, snapshots out."""

from __future__ import annotations

from dataclasses import dataclass

from esper.checkpoint import snapshot
from esper.checkpoint.snapshot import Snapshot, Stored
from esper.urza.store import Store


@dataclass(frozen=True, slots=True)
class TensorStore:
    """Snapshots of the runs of one family in an object store: what is unchanged among them is stored once."""

    store: Store

    def write(self, snap: Snapshot) -> Stored:
        """Store a snapshot: every chunk, then the manifest; durable before it returns.

        Raises:
            StorageFullError: no room; what was stored already is garbage that nothing names.
            UnavailableError: the store cannot be reached.
        """
        return snapshot.write(self.store, snap)

    def read(self, address: str, sha256: str) -> Snapshot:
        """The snapshot whose manifest lies at `address`, every hash verified.

        Raises:
            CorruptError: the manifest or a chunk is missing or not what its hash says; the sentence names it.
        """
        return snapshot.read(self.store, address, sha256)
