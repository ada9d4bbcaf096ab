"""The script of a run, out of what the run has kept of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Sequence

from esper.bounded import DEFAULT, read_in
from esper.bounded.names import MALFORMED
from esper.config import Settings
from esper.errors import CorruptError, UsageError, printable
from esper.events import JournalEvent
from esper.events.records import RunStarted
from esper.journal.portable import Export
from esper.journal.provenance import SOURCE, begun_here
from esper.tolaria.recipes.environment import ARGUMENTS, NUMBER
from esper.tolaria.recipes.environment import SOURCE as SOURCE_VERSION
from esper.tolaria.record.resume import recorded
from esper.tolaria.run.own_script import Script, name_in, place_in


def recorded_script(
    settings: Settings,
    events: Sequence[JournalEvent],
    *,
    allow: Collection[str] = (),
    export: Export | None = None,
    say: Callable[[str], None],
) -> Script:
    """The script of a run as it was when the run began, whatever its file has become since then.

    Raises:
        UsageError: no script is on record, the run is not the first of its script, or it was not
            begun here and its script is not among `allow`.
        CorruptError: its text is lost, or is not the one that was recorded.
    """
    started = events[0]
    assert isinstance(started, RunStarted)  # noqa: S101  # evolve refused anything else
    run_id, versions = started.run_id, recorded(started)
    name = name_in(versions)
    if not name:
        raise UsageError(
            f"Run {run_id} was trained in a loop that has no script on record, as in a notebook, "
            "so it cannot be executed again: put the loop into a file, and run that by `esper run` "
            f"or Python. `esper replay fold {run_id}` proves its journal."
        )
    if NUMBER in versions:
        raise UsageError(
            f"Run {run_id} is run {printable(versions[NUMBER])} of {printable(name)}, and only the "
            "first run of a script can be executed again: give each a script of its own. "
            f"`esper replay fold {run_id}` proves its journal."
        )
    run_dir = settings.runs_dir / run_id
    content = _kept(settings, run_id, name, export)
    digest = versions[f"{SOURCE_VERSION}{name}"]
    if hashlib.sha256(content).hexdigest() != digest:
        raise CorruptError(
            f"The script {printable(name)} that is kept of run {run_id} is not the one that it has "
            f"recorded, SHA-256 {printable(digest)[:64]}: restore that file in {run_dir / SOURCE}."
        )
    if export is not None or not begun_here(run_dir):
        _require_allowed(settings, run_id, name, digest, allow)
    path, folder = place_in(run_dir, name)
    try:
        now = path.read_bytes()
    except OSError:
        now = None
    if now is not None and now != content:
        say(f"{path} has changed since run {run_id} began; its kept copy is executed.")
    try:
        arguments = tuple(map(str, json.loads(versions[ARGUMENTS])))
    except MALFORMED:
        raise CorruptError(f"The arguments that run {run_id} has recorded are none.") from None
    return Script(path, content, arguments, run_id, folder=folder)


def _kept(settings: Settings, run_id: str, name: str, export: Export | None) -> bytes:
    """Its text.

    Raises:
        CorruptError: there is none.
    """
    run_dir, inside = settings.runs_dir / run_id, f"{SOURCE}/{name}"
    try:
        if export is None:
            return read_in(run_dir, inside, DEFAULT.json)
        if inside in export.content.files:
            return export.read(inside, export.limits.json)
    except FileNotFoundError:
        pass
    where = run_dir if export is None else export.folder
    raise CorruptError(
        f"{where / SOURCE} lacks {printable(name)}, the script of run {run_id}: restore that file."
    )


def _require_allowed(
    settings: Settings, run_id: str, name: str, digest: str, allow: Collection[str]
) -> None:
    """Refuse a stranger's script that its reader has not allowed.

    Raises:
        UsageError: the sentence says how.
    """
    if name in {*allow, *settings.imports.allow.replace(",", " ").split()}:
        return
    raise UsageError(
        f"Run {run_id} was not begun here, and to execute it the script {printable(name)} "
        f"(SHA-256 {digest}), which came with it, would be run: read it in its folder {SOURCE}, "
        f"then allow it with --allow {printable(name)}, or in ESPER_IMPORTS__ALLOW."
    )
