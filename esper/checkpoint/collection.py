"""Garbage collection of a whole store: every family that the journals know, one sweep of an
installation at a time.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType

from esper.checkpoint.retention import Pins, journalled
from esper.checkpoint.sweep import Rules, Swept, sweep
from esper.checkpoint.tensors import TensorStore, open_cold
from esper.clock import Clock
from esper.config import Settings
from esper.disk import make_folder, write_file
from esper.errors import EsperError
from esper.events import Event
from esper.oona.durable.lock import Lock
from esper.urza.opening import open_store
from esper.vault.boxes import INSTALLATION
from esper.vault.family_keys import family_id, opened
from esper.vault.masters import masters

_DAY_US = 86_400_000_000


@dataclass(frozen=True, slots=True)
class Collected:
    """What became of each family, why some were left alone, and how many lie in the store that no
    journal at hand knows: those are left alone too.
    """

    swept: tuple[Swept, ...]
    left: tuple[str, ...]
    unknown: int


def collect(
    settings: Settings,
    events: Iterable[Event],
    clock: Clock,
    *,
    doubtful: Mapping[str, str] = MappingProxyType({}),
    dry_run: bool = False,
) -> Collected:
    """Sweep every family of which `events`, the journals of all runs and which were deleted, know.

    A family that cannot be swept is left alone, and so is one with a run whose journal is damaged:
    `doubtful` says by run how, once `events` are read. The others are swept.

    Raises:
        UsageError: another process of this installation sweeps.
        UnavailableError: a store cannot be used.
    """
    store, cold, keys = open_store(settings), open_cold(settings), masters(settings)
    given, owner = settings.checkpoints, owner_of(settings)
    rules = Rules(
        keep_us=round(given.keep_days * _DAY_US),
        cold_after_us=round(given.cold_after_days * _DAY_US),
    )
    swept, left = list[Swept](), list[str]()
    with no_sweep(settings):
        journals = journalled(events)
        families = journals.held(Pins(store))
        damaged = {family: doubtful[run] for run, family in journals.families(doubtful).items()}
        left.extend(damaged.values())
        for name, snapshots in families.items():
            if name in damaged:
                continue
            try:
                if (family := opened(store, keys, name)) is not None:
                    tensors = TensorStore(store, family, cold)
                    swept.append(
                        sweep(
                            tensors,
                            snapshots,
                            rules,
                            now_us=clock.now_us(),
                            owner=owner,
                            dry_run=dry_run,
                        )
                    )
            except EsperError as error:
                left.append(str(error))
        known = {family_id(name) for name in (*families, INSTALLATION)}
        unknown = {key.split("/")[1] for key in store.list("families/")} - known
        if not dry_run and not left:
            write_file(settings.swept_path, str(clock.now_us()).encode())
    return Collected(tuple(swept), tuple(left), len(unknown))


def owner_of(settings: Settings) -> str:
    """How sweeps of this installation name themselves in the store."""
    where = settings.home.resolve()
    return hashlib.sha256(f"{socket.gethostname()} {where}".encode()).hexdigest()[:16]


@contextmanager
def no_sweep(settings: Settings) -> Iterator[None]:
    """Within, nobody else of this installation sweeps its store.

    Raises:
        UsageError: somebody does.
    """
    where = settings.home.resolve()
    make_folder(where)
    lock = Lock(
        where / "gc.lock",
        what=f"The store {settings.store_location}",
        remedy="wait until that `esper gc` has ended",
    )
    try:
        yield
    finally:
        lock.release()
