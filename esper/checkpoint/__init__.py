"""Snapshots: tensors in sealed, content-addressed chunks, a sealed manifest that names every one of
them, written behind the training thread.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from esper.checkpoint.snapshot import Snapshot, Stored
    from esper.checkpoint.tensors import TensorStore, open_tensors
    from esper.checkpoint.writer import SnapshotWriter, Taken

__all__ = ["Snapshot", "SnapshotWriter", "Stored", "Taken", "TensorStore", "open_tensors"]

_HOMES: Final = {
    "Snapshot": "snapshot",
    "SnapshotWriter": "writer",
    "Stored": "snapshot",
    "Taken": "writer",
    "TensorStore": "tensors",
    "open_tensors": "tensors",
}


def __getattr__(name: str) -> Any:
    """Import on first use: whoever lists or sweeps does not wait for torch."""
    if name in _HOMES:
        return getattr(import_module(f"esper.checkpoint.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'esper.checkpoint' has no attribute {name!r}")
