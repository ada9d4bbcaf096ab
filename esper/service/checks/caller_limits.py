"""How much one caller may ask, and which host names a request may carry."""

from __future__ import annotations

from typing import Final

from esper.clock import Clock

_MOST_CALLERS: Final = 1024
# empty: HTTP/1.0 has no Host header
_LOCAL_HOSTS: Final = frozenset({"127.0.0.1", "localhost", "::1", "[::1]", ""})


class TokenBuckets:
    """A token bucket for each caller: `rate` requests a second for long, `burst` at once.

    For one thread.
    """

    def __init__(self, *, rate: float, burst: int, clock: Clock) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, caller: str) -> float:
        """Take one from the caller's bucket: 0, or the seconds until there is one."""
        now = self._clock.monotonic()
        left, since = self._buckets.pop(caller, (float(self._burst), now))
        left = min(left + (now - since) * self._rate, float(self._burst))
        allowed = left >= 1
        self._buckets[caller] = (
            left - 1 if allowed else left,
            now,
        )  # at the end: the first in the mapping has not asked for the longest time
        while len(self._buckets) > _MOST_CALLERS:
            del self._buckets[next(iter(self._buckets))]
        return 0.0 if allowed else (1 - left) / self._rate


def names_this_machine(host: str, hosts: str = "") -> bool:
    """Whether a Host header names the loopback interface or one of `hosts`, which have commas
    between.

    Others come from a page whose name was bound to 127.0.0.1 (DNS rebinding).
    """
    name = (host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host).lower()
    return name in _LOCAL_HOSTS or name in {
        listed.strip().lower() for listed in hosts.split(",") if listed.strip()
    }
