"""One command of `esper` as a process: its answer, what it says on the way, and its end."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from subprocess import DEVNULL, PIPE
from typing import Final

import anyio
from anyio.abc import ByteReceiveStream, Process

LONGEST: Final = 8 << 20
"""Bytes of an answer that are read at all."""
_LINE: Final = 4096  # bytes of a line of progress
_GRACE_S: Final = 20.0
Say = Callable[[str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command said: exit code, standard output, the last line of standard error."""

    code: int
    output: bytes
    last: str
    whole: bool
    """Whether that is all of the output."""


async def ask(words: list[str], say: Say) -> Answer:
    """Run `esper WORDS`; `say` is given its lines of progress.

    Where the caller is cancelled the command is told to end, which a run does with a snapshot.
    """
    async with await anyio.open_process(
        [sys.executable, "-m", "esper.cli", *words],
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        env=os.environ | {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "200"},
        # a client that ends by Ctrl-C shall end it by `_end`, with its grace
        start_new_session=True,
    ) as process:
        assert process.stdout is not None  # noqa: S101  # a pipe, as asked for
        assert process.stderr is not None  # noqa: S101
        parts, lines = _Output(), _Lines(say)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lines.read, process.stderr)
                await parts.read(process.stdout)
                if not parts.whole:
                    process.kill()
            code = await process.wait()
        finally:
            await _end(process)
    return Answer(code, b"".join(parts.parts), lines.last, parts.whole)


class _Output:
    """What is kept of standard output: up to `LONGEST` bytes."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.whole = True

    async def read(self, stream: ByteReceiveStream) -> None:
        """Read it to its end, or to the limit."""
        size = 0
        async for part in stream:
            size += len(part)
            if size > LONGEST:
                self.whole = False
                return
            self.parts.append(part)


class _Lines:
    """Lines of standard error, said as they come."""

    def __init__(self, say: Say) -> None:
        self.last = ""
        self._say = say

    async def read(self, stream: ByteReceiveStream) -> None:
        """Read them to the end."""
        rest = b""
        async for part in stream:
            *lines, rest = (rest + part).replace(b"\r", b"\n").split(b"\n")
            rest = rest[-_LINE:]
            for line in lines:
                await self._take(line)
        await self._take(rest)

    async def _take(self, line: bytes) -> None:
        text = line[:_LINE].decode(errors="replace").strip()
        if text:
            self.last = text
            await self._say(text)


async def _end(process: Process) -> None:
    """End a process that still runs, with what it started: first it may end in order."""
    if process.returncode is not None:
        return
    with anyio.CancelScope(shield=True):
        for sign, patience in ((signal.SIGTERM, _GRACE_S), (signal.SIGKILL, _GRACE_S)):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, sign)
            with anyio.move_on_after(patience):
                await process.wait()
                return
