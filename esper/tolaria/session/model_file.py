"""The final model on disk: one safetensors file (`esper.kasmina.plain.files`), sealed."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from esper.disk import write_file
from esper.errors import StorageFullError, UnavailableError, UsageError
from esper.kasmina.growth import GrowingModel
from esper.kasmina.plain.files import packed
from esper.vault.boxes import Box

BEST_MODEL: Final = "model.best.safetensors"
"""The model of the epoch with the best score on the held-out split, beside the final one."""


@dataclass(frozen=True, slots=True)
class Saved:
    """Where a model was written, and the SHA-256 of the file."""

    path: Path
    sha256: str


def save_model(growing: GrowingModel, path: Path, box: Box, *, elsewhere: bool = False) -> Saved:
    """Write all parameters and buffers, and what the layers have grown, to `path` (atomically),
    sealed in `box`.

    The hash is that of the plain safetensors file, which `esper model RUN --out FILE` writes.

    With `elsewhere`, a full disk sends the file to the system's folder for temporary files instead.

    Raises:
        StorageFullError: there is no room.
    """
    content = packed(growing.module)
    sha256 = hashlib.sha256(content).hexdigest()
    try:
        write_file(path, box.sealed(_name(path), content))
    except (StorageFullError, UnavailableError):
        if not elsewhere:
            raise
        return save_model(
            growing, Path(tempfile.mkdtemp(prefix="esper-")) / path.parent.name / path.name, box
        )
    return Saved(path, sha256)


def read_model(path: Path, box: Box) -> bytes:
    """The plain safetensors file that `save_model` sealed at `path`, or that an older Esper left
    there in the clear.

    Raises:
        UsageError: there is none.
        CorruptError: it was changed, is another run's, or is sealed with another key.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"There is no model in {path} ({error.strerror}): the run has not ended, or "
            "ran elsewhere."
        ) from error
    return box.opened(_name(path), content)


def _name(path: Path) -> str:
    """What a seal is bound to: the run and the file."""
    return f"{path.parent.name}/{path.name}"
