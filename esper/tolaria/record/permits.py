"""Who has named the functions of a run's recipe, and so whether they may be called: an export never
makes its reader call what it names.

A run that was begun here was named by this installation's owner. For any other - imported, out of
an export, or begun on another machine - only functions of Esper's own recipes run, and those which
the reader allows by name after their source was shown.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from esper.config import Settings
from esper.errors import UsageError
from esper.events import JournalEvent
from esper.events.records import RunStarted
from esper.journal.portable import Export
from esper.journal.provenance import DATA, begun_here
from esper.tolaria.recipes.recipe import OWNER, WITH_ARGUMENTS, Permit, Recipe, allowance
from esper.tolaria.recipes.sources import kept_folder, kept_source, modules_named, told_of
from esper.tolaria.record.resume import recorded


def permit_for(
    settings: Settings,
    events: Sequence[JournalEvent],
    recipe: Recipe,
    *,
    allow: Collection[str] = (),
    export: Export | None = None,
    say: Callable[[str], None],
) -> Permit:
    """The permit of a recipe that a journal has.

    `say` has each function's source, its hash and how it differs, before it is allowed or refused.

    Raises:
        UsageError: the recipe names functions that are not allowed; the sentence names them.
    """
    started = events[0]
    assert isinstance(started, RunStarted)  # noqa: S101  # evolve refused anything else
    run_dir = settings.runs_dir / started.run_id
    # an export of the owner's own run has been in other hands
    if export is None and begun_here(run_dir):
        return replace(OWNER, folder=kept_folder(run_dir))
    permit = Permit(frozenset((*allow, *settings.imports.allow.replace(",", " ").split())))
    has_data = (
        any((run_dir / DATA).glob("*.safetensors"))
        if export is None
        else bool(export.named(DATA, ".safetensors"))
    )
    # data that came along are read, so the function that makes them is never called
    foreign = [
        (reference, key)
        for key, reference in recipe.references.items()
        if not (key == "data" and has_data) and not Permit().covers(reference, key)
    ]
    for module in sorted({name for pair in foreign for name in modules_named(*pair)}):
        for line in told_of(module, recorded(started), kept_source(module, run_dir, export)):
            say(line)
    lacking = sorted({pair for pair in foreign if not permit.covers(*pair)})
    if lacking:
        options = " ".join(f"--allow {allowance(*pair)}" for pair in lacking)
        called = " and ".join(
            reference + (f" (as {key}, with the arguments of its recipe)" * (key in WITH_ARGUMENTS))
            for reference, key in lacking
        )
        raise UsageError(
            f"Run {started.run_id} was not begun here, and to execute it "
            f"{called} would be called, which Esper does not ship: "
            f"read that code, then allow it with {options}, or in ESPER_IMPORTS__ALLOW."
        )
    return permit
