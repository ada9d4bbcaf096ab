"""An archived run put together from an installation or an export: journal, snapshots, kernels, the
recipe's model and data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from esper.checkpoint import open_tensors
from esper.checkpoint.retention import family_of
from esper.checkpoint.tensors import Tensors, Unopened
from esper.clock import Clock
from esper.config import Settings
from esper.errors import CorruptError, UsageError, printable
from esper.events import JournalEvent
from esper.events.records import RunStarted
from esper.journal.portable import Export
from esper.journal.provenance import DATA
from esper.journal.reading import whole
from esper.kasmina.unpacked import Unpacked, unpack_artefact
from esper.tolaria.recipes.environment import DATA as DATA_VERSION
from esper.tolaria.recipes.recipe import Permit, Recipe
from esper.tolaria.recipes.splits import Splits, digest_of, read_splits
from esper.tolaria.record.permits import permit_for
from esper.tolaria.record.resume import recipe_of, recorded
from esper.tolaria.replay.recorded_script import recorded_script
from esper.tolaria.replay.reexecution import Archive, RecipeLoop
from esper.tolaria.replay.scripts import ScriptLoop
from esper.tolaria.run.trainee import data_digest, inputs_of, load_data, made_data, model_of
from esper.tolaria.step.method import method_of
from esper.urza.artefact import address_of, read
from esper.urza.opening import open_store
from esper.urza.sealed import SealedKernels
from esper.urza.store import Store
from esper.vault.boxes import KERNELS, Box, open_box


@dataclass(frozen=True, slots=True)
class Archived:
    """A run that can be re-executed, as what another process opens it by: its journal, and the
    installation or the export with the rest.

    `allow` are functions, by name, that a run from elsewhere may call.
    """

    settings: Settings
    events: tuple[JournalEvent, ...]
    export: Export | None = None
    passphrase: str = field(default="", repr=False)
    allow: tuple[str, ...] = ()

    def tensors(self) -> Tensors:
        """The run's snapshots, for which neither its model nor its data are needed.

        Their key is looked for when one is read.
        """
        if self.export is not None:
            return Unopened(partial(self.export.tensors, self.settings, self.passphrase))
        return Unopened(partial(open_tensors, self.settings, family_of(self.events)))

    def _kernels(self, run_dir: Path) -> Callable[[str], Unpacked]:
        """The kernels of a run of this installation, whose key is looked for when one is read."""
        store, opened = open_store(self.settings), list[Callable[[str], Unpacked]]()

        def kernel(kernel_id: str) -> Unpacked:
            # once, and late: a replay that grafts nothing needs no key
            if not opened:
                box = open_box(self.settings, store, KERNELS)
                opened.append(kernels_in([run_dir / "kernels"], SealedKernels(store, box), box))
            return opened[0](kernel_id)

        return kernel

    def open(self, clock: Clock, say: Callable[[str], None] = lambda _: None) -> Archive:
        """The archive; `say` has the source of functions of a run from elsewhere.

        Raises as `archived`, `permit_for` and `recorded_script` do.
        """
        run_dir = self.settings.runs_dir / self.events[0].run_id
        whole(self.events)
        if recipe_of(self.events).own_loop:
            kernels = (
                self._kernels(run_dir) if self.export is None else kernels_in([], self.export.store)
            )
            script = recorded_script(
                self.settings, self.events, allow=self.allow, export=self.export, say=say
            )
            loop = ScriptLoop(self, self.events, script)
            return Archive(
                self.events, self.tensors(), kernels, loop, clock, script.inputs(resumed=False)
            )
        permit = partial(
            permit_for, self.settings, self.events, allow=self.allow, export=self.export, say=say
        )
        if self.export is not None:
            kernels, splits = (
                kernels_in([], self.export.store),
                partial(_exported_data, self.export, self.events),
            )
        else:
            kernels = self._kernels(run_dir)
            splits = partial(
                load_data,
                run_dir=run_dir,
                shared=self.settings.data_dir,
                recorded=data_digest(self.events),
                say=say,
            )
        return archived(
            self.events,
            tensors=self.tensors(),
            kernels=kernels,
            permit=permit,
            splits=splits,
            clock=clock,
        )


def _exported_data(
    export: Export, events: Sequence[JournalEvent], recipe: Recipe, permit: Permit
) -> Splits:
    """The data that the run trained on; an export without it has the recipe make it anew.

    Raises:
        CorruptError: what the export has is damaged, or is not the data that the journal has
            recorded.
    """
    for name in export.named(DATA, ".safetensors"):
        exported = read_splits(
            export.read(name, export.limits.file), str(export.folder / name), export.limits
        )
        started = events[0]
        assert isinstance(started, RunStarted)  # noqa: S101  # a fold refused anything else
        if (digest := recorded(started).get(DATA_VERSION, "")) not in ("", digest_of(exported)):
            raise CorruptError(
                f"The data in {export.folder / name} are not those that run "
                f"{started.run_id} has recorded, SHA-256 {printable(digest)[:64]}."
            )
        return exported
    return made_data(recipe, permit)


def archived(
    events: Sequence[JournalEvent],
    *,
    tensors: Tensors,
    kernels: Callable[[str], Unpacked],
    permit: Callable[[Recipe], Permit],
    splits: Callable[[Recipe, Permit], Splits],
    clock: Clock,
) -> Archive:
    """What re-executing a run takes.

    Raises:
        UsageError: the recipe's model or data cannot be imported here, or may not be called, or it
            has layers of a kind that is not known.
        CorruptError: the journal was changed, or the data are not those of the run.
    """
    # before anything that the journal names is looked up or called
    whole(events)
    recipe = recipe_of(events)
    # before data and model: making them calls what the recipe names
    granted = permit(recipe)
    data = splits(recipe, granted)
    inputs = inputs_of(recipe, data)
    method, model = method_of(recipe, granted), model_of(recipe, granted, events)
    loop = RecipeLoop(method, model, data, recipe.run.threads)
    return Archive(events, tensors, kernels, loop, clock, inputs)


def kernels_in(
    folders: Sequence[Path], store: Store | None, box: Box | None = None
) -> Callable[[str], Unpacked]:
    """Kernels out of folders of artefacts, sealed in `box`, or else out of a store.

    A kernel's id is the hash of blueprint and weights, which proves it.

    What is given raises CorruptError for a kernel that is nowhere whole; the sentence says where it
    was sought.
    """

    def kernel(kernel_id: str) -> Unpacked:
        faults = []
        address = address_of(kernel_id)  # before it names a file
        for path in [folder / f"{kernel_id}.safetensors" for folder in folders]:
            if path.is_file():
                try:
                    content = path.read_bytes()
                    return _whole(box.opened(address, content) if box else content, kernel_id)
                except (CorruptError, OSError) as error:
                    faults.append(str(error))
        try:
            stored = store.get(address) if store is not None else None
            if stored is not None:
                return _whole(stored, kernel_id)
        except (CorruptError, UsageError) as error:
            faults.append(str(error))
        why = (
            " ".join(faults) or "It is neither among the run's own kernels nor in the object store."
        )
        raise CorruptError(f"Kernel {kernel_id}, which this run grafted, is lost. {why}")

    return kernel


def _whole(content: bytes, kernel_id: str) -> Unpacked:
    return unpack_artefact(
        read(content, kernel_id=kernel_id, sha256=hashlib.sha256(content).hexdigest())
    )
