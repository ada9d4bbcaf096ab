"""Whether a consumer advances: its loop tells, `/health` asks.

A part is ready only while it advances. It does not where its loop has been at one message, or at
one obstacle, for `STALL_S`, or where the lag is `BEHIND` messages larger than a minute ago. The
loop turns also when there is nothing to read, and when the broker is away, which says nothing of
the consumer: so a quiet part is ready, and an outage of Kafka makes none unready.

Only a loop that has not turned at all for `STUCK_S` is started again by the supervisor (see
`esper.stack.processes.child.health`): a part that is merely slow, lags under load, or waits for a
disk turns, or says what it waits for, and killing it would make it slower.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from esper.clock import Clock
from esper.oona.bus.port import Reader

STALL_S: Final = 15.0
STUCK_S: Final = 120.0
BEHIND: Final = 10_000
_WINDOW_S: Final = 60.0
_SAMPLE_S: Final = 5.0


class ConsumerProgress:
    """How a consumer advances. One thread tells, any may ask.

    `lag` is the number of messages still to be read, as far as known.
    """

    def __init__(self, clock: Clock) -> None:
        self.lag = 0
        self._clock = clock
        self._turned = self._advanced = clock.monotonic()
        self._waits = ""
        self._samples: deque[tuple[float, int]] = deque()

    def turn(self, lag: int | None = None) -> None:
        """What was taken is done, or there was nothing; `lag` where it is known anew."""
        self._turned = self._advanced = now = self._clock.monotonic()
        self._waits = ""
        if lag is not None:
            self.lag = lag
            if not self._samples or now - self._samples[-1][0] >= _SAMPLE_S:
                self._samples.append((now, lag))
            # one sample longer than the window, or no two would ever lie a whole window apart
            while now - self._samples[0][0] > _WINDOW_S + _SAMPLE_S:
                self._samples.popleft()

    def wait(self, reason: str) -> None:
        """The loop lives and cannot go on, because of something that is not a message."""
        # `_advanced` stays: the part becomes unready, but is not restarted for what it waits for
        self._turned, self._waits = self._clock.monotonic(), reason

    @property
    def stuck_s(self) -> float:
        """Seconds since the loop turned."""
        return self._clock.monotonic() - self._turned

    @property
    def falls_behind(self) -> bool:
        """Whether the lag has grown over the last minute by more than what comes and goes."""
        # a copy: the consumer's thread may append while `/health` looks
        samples = tuple(self._samples)
        return (
            bool(samples)
            and samples[-1][0] - samples[0][0] >= _WINDOW_S
            and samples[-1][1] > samples[0][1] + BEHIND
        )

    def well(self) -> bool:
        """Whether the consumer advances."""
        return self._clock.monotonic() - self._advanced < STALL_S and not self.falls_behind

    def details(self) -> dict[str, Any]:
        """The same for people and for the supervisor."""
        return {"lag": self.lag, "stuck_s": round(self.stuck_s, 1), "waits_for": self._waits}


def lag(reader: Reader) -> int:
    """Messages, and markers of transactions, between what a reader has given and what may be read
    now. Raises as `stable_end` does.
    """
    at = reader.position()
    return sum(max(end - at[place], 0) for place, end in reader.stable_end().items())
