"""The data of a run: tensors for training, the held-out split, and the test split."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from esper.bounded import DEFAULT, Limits, open_in, tensors_header
from esper.bounded.names import MALFORMED
from esper.checkpoint.digests import tensors_digest
from esper.disk import write_file
from esper.errors import CorruptError, UsageError, printable

Pair = tuple[Tensor, Tensor]
"""Inputs [N, ...] and class labels [N]."""

_SPLITS: Final = ("train", "validation", "test")
_NAMES: Final = tuple(f"{split}_{axis}" for split in _SPLITS for axis in "xy")


@dataclass(frozen=True, slots=True)
class Splits:
    """What a recipe's data function returns.

    Gates and Tamiyo see `validation`; nothing but the report sees `test`.
    """

    train: Pair
    validation: Pair
    test: Pair

    def __post_init__(self) -> None:
        """Refuse empty or uneven splits."""
        for name in _SPLITS:
            inputs, labels = getattr(self, name)
            if len(inputs) != len(labels) or not len(inputs):
                raise UsageError(
                    f"The {name} split has {len(inputs)} inputs and {len(labels)} labels; "
                    "it needs as many of one as of the other."
                )


def digest_of(splits: Splits) -> str:
    """SHA-256 over names, shapes, types and bytes of all splits: what RunStarted records as the
    version of the data.
    """
    return tensors_digest(_tensors(splits))


def read_splits(content: bytes, what: str, limits: Limits = DEFAULT) -> Splits:
    """The data in a safetensors file that `packed` made.

    Raises:
        CorruptError: it is none, or its header is larger than the limits allow.
    """
    if (names := tensors_header(content, limits, what).keys() - {"__metadata__"}) != set(_NAMES):
        raise CorruptError(
            f"{what} holds no data of a run: it has {len(names)} tensors, not {', '.join(_NAMES)}."
        )
    try:
        tensors = load(content)
        return Splits(*((tensors[f"{split}_x"], tensors[f"{split}_y"]) for split in _SPLITS))
    except (SafetensorError, UsageError, *MALFORMED) as error:
        raise CorruptError(f"{what} holds no data of a run: {printable(str(error))}.") from error


def packed(splits: Splits) -> bytes:
    """The data as a safetensors file."""
    content: bytes = save(_tensors(splits))
    return content


def kept_in(folder: Path, name: str, source: Path) -> list[Path]:
    """The files in which `cached` keeps the data of a recipe, as its source file is now: one,
    unless somebody put others there.
    """
    return sorted(folder.glob(f"{name}-{_source_id(source)}-*.safetensors"))


def cached(
    name: str,
    make: Callable[[], object],
    source: Path,
    folder: Path,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> Splits:
    """`make()`, kept as safetensors in `folder`: the second run does not make it again.

    The file is named by the hash of `source`, the file that defines the data, and by the digest of
    the data itself. What is not what its name says is never used: it is removed and made again, and
    `say` says so.
    """
    for path in kept_in(folder, name, source):
        try:
            with open_in(folder, path.name, DEFAULT.file) as file:
                splits = read_splits(file.read(), str(path))
            # the name holds the digest: a file that was changed, by whomever, does not fit it
            if path.stem.rpartition("-")[2] == digest_of(splits):
                return splits
        except (CorruptError, FileNotFoundError):
            pass
        say(f"{path} is damaged: it is removed, and the data made again.")
        path.unlink(missing_ok=True)
    fresh = make()
    if not isinstance(fresh, Splits):
        raise UsageError(
            f"The data function of {name} returns {type(fresh).__name__}; it must return "
            "esper.tolaria.recipes.splits.Splits."
        )
    write_file(
        folder / f"{name}-{_source_id(source)}-{digest_of(fresh)}.safetensors", packed(fresh)
    )
    return fresh


def _source_id(source: Path) -> str:
    return hashlib.sha256(source.read_bytes()).hexdigest()[:16]


def _tensors(splits: Splits) -> dict[str, Tensor]:
    return {
        f"{split}_{axis}": getattr(splits, split)[index].contiguous()
        for split in _SPLITS
        for index, axis in enumerate("xy")
    }
