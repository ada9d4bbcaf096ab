"""The data of a run: tensors for training, the held-out split, and the test split."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, strided

from esper.bounded import DEFAULT, Limits, open_in, tensors_header
from esper.bounded.names import MALFORMED
from esper.checkpoint.digests import tensors_digest
from esper.disk import write_file
from esper.errors import CorruptError, UsageError, printable
from esper.tolaria.recipes.streamed import Streamed, is_stream, read_whole
from esper.tolaria.recipes.structures import leaves, name_of, path_of, plain, rebuilt

Split = Any
"""A structure of tensors [N, ...]: inputs and targets as a tuple, where either may be a structure
itself; a longer tuple whose last is the targets; or a mapping with the targets under `labels`.
"""
SPLITS: Final = ("train", "validation", "test")
_NAME: Final = re.compile(rf"({'|'.join(SPLITS)})(_[xy])?(\[.*\])?", re.DOTALL)
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Splits:
    """What a recipe's data function returns.

    Gates and Tamiyo see `validation`; nothing but the report sees `test`. Each may be given as a
    data set or DataLoader: `train` is then a `Streamed`, whose samples are read while the run
    trains; the others are read at once, because they are compared batch by batch.

    Raises:
        UsageError: a split is empty or uneven, or has something else than tensors; the sentence
            names it.
    """

    train: Split
    validation: Split
    test: Split

    def __post_init__(self) -> None:
        """Take structures as tuples and dicts, and refuse what cannot be cut into batches."""
        for name in SPLITS:
            split, what = getattr(self, name), f"The {name} split"
            if is_stream(split) and name == "train":
                split = Streamed.of(split)
            elif is_stream(split):
                split = read_whole(split, what)
            taken = split if isinstance(split, Streamed) else checked(split, what)
            object.__setattr__(self, name, taken)


def checked(split: Split, what: str) -> Split:
    """A split as tuples and dicts; `what` names it in messages.

    Raises:
        UsageError: it is empty or uneven, or has something else than tensors.
    """
    if isinstance(split, Tensor) or (isinstance(split, tuple | list) and len(split) == 1):
        raise UsageError(
            f"{what} is one tensor: give inputs and targets, as (inputs, targets) or as a mapping "
            "with `labels`."
        )
    split = plain(split, what)
    lengths = {}
    for path, tensor in leaves(split):
        name = place_in(split, path)
        if not tensor.dim():
            raise UsageError(
                f"{what} has {name} without a dimension: the first dimension is the sample."
            )
        if tensor.layout != strided or tensor.is_nested:
            form = "nested" if tensor.is_nested else "sparse"
            raise UsageError(
                f"{what} has {form} {name}: give a dense tensor, padded or .to_dense()."
            )
        if tensor.is_quantized or tensor.is_meta:
            form = "no values in" if tensor.is_meta else "quantized"
            raise UsageError(
                f"{what} has {form} {name}: give numbers, such as .dequantize() of it."
            )
        lengths[name] = len(tensor)
    if len(set(lengths.values())) > 1 or not all(lengths.values()):
        counts = " and ".join(f"{count} {name}" for name, count in lengths.items())
        raise UsageError(
            f"{what} has {counts}; it needs as many of one as of the other, and one at least."
        )
    return split


def digest_of(splits: Splits) -> str:
    """SHA-256 over names, shapes, types and bytes of all splits: what RunStarted records as the
    version of the data. Of a streamed split, over what `Streamed` looks at.
    """
    digest = tensors_digest(_tensors(splits))
    if isinstance(splits.train, Streamed):
        return hashlib.sha256(f"{splits.train.digest} {digest}".encode()).hexdigest()
    return digest


def digest_of_split(split: Split) -> str:
    """The same over one split: what RunStarted records of a loop of one's own, whose other data
    Esper does not see.
    """
    return tensors_digest(_named(split, "validation"))


def read_splits(content: bytes, what: str, limits: Limits = DEFAULT) -> Splits:
    """The data in a safetensors file that `packed` made.

    Raises:
        CorruptError: it is none, or its header is larger than the limits allow.
    """
    names = tensors_header(content, limits, what).keys() - {"__metadata__"}
    if {found[1] for name in names if (found := _NAME.fullmatch(name))} != set(SPLITS):
        raise CorruptError(
            f"{what} holds no data of a run: it has {len(names)} tensors, not those of "
            f"{', '.join(SPLITS)}."
        )
    try:
        tensors = load(content)
        parts: dict[str, dict[tuple[str | int, ...], Tensor]] = {split: {} for split in SPLITS}
        for name, tensor in tensors.items():
            found = _NAME.fullmatch(name)
            if found is None:
                raise ValueError(f"{name[:80]!r} is of no split")  # as json's own errors
            first: tuple[str | int, ...] = ("_x_y".index(found[2]) // 2,) if found[2] else ()
            parts[found[1]][(*first, *path_of(found[3] or ""))] = tensor
        return Splits(*(rebuilt(parts[split]) for split in SPLITS))
    except (SafetensorError, UsageError, *MALFORMED) as error:
        raise CorruptError(f"{what} holds no data of a run: {printable(str(error))}.") from error


def packed(splits: Splits) -> bytes:
    """The data as a safetensors file."""
    # cloned: safetensors refuses tensors that share memory, as slices of one tensor do
    content: bytes = save({name: tensor.clone() for name, tensor in _tensors(splits).items()})
    return content


def kept_in(folder: Path, digest: str) -> list[Path]:
    """The files in which `keep` has kept the data of this digest: one, unless recipes of several
    names have the same, or somebody put others there.
    """
    # a digest of a journal is anybody's text, and glob has characters of its own
    return sorted(folder.glob(f"*-{digest}.safetensors")) if _DIGEST.fullmatch(digest) else []


def keep(
    splits: Splits, name: str, folder: Path, *, say: Callable[[str], None] = lambda _: None
) -> None:
    """Keep data in `folder` for runs that are resumed, replayed, forked or exported. Those that are
    streamed are not kept: they may be larger than the disk, and their function makes them again.

    The file is named by the recipe's name and by the digest of the data itself.

    Raises StorageFullError or UnavailableError.
    """
    if isinstance(splits.train, Streamed):
        return
    digest = digest_of(splits)
    # read, not only looked for: an export of this run takes the file as it stands
    if kept(folder, digest, say=say) is None:
        write_file(folder / f"{name}-{digest}.safetensors", packed(splits))


def kept(
    folder: Path, digest: str, *, say: Callable[[str], None] = lambda _: None
) -> Splits | None:
    """The data of this digest, as `keep` has kept them; None where they are not there.

    What is not what its name says is never used: it is removed, and `say` says so.
    """
    for path in kept_in(folder, digest):
        try:
            with open_in(folder, path.name, DEFAULT.file) as file:
                splits = read_splits(file.read(), str(path))
            # the name holds the digest: a file that was changed, by whomever, does not fit it
            if digest == digest_of(splits):
                return splits
        except (CorruptError, FileNotFoundError):
            pass
        say(f"{path} is damaged: it is removed, and the data made again.")
        path.unlink(missing_ok=True)
    return None


def _is_pair(split: Split) -> bool:
    return isinstance(split, tuple) and len(split) == 2


def place_in(split: Split, path: tuple[str | int, ...]) -> str:
    """A tensor of a split in words: inputs, labels, or its keys."""
    if _is_pair(split):
        return ("inputs", "labels")[int(path[0])] + "".join(f"[{part!r}]" for part in path[1:])
    return "".join(f"[{part!r}]" for part in path)


def _named(split: Split, name: str) -> dict[str, Tensor]:
    """The tensors of a split by their names in files and digests; those of a plain pair are
    `train_x` and `train_y`.
    """
    if _is_pair(split):
        return {
            f"{name}_{axis}{name_of(path)}": tensor.contiguous()
            for axis, part in zip("xy", split, strict=True)
            for path, tensor in leaves(part)
        }
    return {f"{name}{name_of(path)}": tensor.contiguous() for path, tensor in leaves(split)}


def _tensors(splits: Splits) -> dict[str, Tensor]:
    return {
        name: tensor
        for split in SPLITS
        if not isinstance(getattr(splits, split), Streamed)
        for name, tensor in _named(getattr(splits, split), split).items()
    }
