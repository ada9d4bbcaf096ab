"""The port of an object store: immutable objects under keys, put once."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from esper.errors import UsageError

_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}(/[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}){0,7}")


def require_key(key: str) -> str:
    """The key itself.

    Raises:
        UsageError: it is no path of names made of letters, digits, dot, dash and underscore.
    """
    if not _KEY.fullmatch(key):
        raise UsageError(
            f"The object key {key!r} is no path of names made of letters, digits, '.', '-' and '_'."
        )
    return key


@dataclass(frozen=True, slots=True)
class Listed:
    """An object as a listing has it: when it was stored, in microseconds since 1970-01-01 UTC, by
    the store's own clock.
    """

    key: str
    size: int
    stored_us: int


class Store(ABC):
    """Objects under keys such as `kernels/<id>.safetensors`.

    An object is whole or absent, and never changes while it is there.

    Every method raises UsageError on a malformed key and UnavailableError when the store cannot be
    reached.
    """

    @abstractmethod
    def put_if_absent(self, key: str, content: bytes) -> bool:
        """Store `content` unless the key is taken; durable before it returns.

        Returns:
            Whether this call stored it. Of several that race for a key, exactly one does.

        Raises:
            StorageFullError: no room; nothing was stored.
        """

    @abstractmethod
    def get(self, key: str) -> bytes | None:
        """The object's bytes, or None when there is none."""

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Whether there is an object."""

    @abstractmethod
    def objects(self, prefix: str = "") -> Iterator[Listed]:
        """Objects whose keys begin with `prefix`, sorted by them."""

    def list(self, prefix: str = "") -> Iterator[str]:
        """Keys that begin with `prefix`, sorted."""
        return (entry.key for entry in self.objects(prefix))

    @abstractmethod
    def delete(self, key: str) -> bool:
        """Remove an object. Returns whether there was one."""
