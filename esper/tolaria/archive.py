"""An archived run put together from an installation or an export: journal, snapshots, kernels, the recipe's model and data."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from esper.checkpoint import TensorStore, open_tensors
from esper.checkpoint.retention import family_of
from esper.clock import Clock
from esper.config import Settings
from esper.errors import CorruptError, EsperError, UsageError
from esper.events import JournalEvent
from esper.journal.portable import Export
from esper.journal.reading import whole
from esper.kasmina.unpacked import Unpacked, unpack_artefact
from esper.tolaria.recipe import Recipe, function
from esper.tolaria.reexecution import Archive
from esper.tolaria.resume import recipe_of
from esper.tolaria.splits import Splits, read_splits
from esper.tolaria.trainee import load_data
from esper.urza.artefact import address_of, read
from esper.urza.opening import open_store
from esper.urza.store import Store

OWN_LOOP = "own.loop:model"  # the model of a run in a user's own loop: its loop and data are not Esper's


@dataclass(frozen=True, slots=True)
class Archived:
    """A run that can be executed again, as what another process opens it by: its journal, and the installation or the export with the rest."""

    settings: Settings
    events: tuple[JournalEvent, ...]
    export: Export | None = None
    passphrase: str = field(default="", repr=False)

    def tensors(self) -> TensorStore:
        """The run's snapshots, for which neither its model nor its data are needed. Raises as `open_tensors` does."""
        if self.export is not None:
            return self.export.tensors(self.settings, self.passphrase)
        return open_tensors(self.settings, family_of(self.events))

    def open(self, clock: Clock) -> Archive:
        """The archive; raises as `archived` does."""
        if self.export is not None:
            return archived(
                self.events,
                tensors=self.tensors(),
                kernels=kernels_in([], self.export.store),
                splits=_exported_data(self.export),
                clock=clock,
            )
        store = open_store(self.settings)
        return archived(
            self.events,
            tensors=self.tensors(),
            kernels=kernels_in([self.settings.runs_dir / self.events[0].run_id / "kernels"], store),
            splits=partial(load_data, folder=self.settings.home.resolve() / "data"),
            clock=clock,
        )


def _exported_data(export: Export) -> Callable[[Recipe], Splits]:
    """The data that the run trained on; an export without it has the recipe make it anew."""
    found = sorted((export.folder / "data").glob("*.safetensors"))
    return lambda recipe: read_splits(found[0]) if found else function(recipe.data, "data")()


def archived(
    events: Sequence[JournalEvent],
    *,
    tensors: TensorStore,
    kernels: Callable[[str], Unpacked],
    splits: Callable[[Recipe], Splits],
    clock: Clock,
) -> Archive:
    """What executing a run again takes.

    Raises:
        UsageError: the run was trained in a user's own loop, or its recipe's model or data cannot be imported here.
        CorruptError: the journal was changed.
    """
    whole(events)
    recipe = recipe_of(events)
    if recipe.model == OWN_LOOP:
        raise UsageError(
            f"Run {events[0].run_id} was trained in a loop of its user's own, which Esper cannot execute; `esper replay --fold` proves its journal."
        )
    return Archive(events, tensors, kernels, function(recipe.model, "model"), splits(recipe), clock)


def kernels_in(folders: Sequence[Path], store: Store | None) -> Callable[[str], Unpacked]:
    """Kernels out of folders of artefacts, or else out of a store. A kernel's id is the hash of blueprint and weights, which proves it.

    What is given raises CorruptError for a kernel that is nowhere whole; the sentence says where it was sought.
    """

    def found(kernel_id: str) -> Unpacked:
        faults = []
        for path in [folder / f"{kernel_id}.safetensors" for folder in folders]:
            if path.is_file():
                try:
                    return _whole(path.read_bytes(), kernel_id)
                except (CorruptError, OSError) as error:
                    faults.append(str(error))
        content = store.get(address_of(kernel_id)) if store is not None else None
        if content is not None:
            try:
                return _whole(content, kernel_id)
            except EsperError as error:
                faults.append(str(error))
        why = " ".join(faults) or "It is neither among the run's own kernels nor in the object store."
        raise CorruptError(f"Kernel {kernel_id}, which this run grafted, is lost. {why}")

    return found


def _whole(content: bytes, kernel_id: str) -> Unpacked:
    return unpack_artefact(read(content, kernel_id=kernel_id, sha256=hashlib.sha256(content).hexdigest()))
