"""Telemetry: the training thread drops events into a ring and goes on.

A thread of its own encodes and sends them.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from typing import Final

from esper.clock import Clock
from esper.errors import BackpressureError
from esper.events.envelope import Event
from esper.oona.bus.port import Producer

_CHUNK: Final = 8  # events encoded before the interpreter lock is offered to the training thread
_PERIOD_S: Final = (
    0.02  # waking the thread at each event would cost the training thread a system call
)


class TelemetryRing:
    """At most `capacity` events.

    A new one pushes the oldest out, which is counted as lost under its topic.
    """

    def __init__(self, capacity: int = 65_536) -> None:
        self._capacity = capacity
        self._events: deque[Event] = deque()
        self._lock = threading.Lock()
        self._lost: Counter[str] = Counter()

    def put(self, event: Event) -> None:
        """Add an event, in constant time, without waiting for anything but another thread's
        constant time.
        """
        with self._lock:
            if len(self._events) >= self._capacity:
                # by hand, because a deque's maxlen drops the oldest without counting it
                self._lost[self._events.popleft().TOPIC] += 1
            self._events.append(event)

    def take(self, limit: int) -> list[Event]:
        """The oldest events, up to `limit`."""
        with self._lock:
            return [self._events.popleft() for _ in range(min(limit, len(self._events)))]

    def lose(self, topic: str, count: int) -> None:
        """Count events that were lost after they were taken."""
        with self._lock:
            self._lost[topic] += count

    def lost(self) -> dict[str, int]:
        """Events lost since the last call, by topic."""
        with self._lock:
            lost, self._lost = self._lost, Counter()
        return dict(lost)

    def __len__(self) -> int:
        return len(self._events)


class Emitter(threading.Thread):
    """Sends what is put into its ring with `producer`, which is its alone.

    While the broker keeps up, nothing is lost.

    `error` is the last reason for which an event could not be sent at all.
    """

    def __init__(self, producer: Producer, *, clock: Clock, capacity: int = 65_536) -> None:
        super().__init__(name="emitter", daemon=True)
        self.ring = TelemetryRing(capacity)
        self.error: Exception | None = None
        self._producer = producer
        self._clock = clock
        self._hurry = threading.Event()
        self._ended = threading.Event()
        self._sending = 0
        self._failed: Counter[str] = Counter()

    def emit(self, event: Event) -> None:
        """Send an event some time soon, or lose an older one.

        Never blocks, never raises: training goes on whatever the bus does.
        """
        self.ring.put(event)

    def lost(self) -> dict[str, int]:
        """Events lost since the last call, by topic: pushed out of the ring, or given up by the
        producer.
        """
        # the producer counts from its beginning, this from the last call
        failed = Counter(self._producer.failed())
        for topic, count in (failed - self._failed).items():
            self.ring.lose(topic, count)
        self._failed = failed
        return self.ring.lost()

    def delivered(self) -> dict[str, int]:
        """Events that the broker has acknowledged, by topic."""
        return self._producer.delivered()

    def flush(self, timeout: float) -> int:
        """Wait up to `timeout` seconds until everything emitted is delivered.

        Gives how many events are still unsent.
        """
        deadline = self._clock.monotonic() + timeout
        self._hurry.set()
        self._clock.wait_until(
            lambda: not (len(self.ring) + self._sending and self.is_alive()), timeout, 0.002
        )
        return (
            len(self.ring)
            + self._sending
            + self._producer.flush(max(0.0, deadline - self._clock.monotonic()))
        )

    def stop(self, timeout: float = 5.0) -> None:
        """End the thread and close the producer; what is unsent then counts as lost.
        `flush` first.
        """
        self._ended.set()
        self._hurry.set()
        if self.is_alive():
            self.join(timeout)
        for event in self.ring.take(len(self.ring)):
            self.ring.lose(event.TOPIC, 1)
        self._producer.close()

    def run(self) -> None:
        """The thread's life."""
        while not self._ended.is_set():
            self._hurry.wait(_PERIOD_S)
            self._hurry.clear()
            while not self._ended.is_set() and self._send():
                pass

    def _send(self) -> bool:
        """Send one chunk; false when there was nothing."""
        self._sending = _CHUNK  # before the ring shrinks, so that flush never sees neither
        events = self.ring.take(_CHUNK)
        self._sending = len(events)
        for event in events:
            self._send_one(event)
            self._sending -= 1
        self._producer.poll()
        return bool(events)

    def _send_one(self, event: Event) -> None:
        while not self._ended.is_set():
            try:
                self._producer.send(event)
            except BackpressureError:
                self._producer.poll()
                self._ended.wait(0.02)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with one event, training and the others go on
                self.error = error
                self.ring.lose(event.TOPIC, 1)
                return
            else:
                return
        self.ring.lose(event.TOPIC, 1)
