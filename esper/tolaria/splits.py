"""The data of a run: tensors for training, the held-out split, and the test split."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from esper.errors import UsageError

Pair = tuple[Tensor, Tensor]
"""Inputs [N, ...] and class labels [N]."""


@dataclass(frozen=True, slots=True)
class Splits:
    """What a recipe's data function returns. Gates and Tamiyo see `validation`; nothing but the report sees `test`."""

    train: Pair
    validation: Pair
    test: Pair

    def __post_init__(self) -> None:
        """Refuse empty or uneven splits."""
        for name in ("train", "validation", "test"):
            inputs, labels = getattr(self, name)
            if len(inputs) != len(labels) or not len(inputs):
                raise UsageError(
                    f"The {name} split has {len(inputs)} inputs and {len(labels)} labels; it needs as many of one as of the other."
                )


def kept_at(name: str, source: Path, folder: Path) -> Path:
    """The file in which `cached` keeps the data."""
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    return folder / f"{name}-{digest}.safetensors"


def read_splits(path: Path) -> Splits:
    """The data in such a file."""
    tensors = load_file(path)
    return Splits(*((tensors[f"{split}_x"], tensors[f"{split}_y"]) for split in ("train", "validation", "test")))


def cached(name: str, make: Callable[[], Splits], source: Path, folder: Path) -> Splits:
    """`make()`, kept as safetensors in `folder` under the hash of `source`, the file that defines it: the second run does not make it again."""
    path = kept_at(name, source, folder)
    if path.exists():
        return read_splits(path)
    made = make()
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{split}_{axis}": getattr(made, split)[index].contiguous()
        for split in ("train", "validation", "test")
        for index, axis in enumerate("xy")
    }
    partial = path.with_suffix(".partial")
    save_file(tensors, partial)
    partial.replace(path)
    return made
