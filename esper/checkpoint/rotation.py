"""Rotation of the master key: family keys are wrapped anew, nothing else is read or written.

It can be killed at any point and run again.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from esper.config import Settings
from esper.errors import UsageError
from esper.urza.opening import open_store
from esper.urza.sealed import PREFIX, open_kernels, seal_kernels
from esper.vault.family_keys import listed, rewrap
from esper.vault.masters import MasterKey, held, masters, write
from esper.vault.sealing import KEY_BYTES


@dataclass(frozen=True, slots=True)
class Rotated:
    """What a rotation did: the master key that wraps now, the ids of those that may be forgotten,
    how many families were rewrapped, and how many not.

    `left` families are wrapped by master keys that are not at hand; `sealed` kernels lay in the
    clear, as an older Esper kept them.
    """

    current: str
    retired: tuple[str, ...]
    rewrapped: int
    left: int
    sealed: int = 0


def rotate(settings: Settings) -> Rotated:
    """Wrap every family key by another master key.

    In a file the new one is made here; elsewhere it has to stand before the old one already.

    The old key stays in the file until every family is rewrapped, so that snapshots can be read at
    any moment. A rotation that was killed goes on.

    Raises:
        UsageError: there is no master key yet, or no new one where keys do not come from a file.
        CorruptError: a family's file was changed; those before it are rewrapped, and both keys
            stay.
        UnavailableError, StorageFullError: store or file cannot be written; run it again.
    """
    path, store = settings.master_key_path, open_store(settings)
    with held(path):
        keys = masters(settings)
        if len(keys.keys) == 1:
            if keys.source != str(path):
                raise UsageError(
                    f"The master key comes from {keys.source}: put a new one before "
                    f"{keys.current.id} there (`openssl rand -base64 32`), then rotate."
                )
            write(path, (MasterKey(secrets.token_bytes(KEY_BYTES)), *keys.keys))
            keys = masters(settings)
        count = rewrap(store, keys)
        left = [wrapped for wrapped in listed(store, keys) if wrapped.master_id != keys.current.id]
        if keys.source == str(path):
            write(path, (keys.current,))
    sealed = seal_kernels(open_kernels(settings)) if next(iter(store.list(PREFIX)), None) else 0
    return Rotated(
        keys.current.id, tuple(key.id for key in keys.keys[1:]), count, len(left), sealed
    )
