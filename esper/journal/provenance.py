"""Where a run comes from.

`esper import` and a resumption of a run that was begun elsewhere leave a file in the run's folder
that says so.

A run that has it was named by somebody else: its functions run only where the reader allows them by
name, and its data is its own. It is written before anything else of the run is here, so that no
interruption makes a stranger's run look like one that was begun here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, TypeAdapter, ValidationError

from esper.bounded import DEFAULT, read_in
from esper.bounded.names import SHA256
from esper.disk import write_file
from esper.errors import CorruptError

FILE: Final = "origin.json"
DATA: Final = "data"
SOURCE: Final = "source"

Hashes = Mapping[str, Annotated[str, Field(pattern=f"^{SHA256}$")]]


@dataclass(frozen=True, slots=True)
class Provenance:
    """What origin.json says: where the run was found, the SHA-256 of that export's manifest, and of
    the run's own data files by name.

    `fork` says that the run itself was begun here, from the state of such a run.
    """

    origin: str
    manifest_sha256: str = ""
    data: Hashes = field(default_factory=dict)
    fork: bool = False


_FORM: Final = TypeAdapter(Provenance)


def provenance(run_dir: Path) -> Provenance | None:
    """Where the run in a folder comes from; None for one that was begun here, or has no folder.

    Raises:
        CorruptError: the file is damaged.
    """
    try:
        return _FORM.validate_json(read_in(run_dir, FILE, DEFAULT.json))
    except FileNotFoundError:
        return None
    except ValidationError:
        raise CorruptError(
            f"{run_dir / FILE}, which says where the run comes from, is damaged; import "
            "the run again."
        ) from None


def note(run_dir: Path, known: Provenance) -> None:
    """Write it, durably. Raises StorageFullError or UnavailableError."""
    write_file(run_dir / FILE, json.dumps(asdict(known), indent=1, sort_keys=True).encode() + b"\n")


def begun_here(run_dir: Path) -> bool:
    """Whether the run in a folder was begun by the owner of this installation, who named its
    recipe.
    """
    return (run_dir / "outbox").is_dir() and provenance(run_dir) is None


def inherit(parent: Path, child: Path) -> None:
    """Let a fork have its parent's origin: its data, and whose functions it names.

    Raises as `note` does.
    """
    known = provenance(parent)
    if known is None:
        return
    # before the files: killed between, the fork still counts as a stranger's
    note(child, replace(known, fork=True))
    for folder, names in ((DATA, known.data), (SOURCE, _names(parent / SOURCE))):
        for name in names:
            write_file(child / folder / name, read_in(parent, f"{folder}/{name}", DEFAULT.file))


def _names(folder: Path) -> list[str]:
    return (
        sorted(path.name for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    )
