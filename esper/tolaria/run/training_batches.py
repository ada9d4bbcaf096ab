"""The batches of a recipe's run: of tensors in memory, or of a data set that is read while the run
trains. Each is a function of seed, epoch and its number, so that a resumed run goes on in the
middle of an epoch.
"""

from __future__ import annotations

import random
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import torch
from torch.utils.data import DataLoader

from esper.blame import mistake
from esper.errors import EsperError, UsageError, printable
from esper.tolaria.recipes.recipe import RunSection
from esper.tolaria.recipes.splits import Split
from esper.tolaria.recipes.streamed import Streamed
from esper.tolaria.recipes.structures import Structure, mapped, plain, size
from esper.tolaria.run.own_batches import batches_of, settings_of
from esper.tolaria.run.random_streams import seed_all
from esper.tolaria.step.stepping import batch_order, stream_seed

_ASKER: Final = "A recipe"
_WHAT: Final = "The train split"
_PLACE: Final = re.compile(r'^ +File "(.+)", line (\d+)', re.MULTILINE)


def batches(train: Split, run: RunSection) -> int:
    """Batches of an epoch.

    Raises:
        UsageError: there is none, or a DataLoader has another batch size than the recipe.
    """
    if not isinstance(train, Streamed):
        return size(train) // run.batch_size
    if train.iterable:
        return _Iterated(train, run).batches
    return len(_positioned(train, run))


def epoch_of(
    train: Split, run: RunSection, epoch: int, first: int
) -> Generator[Structure, None, None]:
    """The batches of an epoch, from number `first` on.

    Raises:
        UsageError: the data raise, end too early, or give batches that are no tensors.
    """
    if not isinstance(train, Streamed):
        order = batch_order(run.seed, epoch, size(train), run.batch_size, run.order)
        for indices in order[first:]:
            yield mapped(lambda one, indices=indices: one[indices], train)  # type: ignore[misc]  # bound now
        return
    source = (
        _Iterated(train, run).epoch(epoch, first)
        if train.iterable
        else _positioned(train, run).epoch(epoch, first)
    )
    while True:
        try:
            batch = next(source)
        except StopIteration:
            return
        except EsperError:
            raise
        except Exception as error:
            what = f"{_WHAT}, in epoch {epoch},"
            raise _of_worker(what, error) or mistake(what, error) from error
        yield plain(batch, f"A batch of {_WHAT.lower()}")


def _of_worker(what: str, error: Exception) -> UsageError | None:
    """What a worker of torch's has caught: it hands it over as text, without the user's frames."""
    lines = str(error).strip().splitlines()
    if not lines or "in DataLoader worker process" not in lines[0]:
        return None
    # the innermost place is the last
    places = _PLACE.findall(str(error))
    where = f" in {places[-1][0]}, line {places[-1][1]}" if places else ""
    return UsageError(f"{what} raised {printable(lines[-1])[:500]}{where}; correct it there.")


def looked_at(train: Split, run: RunSection) -> Structure:
    """What stands for the training split before the first step: all of it where it is in memory,
    else its first batch, made in this process.
    """
    if not isinstance(train, Streamed):
        return train
    source = train.source
    alone = (
        DataLoader(
            source.dataset,
            batch_size=source.batch_size,
            collate_fn=source.collate_fn,
            drop_last=source.drop_last,
        )
        if isinstance(source, DataLoader) and source.batch_size is not None
        else source
    )
    return next(epoch_of(replace(train, source=alone), run, 0, 0))


def _seed(run: RunSection) -> int:
    """What order and samples are drawn from: `run.order` chooses another of both."""
    return stream_seed(run.seed, "variant", run.order) if run.order else run.seed


def _positioned(train: Streamed, run: RunSection) -> Any:
    loader = isinstance(train.source, DataLoader)
    if loader:
        _require_size(train.source, run)
    return batches_of(
        train.source,
        batch_size=None if loader else run.batch_size,
        shuffle=True,
        # as with tensors; a DataLoader says it itself
        drop_last=True,
        seed=_seed(run),
        asker=_ASKER,
    )


def _require_size(loader: Any, run: RunSection) -> None:
    if loader.batch_size not in (None, run.batch_size):
        raise UsageError(
            f"{_WHAT} is a DataLoader of {loader.batch_size} samples a batch, and run.batch_size "
            f"is {run.batch_size}: make them the same."
        )


@dataclass(slots=True)
class _Iterated:
    """Batches of an iterable data set, in its own order: what was done is read again, and left.

    Its random streams are its own, begun anew in each epoch, whether workers draw from them or this
    process does.
    """

    train: Streamed
    run: RunSection
    settings: dict[str, Any] = field(init=False)
    drop_last: bool = field(init=False)

    def __post_init__(self) -> None:
        source = self.train.source
        self.settings, self.drop_last = {}, True
        if isinstance(source, DataLoader):
            if source.batch_size is None:
                raise UsageError(
                    f"{_WHAT} is a DataLoader without a batch size: give it run.batch_size, "
                    f"{self.run.batch_size}."
                )
            _require_size(source, self.run)
            self.settings, self.drop_last = settings_of(source), source.drop_last

    @property
    def batches(self) -> int:
        """Batches of an epoch, by the length that the data set says."""
        samples, many = self.train.samples, self.run.batch_size
        found = samples // many if self.drop_last else -(-samples // many)
        if not found:
            raise UsageError(
                f"run.batch_size = {many} is more than the {samples} training samples; lower it."
            )
        return found

    def epoch(self, epoch: int, first: int) -> Iterator[Any]:
        """As `Batches.epoch`.

        Raises:
            UsageError: the data end too early.
        """
        seed = stream_seed(_seed(self.run), "iterable", epoch)
        # as torch's own distributed samplers and many data sets have it
        if callable(tell := getattr(self.train.data, "set_epoch", None)):
            tell(epoch)
        apart = _Apart(seed)
        with apart:
            source = iter(
                DataLoader(
                    self.train.data,
                    batch_size=self.run.batch_size,
                    drop_last=self.drop_last,
                    # a generator of its own, which seeds the workers
                    generator=torch.Generator().manual_seed(seed),
                    **self.settings,
                )
            )
        for number in range(self.batches):
            with apart:
                batch = next(source, None)
            if batch is None:
                raise UsageError(
                    f"{_WHAT} gave {number} batches in epoch {epoch}, and {self.train.samples} "
                    f"samples make {self.batches}: let its length be what it gives; each worker "
                    "makes batches of its own."
                )
            if number >= first:
                yield batch


class _Apart:
    """Within: the global random streams are the data's own, and go on from the time before; the
    model's come back after it.
    """

    def __init__(self, seed: int) -> None:
        before = _states()
        seed_all(seed)
        self._own = _states()
        _restore(before)
        self._others = before

    def __enter__(self) -> None:
        self._others = _states()
        _restore(self._own)

    def __exit__(self, *_: object) -> None:
        self._own = _states()
        _restore(self._others)


def _states() -> tuple[Any, ...]:
    return torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002  # as above


def _restore(states: tuple[Any, ...]) -> None:
    torch.set_rng_state(states[0])
    random.setstate(states[1])
    np.random.set_state(states[2])  # noqa: NPY002  # as above
