"""The object store in memory: the twin that passes the same contract."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from esper.urza.store import Store, require_key


class MemoryStore(Store):
    """Objects in a dictionary; gone with the process."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def put_if_absent(self, key: str, content: bytes) -> bool:
        """Store unless taken; see `Store`."""
        with self._lock:
            if require_key(key) in self._objects:
                return False
            self._objects[key] = content
            return True

    def get(self, key: str) -> bytes | None:
        """The bytes or None; see `Store`."""
        return self._objects.get(require_key(key))

    def exists(self, key: str) -> bool:
        """Whether it is there; see `Store`."""
        return require_key(key) in self._objects

    def list(self, prefix: str = "") -> Iterator[str]:
        """Keys, sorted; see `Store`."""
        yield from sorted(key for key in tuple(self._objects) if key.startswith(prefix))

    def delete(self, key: str) -> bool:
        """Remove; see `Store`."""
        with self._lock:
            return self._objects.pop(require_key(key), None) is not None
