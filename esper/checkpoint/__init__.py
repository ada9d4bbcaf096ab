"""Snapshots: tensors in sealed, content-addressed chunks, a sealed manifest that names every one of them, written behind the training thread."""

from __future__ import annotations

from esper.checkpoint.snapshot import Snapshot, Stored
from esper.checkpoint.tensors import TensorStore, open_tensors
from esper.checkpoint.writer import SnapshotWriter, Taken

__all__ = ["Snapshot", "SnapshotWriter", "Stored", "Taken", "TensorStore", "open_tensors"]
