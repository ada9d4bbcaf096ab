"""Who may hold a connection, and for how long: a bounded number of them, and none that says
nothing.

A part that accepts whatever comes runs out of descriptors when somebody opens a thousand
connections and sends nothing. Here the longest idle connection makes room for a new one, so a
caller who sends its request at once is answered however many are idle. A connection is idle while
no request on it is being answered: before its first byte, within a head that trickles in, during a
TLS handshake, between two requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S: Final = 10.0
"""Seconds from the connection to the end of the first request's head, a TLS handshake included."""
IDLE_S: Final = 30.0
"""Seconds between the end of an answer and the end of the next request's head.

Also the longest that a reader of an answer may stand still.
"""
_LOOK_S: Final = 1.0
_BREATH_S: Final = 0.05
_AT_ONCE: Final = 64


class Protocol(H11Protocol):
    """Uvicorn's protocol, which can say whether it has something to do."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.quiet_since = 0.0
        self.stalled_since: float | None = None
        self.left: Callable[[], None] = lambda: None
        """Called when the connection is gone."""
        self.asked = False
        """Whether a whole head has come."""

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def data_received(self, data: bytes) -> None:
        """As the base class says."""
        super().data_received(data)
        self.asked = self.asked or self.cycle is not None

    def on_response_complete(self) -> None:
        """As the base class says."""
        self.quiet_since = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """As the base class says."""
        self.stalled_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """As the base class says."""
        self.stalled_since = None
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """As the base class says."""
        super().connection_lost(exc)
        self.left()


@dataclass(eq=False, slots=True)
class _Visitor:
    """One connection."""

    connection: socket.socket
    protocol: Protocol
    since: float

    @property
    def quiet_since(self) -> float:
        return max(self.since, self.protocol.quiet_since)

    def overdue(self, now: float) -> bool:
        """Whether it has had its time."""
        stalled = self.protocol.stalled_since
        if stalled is not None and now - stalled > IDLE_S:
            return True
        return not self.protocol.busy and now - self.quiet_since > (
            IDLE_S if self.protocol.asked else HEAD_S
        )

    def close(self) -> None:
        """End the connection now."""
        transport: asyncio.Transport | None = getattr(self.protocol, "transport", None)
        if transport is not None:
            transport.abort()
            return
        with contextlib.suppress(
            OSError
        ):  # in its handshake: asyncio sees the end of the stream, and gives up
            self.connection.shutdown(socket.SHUT_RDWR)


class ConnectionLimiter:
    """Accepts the connections of one listening socket, `most` at a time.

    For one event loop; `close` and `wait_closed` as asyncio's servers have them.
    """

    def __init__(
        self,
        listening: socket.socket,
        protocol: Callable[[], Protocol],
        *,
        context: ssl.SSLContext | None,
        most: int,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listening = listening
        self._protocol = protocol
        self._context = context
        self._most = most
        self._visitors: set[_Visitor] = set()
        listening.setblocking(False)  # noqa: FBT003 -- the standard library's own signature
        self._tasks = {self._loop.create_task(self._accept()), self._loop.create_task(self._look())}

    def close(self) -> None:
        """Accept no more; connections that are there go on."""
        for task in self._tasks:
            task.cancel()

    async def wait_closed(self) -> None:
        """Return once nothing is accepted any more."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self) -> None:
        while True:
            try:
                connection, _ = await self._loop.sock_accept(self._listening)
            except OSError:
                # no descriptor left in this process or on this machine, or a caller that went away
                # at once
                self._make_room()
                await asyncio.sleep(_BREATH_S)
                continue
            self._welcome(connection)
            self._welcome_more()

    def _welcome_more(self) -> None:
        """Take what waits beside the one that was just taken: a flood must not fill the queue
        faster than turns of the loop empty it.
        """
        with contextlib.suppress(OSError):  # nobody else waits, or what `_accept` answers for
            for _ in range(_AT_ONCE):
                self._welcome(self._listening.accept()[0])

    def _welcome(self, connection: socket.socket) -> None:
        if len(self._visitors) >= self._most and not self._make_room():
            connection.close()  # all of them are being answered
            return
        connection.setblocking(False)  # noqa: FBT003 -- the standard library's own signature
        protocol = self._protocol()
        visitor = _Visitor(connection, protocol, self._loop.time())
        self._visitors.add(visitor)
        protocol.left = lambda: self._visitors.discard(visitor)
        task = self._loop.create_task(self._connect(visitor))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, visitor: _Visitor) -> None:
        # asyncio has a time limit for a handshake, and refuses one without TLS.
        timeout = HEAD_S if self._context else None
        try:
            await self._loop.connect_accepted_socket(
                lambda: visitor.protocol,
                visitor.connection,
                ssl=self._context,
                ssl_handshake_timeout=timeout,
            )
        except BaseException as error:
            self._visitors.discard(visitor)
            visitor.connection.close()
            if not isinstance(error, OSError | TimeoutError):  # ssl.SSLError is an OSError
                raise

    def _make_room(self) -> bool:
        """Close the connection that has been idle the longest; whether there was one."""
        idle = [visitor for visitor in self._visitors if not visitor.protocol.busy]
        if not idle:
            return False
        # The one that has said nothing for the longest time is the least likely to be a caller.
        longest = min(idle, key=lambda visitor: visitor.quiet_since)
        self._visitors.discard(longest)
        longest.close()
        return True

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            now = self._loop.time()
            for visitor in [visitor for visitor in self._visitors if visitor.overdue(now)]:
                self._visitors.discard(visitor)
                visitor.close()
