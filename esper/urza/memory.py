"""The object store in memory: the twin that passes the same contract."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from esper.clock import Clock, SystemClock
from esper.urza.store import Listed, Store, require_key


class MemoryStore(Store):
    """Objects in a dictionary; gone with the process."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._objects: dict[str, tuple[bytes, int]] = {}
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()

    def put_if_absent(self, key: str, content: bytes) -> bool:
        """Store unless taken; see `Store`."""
        with self._lock:
            if require_key(key) in self._objects:
                return False
            self._objects[key] = (content, self._clock.now_us())
            return True

    def get(self, key: str) -> bytes | None:
        """The bytes or None; see `Store`."""
        stored = self._objects.get(require_key(key))
        return stored[0] if stored else None

    def exists(self, key: str) -> bool:
        """Whether it is there; see `Store`."""
        return require_key(key) in self._objects

    def objects(self, prefix: str = "") -> Iterator[Listed]:
        """What there is, sorted; see `Store`."""
        # a copy: the caller may put and delete between two entries
        for key, (content, stored_us) in sorted(self._objects.copy().items()):
            if key.startswith(prefix):
                yield Listed(key, len(content), stored_us)

    def delete(self, key: str) -> bool:
        """Remove; see `Store`."""
        with self._lock:
            return self._objects.pop(require_key(key), None) is not None
