"""The sweep: deletes snapshots whose time is over, with the chunks that only they had, and moves
old chunks to the cold store.

It can be killed at any point and started again, and trainers write meanwhile:
`esper.checkpoint.snapshot.write` says why nothing is missing then.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from esper.checkpoint import chunks
from esper.checkpoint.chunks import Chunk
from esper.checkpoint.manifest import chunks_in, condemnations, manifest_at, manifests
from esper.checkpoint.retention import NamedSnapshot
from esper.checkpoint.tensors import TensorStore
from esper.errors import CorruptError
from esper.urza.store import Listed, Store

_DAY_US = 86_400_000_000
_HOUR_US = 3_600_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How long things stay, in microseconds.

    `grace_us`: a chunk that is younger may belong to a snapshot that is being written.
    """

    keep_us: int = 7 * _DAY_US
    cold_after_us: int = _DAY_US
    grace_us: int = _HOUR_US


@dataclass(slots=True)
class Swept:
    """What became of a family, or would: snapshots kept and deleted; chunks deleted and moved.

    Their sealed bytes.
    """

    family: str
    kept: int = 0
    deleted: int = 0
    chunks: int = 0
    freed_bytes: int = 0
    moved: int = 0
    moved_bytes: int = 0


@dataclass(frozen=True)
class _Live:
    """Chunks that manifests name, and the time of the youngest of these for each."""

    youngest: dict[str, int] = field(default_factory=dict)
    chunks: dict[str, Chunk] = field(default_factory=dict)

    def add(self, tensors: TensorStore, address: str, taken_us: int) -> None:
        try:
            manifest = manifest_at(
                tensors.store, tensors.family, address, address.rpartition("/")[2]
            )
        except CorruptError:
            if tensors.store.exists(address):
                raise
            return  # its writer has put another in its place
        for chunk in chunks_in(manifest):
            key = chunk.key(tensors.family)
            self.youngest[key] = max(taken_us, self.youngest.get(key, taken_us))
            self.chunks[key] = chunk


def sweep(
    tensors: TensorStore,
    held: Mapping[str, NamedSnapshot],
    rules: Rules,
    *,
    now_us: int,
    owner: str,
    dry_run: bool = False,
) -> Swept:
    """Sweep a family.

    `held` are its snapshots that journals name; one that none names stays for as long as if it
    were.

    `owner` names this installation: of its sweeps only one may run at a time; what earlier ones
    left is finished.

    Raises:
        CorruptError: a manifest that is to be kept cannot be read, so nobody knows which chunks it
            needs; nothing was deleted.
    """
    swept, live = Swept(tensors.family.name), _Live()
    seen = list(tensors.store.objects(manifests(tensors.family)))
    expired = [entry for entry in seen if _expired(entry, held, rules, now_us)]
    for entry in set(seen) - set(expired):
        # Before anything is deleted: a manifest that cannot be read ends the sweep here.
        live.add(tensors, entry.key, _taken_us(entry, held))
    swept.kept, swept.deleted = len(seen) - len(expired), len(expired)
    swept.freed_bytes = sum(entry.size for entry in expired)
    chunks_at = [
        list(store.objects(chunks.chunks(tensors.family))) for store in tensors.stores.both
    ]
    garbage = [
        [
            entry
            for entry in listed
            # The grace is for writers: a chunk is stored before the manifest that names it.
            if entry.key not in live.youngest and now_us - entry.stored_us > rules.grace_us
        ]
        for listed in chunks_at
    ]
    old = (
        [
            entry
            for entry in chunks_at[0]
            if now_us - live.youngest.get(entry.key, now_us) > rules.cold_after_us
        ]
        if tensors.cold
        else []
    )
    if dry_run:
        _count(swept, garbage, old)
        return swept
    # Manifests go first. A crash from here on leaves chunks without a manifest, which is garbage,
    # never a manifest without chunks.
    for entry in expired:
        tensors.store.delete(entry.key)
    _delete(
        tensors,
        garbage,
        {entry.key for entry in seen},
        owner=owner,
        now_us=now_us,
        live=live,
        swept=swept,
    )
    for entry in old:
        _move(tensors, live.chunks[entry.key], entry, swept)
    return swept


def _expired(entry: Listed, held: Mapping[str, NamedSnapshot], rules: Rules, now_us: int) -> bool:
    named = held.get(entry.key)
    if named and named.why == "deleted":
        return True
    return not (named and named.kept) and now_us - _taken_us(entry, held) > rules.keep_us


def _taken_us(entry: Listed, held: Mapping[str, NamedSnapshot]) -> int:
    """When it was taken, by the journal or the store, whichever is later: no event can make a
    snapshot older than it is.
    """
    named = held.get(entry.key)
    return max(named.taken_us, entry.stored_us) if named else entry.stored_us


def _count(swept: Swept, garbage: Iterable[Iterable[Listed]], old: Iterable[Listed]) -> None:
    for entry in (entry for listed in garbage for entry in listed):
        swept.chunks += 1
        swept.freed_bytes += entry.size
    for entry in old:
        swept.moved += 1
        swept.moved_bytes += entry.size


def _delete(
    tensors: TensorStore,
    garbage: list[list[Listed]],
    seen: set[str],
    *,
    owner: str,
    now_us: int,
    live: _Live,
    swept: Swept,
) -> None:
    """Name what will be deleted, look for newer manifests, delete what none of them names."""
    store, place = tensors.store, condemnations(tensors.family)
    left = [
        entry.key
        for entry in store.objects(place)
        if f"/{owner}-" in entry.key or now_us - entry.stored_us > _DAY_US
    ]
    if any(garbage):
        # A writer that sees this list stores a copy; one that does not has its manifest in the next
        # listing. See `snapshot.write`.
        named = f"{place}{owner}-{secrets.token_hex(8)}"
        store.put_if_absent(
            named,
            json.dumps(sorted({entry.key for listed in garbage for entry in listed})).encode(),
        )
        for key in store.list(manifests(tensors.family)):
            if key not in seen:
                live.add(tensors, key, now_us)
        for where, listed in zip(tensors.stores.both, garbage, strict=True):
            for entry in listed:
                if entry.key not in live.youngest and where.delete(entry.key):
                    swept.chunks += 1
                    swept.freed_bytes += entry.size
        left.append(named)
    for key in left:  # of sweeps that were killed: nobody deletes by them any more
        store.delete(key)


def _move(tensors: TensorStore, chunk: Chunk, entry: Listed, swept: Swept) -> None:
    """Into the cold store, then out of the hot one.

    What lies there already counts only if it can be read.
    """
    assert tensors.cold is not None  # noqa: S101  # the caller looked
    content = tensors.store.get(entry.key)
    if content is None:
        return
    if not tensors.cold.put_if_absent(entry.key, content) and not _readable(
        tensors.cold, tensors, chunk
    ):
        # A damaged object there would keep the good one out, as a put never overwrites.
        tensors.cold.delete(entry.key)
        if not tensors.cold.put_if_absent(entry.key, content):
            return
    tensors.store.delete(entry.key)
    swept.moved += 1
    swept.moved_bytes += entry.size


def _readable(store: Store, tensors: TensorStore, chunk: Chunk) -> bool:
    try:
        chunks.get((store,), tensors.family, chunk)
    except CorruptError:
        return False
    return True
