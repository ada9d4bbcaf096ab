"""The two ends of an ASGI request as the gate holds them: answers with headers of their own,
answers held back, bodies read once and given again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Receive, Send

_SPACES: Final = bytes(0x20 if code < 0x20 or code == 0x7F else code for code in range(256))


class WithHeaders:
    """Passes an answer on, with headers added.

    `status` is 0, and `begun` is not set, until the answer begins.
    """

    def __init__(self, send: Send, headers: Mapping[str, str]) -> None:
        self.status = 0
        self.begun = asyncio.Event()
        self._send = send
        self._headers = headers

    async def __call__(self, message: Message) -> None:
        """Send one message of the answer."""
        if message["type"] == "http.response.start":
            self.status = int(message["status"])
            self.begun.set()
            headers = MutableHeaders(scope=message)
            for name, value in self._headers.items():
                # a route's own value wins: an artefact may be cached
                headers.setdefault(name, value)
            message["headers"] = [(name, _one_line(value)) for name, value in message["headers"]]
        await self._send(message)


def _one_line(value: bytes) -> bytes:
    """A header's value without what would end it: a caller's text may be in it, and must not become
    a header or a body of its own.
    """
    return value.translate(_SPACES)


class HeldResponse:
    """Keeps an answer back until `release`."""

    def __init__(self, answer: WithHeaders) -> None:
        self.status = 0
        self.begun = asyncio.Event()
        self._answer = answer
        self._messages: list[Message] = []

    async def __call__(self, message: Message) -> None:
        """Keep one message of the answer."""
        if message["type"] == "http.response.start":
            self.status = int(message["status"])
            self.begun.set()
        self._messages.append(message)

    async def release(self) -> None:
        """Send what was kept."""
        for message in self._messages:
            await self._answer(message)


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives `body` once, and after it what the connection gives."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            # the route waits for the end of the connection, which only the server knows
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
