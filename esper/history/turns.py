"""Whose query runs next: so many at once, at most a few of them one caller's, and a few more that
wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from esper.history.confined.refusal import TOO_MANY_QUERIES, refused

_T = TypeVar("_T")


@dataclass(slots=True)
class _Caller:
    turns: asyncio.Semaphore
    asked: int = 0


@dataclass(slots=True)
class Turns:
    """Runs queries in threads, `at_once` in all and `each` of one caller.

    A caller with `most` under way or waiting gets no further one. For one event loop.

    A caller holds at most `each` places in the common queue, so nobody waits behind all that
    another one asks.
    """

    at_once: int
    each: int
    most: int
    _common: asyncio.Semaphore = field(init=False)
    _threads: ThreadPoolExecutor = field(init=False)
    _callers: dict[str, _Caller] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._common = asyncio.Semaphore(self.at_once)
        self._threads = ThreadPoolExecutor(self.at_once, "history-query")

    async def run(self, caller: str, query: Callable[[], _T]) -> _T:
        """The result of `query`, once it is the caller's turn.

        A turn ends with its thread, also where nobody waits for it any more.

        Raises:
            QueryError: the caller asks for too much at once (ClickHouse's code 202), or what
                `query` raises.
        """
        mine = self._callers.setdefault(caller, _Caller(asyncio.Semaphore(self.each)))
        if mine.asked >= self.most:
            raise refused(
                TOO_MANY_QUERIES,
                (
                    f"{self.most} queries of one caller are the most at a time; ask again when "
                    "one has ended."
                ),
            )
        mine.asked += 1
        held: list[Callable[[], None]] = [lambda: self._leave(caller, mine)]
        try:
            # the caller's own first: what it has waiting must not hold places that others could use
            for semaphore in (mine.turns, self._common):
                await semaphore.acquire()
                held.append(semaphore.release)
            running = asyncio.get_running_loop().run_in_executor(self._threads, query)
        except BaseException:
            _end(held)
            raise
        running.add_done_callback(lambda _: _end(held))
        return await asyncio.shield(running)

    def _leave(self, caller: str, mine: _Caller) -> None:
        mine.asked -= 1
        if not mine.asked:
            self._callers.pop(caller, None)

    def close(self) -> None:
        """Begin no more; what runs ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _end(held: list[Callable[[], None]]) -> None:
    for release in reversed(held):
        release()
