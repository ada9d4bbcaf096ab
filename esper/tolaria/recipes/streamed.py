"""Training data that are not tensors in memory: data sets and DataLoaders, whose batches are made
while the run trains.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from esper.errors import UsageError
from esper.tolaria.recipes.structures import Structure, fingerprint, leaves, mapped, plain

Source = Dataset[Any] | DataLoader[Any]
_LOOKED_AT: Final = 8
"""Samples, evenly spaced, that a digest is made of."""


@dataclass(frozen=True, slots=True)
class Streamed:
    """The training split of a recipe: a data set with positions, an iterable one, or a DataLoader
    around either.

    `digest` is the SHA-256 over class, number of samples and eight of them: all would have to be
    read otherwise. The source of the functions that make them is recorded beside it.
    """

    source: Source
    digest: str

    @classmethod
    def of(cls, source: Source) -> Streamed:
        """Of data that are looked at.

        Raises:
            UsageError: they have no length, or no sample.
        """
        unseen = cls(source, "")
        return replace(unseen, digest=_digest(unseen))

    @property
    def data(self) -> Any:
        """The data set itself."""
        return self.source.dataset if isinstance(self.source, DataLoader) else self.source

    @property
    def iterable(self) -> bool:
        """Whether it has no positions, so that its samples come in its own order."""
        return isinstance(self.data, IterableDataset)

    @property
    def samples(self) -> int:
        """Samples of an epoch."""
        return length_of(self.data, "The train split")


def length_of(data: Any, what: str) -> int:
    """How many samples a data set says that it has.

    Raises:
        UsageError: it does not say, or has none.
    """
    try:
        samples = len(data)
    # a class without __len__, or one that has none to say
    except (TypeError, NotImplementedError):
        raise UsageError(
            f"{what} is a {type(data).__name__} without a length: give it __len__, the samples of "
            "an epoch, by which schedule and epochs count."
        ) from None
    if samples < 1:
        raise UsageError(f"{what} is a {type(data).__name__} without a sample.")
    return samples


def is_stream(split: object) -> bool:
    """Whether a split is none of tensors."""
    return isinstance(split, Dataset | DataLoader)


def read_whole(source: Source, what: str) -> Structure:
    """All samples of a data set or DataLoader in tensors: a held-out split is looked at after each
    epoch, and compared batch by batch, so it has to stay as it is.

    Raises:
        UsageError: it has no sample, or samples that make no tensors of one shape.
    """
    loader = (
        source
        if isinstance(source, DataLoader)
        else DataLoader(source, batch_size=64, generator=torch.Generator().manual_seed(0))
    )
    batches = [plain(batch, what) for batch in loader]
    if not batches:
        raise UsageError(f"{what} is a {type(source).__name__} without a sample.")
    parts = [dict(leaves(batch)) for batch in batches]
    if any(part.keys() != parts[0].keys() for part in parts):
        raise UsageError(f"{what} has samples of different structures: make them alike.")
    shapes = [{path: (one.shape[1:], one.dtype) for path, one in part.items()} for part in parts]
    if any(shape != shapes[0] for shape in shapes):
        raise UsageError(
            f"{what} has batches of different shapes or types: a held-out split is one tensor for "
            "each input; pad its samples to one length."
        )
    joined = iter([torch.cat([part[path] for part in parts]) for path in parts[0]])
    return mapped(lambda _: next(joined), batches[0])


def _digest(streamed: Streamed) -> str:
    data = streamed.data
    said: dict[str, Any] = {
        "class": type(data).__qualname__,
        "samples": streamed.samples,
        "loader": isinstance(streamed.source, DataLoader),
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if streamed.iterable:
            begun = iter(data)
            seen = [one for one, _ in zip(begun, range(_LOOKED_AT), strict=False)]
        else:
            last = streamed.samples - 1
            places = {number * last // (_LOOKED_AT - 1) for number in range(_LOOKED_AT)}
            seen = [data[place] for place in sorted(places)]
    said["seen"] = [fingerprint(one) for one in seen]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
