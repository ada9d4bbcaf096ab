"""Family keys: one for all runs that come from one first run.

They lie in the store, wrapped by a master key whose id is in their name.

A family's key is `families/<family>/<id of the master key>`. Rewrapping puts it under the next id,
then removes the old one, so that at any moment one of them opens. Names of families, which are
names of runs, stand in no key of the store.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from esper.errors import CorruptError, KeyMissingError, UnavailableError, UsageError
from esper.vault.masters import Masters
from esper.vault.sealing import KEY_BYTES, seal, unseal

_PREFIX: Final = "families/"
_FOREIGN: Final = "foreign/"
_MAGIC: Final = b"ESF1"
_ATTEMPTS: Final = 3


class Objects(Protocol):
    """What of an object store keys need; see `esper.urza.store.Store`."""

    def put_if_absent(self, key: str, content: bytes) -> bool:
        """Store unless taken."""

    def get(self, key: str) -> bytes | None:
        """The bytes or None."""

    def list(self, prefix: str = "") -> Iterator[str]:
        """Keys that begin with `prefix`, sorted."""

    def delete(self, key: str) -> bool:
        """Remove an object."""


@dataclass(frozen=True)
class FamilyKey:
    """Runs that share what is unchanged among them.

    `name` is the id of the first; whoever has `key` reads their snapshots.
    """

    name: str
    key: bytes = field(repr=False)
    wrapping_key: bytes = field(init=False, repr=False)
    manifest_key: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Derive the keys that seal; the family key itself only makes addresses."""
        # Derived once, in a frozen dataclass: each chunk needs them.
        object.__setattr__(self, "wrapping_key", self.derived(b"esper chunk keys"))
        object.__setattr__(self, "manifest_key", self.derived(b"esper manifests"))

    @property
    def id(self) -> str:
        """Its name in keys of the store."""
        return family_id(self.name)

    def address(self, content: bytes | memoryview) -> str:
        """HMAC-SHA256 of plain bytes under the family key, hexadecimal: who lacks the key cannot
        tell whether two families hold the same.
        """
        made = hmac.new(self.key, digestmod="sha256")
        made.update(content)  # beside other threads, unlike hmac.digest
        return made.hexdigest()

    def derived(self, purpose: bytes) -> bytes:
        """A key of one purpose, made of this one by HKDF (RFC 5869)."""
        return HKDF(SHA256(), KEY_BYTES, salt=None, info=purpose).derive(self.key)


def family_id(name: str) -> str:
    """A family's name in keys of the store: 32 hexadecimal digits of its hash."""
    return hashlib.sha256(b"esper family" + name.encode()).hexdigest()[:32]


def any_in(store: Objects) -> bool:
    """Whether a store has the key of any family: then its master key is never made anew."""
    return next(iter(store.list(_PREFIX)), None) is not None


def opened(store: Objects, masters: Masters, name: str) -> FamilyKey | None:
    """The family of this name, or None when the store has none.

    Raises:
        KeyMissingError: its key is wrapped by a master key that is not at hand.
        CorruptError: its file was changed, cut off, or put here from another family.
    """
    wrapped: list[str] = []
    for _ in range(_ATTEMPTS):
        if not (wrapped := list(store.list(f"{_PREFIX}{family_id(name)}/"))):
            return None
        for key in wrapped:
            if (family := _unwrapped(store, masters, key)) is not None:
                if family.name != name:
                    raise CorruptError(
                        f"Family file {key} is of the family {family.name}, not of {name}."
                    )
                return family
        if all(masters.by_id(_master_id(key)) is None for key in wrapped):
            break  # otherwise it was rewrapped meanwhile: look again
    raise KeyMissingError(
        f"The snapshots of {name} are sealed under master key {_master_id(wrapped[0])}, and "
        f"{masters.source} gives "
        f"{', '.join(key.id for key in masters.keys)}: put that key back, or name it in "
        "ESPER_CHECKPOINTS__MASTER_KEY."
    )


def made(store: Objects, masters: Masters, name: str) -> FamilyKey:
    """The family of this name, made if the store has none.

    Of several that make it at once, all get the same one.

    Raises:
        KeyMissingError, CorruptError: as `opened`.
        StorageFullError, UnavailableError: the store cannot take it.
    """
    for _ in range(_ATTEMPTS):
        if (family := opened(store, masters, name)) is not None:
            return family
        # Put, then read back by the next round: of several processes all take the one that was
        # stored.
        _wrap(store, masters, FamilyKey(name, secrets.token_bytes(KEY_BYTES)))
    raise UnavailableError(
        f"The family key of {name} cannot be stored: others keep changing it. Try again."
    )


def keep(store: Objects, masters: Masters, family: FamilyKey) -> None:
    """Store the key of a family that comes from elsewhere, wrapped by the current master key,
    unless the store has one of this name.

    Whoever it comes from knows it, so the store notes that no new run may begin under it.
    """
    # First: were it killed in between, a key that others know would look like our own.
    store.put_if_absent(f"{_FOREIGN}{family.id}", b"")
    _wrap(store, masters, family)


def require_own(store: Objects, name: str) -> None:
    """Refuse to begin a new run under a key that an import has brought along.

    Raises:
        UsageError: the family of this name came with an import.
    """
    if store.get(f"{_FOREIGN}{family_id(name)}") is not None:
        raise UsageError(
            f"The snapshots of {name} would be sealed under a key that came with an "
            "import, and that others know; choose another --run-id."
        )


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A family key in the store and the master key that wraps it.

    `name` is empty where that is not at hand.
    """

    key: str
    name: str
    master_id: str


def listed(store: Objects, masters: Masters) -> list[Wrapped]:
    """Every family key in the store.

    Raises:
        CorruptError: one of them is damaged.
    """
    rows = []
    for key in store.list(_PREFIX):
        family = _unwrapped(store, masters, key)
        rows.append(Wrapped(key, family.name if family else "", _master_id(key)))
    return rows


def rewrap(store: Objects, masters: Masters) -> int:
    """Wrap by the current master key whatever another one at hand wraps.

    It can be killed at any point and called again.

    Returns:
        How many were rewrapped.

    Raises:
        CorruptError: a file was changed; what comes before it in the store is done.
    """
    count = 0
    for key in list(store.list(_PREFIX)):
        if (
            _master_id(key) == masters.current.id
            or (family := _unwrapped(store, masters, key)) is None
        ):
            continue
        _wrap(store, masters, family)
        # Read back before the old one goes: a store that lost the write would lose the snapshots.
        again = _unwrapped(store, masters, _place(family, masters))
        if again is None or again.key != family.key:
            raise CorruptError(
                f"Family file {_place(family, masters)} is not the family of {key}: keep "
                "both, and neither master key is removed."
            )
        store.delete(key)
        count += 1
    return count


def _place(family: FamilyKey, masters: Masters) -> str:
    return f"{_PREFIX}{family.id}/{masters.current.id}"


def _wrap(store: Objects, masters: Masters, family: FamilyKey) -> None:
    key = _place(family, masters)
    store.put_if_absent(
        key, seal(masters.current.key, family.key + family.name.encode(), key.encode(), head=_MAGIC)
    )


def _unwrapped(store: Objects, masters: Masters, key: str) -> FamilyKey | None:
    """The family in a file; None where its master key is not at hand, or the file is gone."""
    master = masters.by_id(_master_id(key))
    if master is None or (content := store.get(key)) is None:
        return None
    if content[: len(_MAGIC)] != _MAGIC:
        raise CorruptError(f"Family file {key} is damaged: it does not begin as one.")
    plain = bytes(
        unseal(
            master.key, memoryview(content)[len(_MAGIC) :], key.encode(), what=f"Family file {key}"
        )
    )
    return FamilyKey(plain[KEY_BYTES:].decode(), plain[:KEY_BYTES])


def _master_id(key: str) -> str:
    return key.rpartition("/")[2]
