"""Tensors in a structure: alone, in tuples and mappings, or in these within each other, as batches
and splits have them. The first dimension of each is the sample.

Lists are taken as tuples, and any mapping, such as a BatchEncoding, as a dict.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

import numpy as np
import torch
from torch import Tensor

from esper.errors import UsageError, printable

Structure = Any
"""A tensor [N, ...], or a tuple or mapping of structures."""
Path = tuple[str | int, ...]
"""Where a tensor is in a structure: keys of mappings and places in tuples."""
T = TypeVar("T")
DEEPEST: Final = 8  # mappings and tuples within each other
_MODELS: Final = "Give torch tensors, tuples and mappings of them"


def plain(structure: Structure, what: str, depth: int = 0) -> Structure:
    """A structure of tensors, tuples and dicts alone; `what` names it in messages.

    Raises:
        UsageError: something in it is none of these.
    """
    if isinstance(structure, Tensor):
        return structure
    if depth >= DEEPEST:
        raise UsageError(f"{what} is nested more than {DEEPEST} deep. {_MODELS}, less deep.")
    if isinstance(structure, Mapping | tuple | list) and not len(structure):
        raise UsageError(f"{what} is empty. {_MODELS}.")
    if isinstance(structure, Mapping):
        for key in structure:
            if not isinstance(key, str):
                raise UsageError(f"{what} has the key {key!r}, which is no text: name it.")
        return {
            key: plain(value, f"{what}[{printable(key)[:40]!r}]", depth + 1)
            for key, value in structure.items()
        }
    if isinstance(structure, tuple | list):
        # a list of numbers would be a structure of thousands of parts
        if structure and isinstance(structure[0], bool | int | float | str):
            raise UsageError(
                f"{what} is a {type(structure).__name__} of {type(structure[0]).__name__}: give "
                "torch.tensor(...) of it."
            )
        return tuple(
            plain(value, f"{what}[{index}]", depth + 1) for index, value in enumerate(structure)
        )
    raise UsageError(f"{what} is {_described(structure)}")


def _described(value: object) -> str:
    kind = type(value)
    if kind.__module__ == "numpy":
        return f"a numpy {kind.__name__}: give torch.from_numpy(...) of it."
    if isinstance(value, torch.utils.data.Dataset | torch.utils.data.DataLoader):
        return (
            f"a {kind.__name__}: read it into tensors, such as torch.stack of its samples; a split "
            "as a whole may be one, and no part of it."
        )
    return f"{kind.__name__}. {_MODELS}."


def leaves(structure: Structure, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """The tensors of a structure with their places, in its order."""
    if isinstance(structure, Tensor):
        yield path, structure
    elif isinstance(structure, Mapping):
        for key, value in structure.items():
            yield from leaves(value, (*path, key))
    elif isinstance(structure, tuple | list):
        for index, value in enumerate(structure):
            yield from leaves(value, (*path, index))


def mapped(change: Callable[[Tensor], Any], structure: Structure) -> Structure:
    """A structure with `change` of each tensor in its place."""
    if isinstance(structure, Tensor):
        return change(structure)
    if isinstance(structure, Mapping):
        return {key: mapped(change, value) for key, value in structure.items()}
    if isinstance(structure, tuple | list):
        return tuple(mapped(change, value) for value in structure)
    return structure


def size(structure: Structure) -> int:
    """The number of samples: of the first tensor, 0 where there is none."""
    first = next(leaves(structure), None)
    return 0 if first is None or not first[1].dim() else len(first[1])


def split(structure: Structure, samples: int) -> Iterator[Structure]:
    """Its batches of `samples`, in order; the last may have fewer."""
    # as Tensor.split: views, one after the other
    for begin in range(0, size(structure), samples):
        end = begin + samples
        yield mapped(lambda one, begin=begin, end=end: one[begin:end], structure)  # type: ignore[misc]  # bound now


def divided(structure: Structure, parts: int) -> list[Structure]:
    """`parts` of nearly the same number of samples, as Tensor.tensor_split cuts."""
    if parts == 1:
        return [structure]
    cut = {path: one.tensor_split(parts) for path, one in leaves(structure)}
    return [
        rebuilt({path: pieces[index] for path, pieces in cut.items()}) for index in range(parts)
    ]


def called(function: Callable[..., T], inputs: Structure) -> T:
    """`function` of the inputs: a mapping's as keywords, a tuple's one after the other."""
    if isinstance(inputs, Mapping):
        return function(**inputs)
    if isinstance(inputs, tuple | list):
        return function(*inputs)
    return function(inputs)


def name_of(path: Path) -> str:
    """The place of a tensor as text; empty for one that is alone."""
    return json.dumps(list(path)) if path else ""


def path_of(name: str) -> Path:
    """The place that `name_of` wrote.

    Raises:
        ValueError: it wrote no such text.
    """
    parts = json.loads(name) if name else []
    right = isinstance(parts, list) and all(
        isinstance(part, str | int) and not isinstance(part, bool) for part in parts
    )
    if not right or len(parts) > DEEPEST or name != name_of(tuple(parts)):
        raise ValueError(f"{name[:80]!r} is no place in a structure")
    return tuple(parts)


def rebuilt(tensors: Mapping[Path, Tensor]) -> Structure:
    """The structure whose `leaves` these are.

    Raises:
        ValueError: they are those of none.
    """
    if () in tensors:
        if len(tensors) > 1:
            raise ValueError("a tensor cannot have parts")
        return tensors[()]
    parts: dict[str | int, dict[Path, Tensor]] = {}
    for path, tensor in tensors.items():
        parts.setdefault(path[0], {})[path[1:]] = tensor
    if all(isinstance(key, str) for key in parts):
        return {key: rebuilt(part) for key, part in parts.items()}
    if set(parts) != set(range(len(parts))):
        raise ValueError("places in a tuple are missing")
    return tuple(rebuilt(parts[index]) for index in range(len(parts)))


def fingerprint(batch: object) -> str:
    """SHA-256 over structure, shapes, types and bytes of a batch; of what is no tensor, array,
    number or text, its class.
    """
    digest = hashlib.sha256()

    def take(value: object) -> None:
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(np.ascontiguousarray(value))
        if isinstance(value, Tensor):
            whole = value.detach().cpu().contiguous()
            digest.update(f"tensor {whole.dtype} {list(whole.shape)} ".encode())
            digest.update(whole.reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(value, Mapping):
            digest.update(b"{")
            for key, one in value.items():
                take(key)
                take(one)
            digest.update(b"}")
        elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
            digest.update(b"[")
            for one in value:
                take(one)
            digest.update(b"]")
        elif isinstance(value, str | bytes | bool | int | float):
            digest.update(f"{type(value).__name__} {value!r} ".encode())
        else:
            digest.update(type(value).__qualname__.encode())

    take(batch)
    return digest.hexdigest()
