"""Whose query runs next."""

from __future__ import annotations

import asyncio
import threading

import pytest

from esper.history.confined.refusal import TOO_MANY_QUERIES, QueryError
from esper.history.turns import Turns
from tests.waiting import PATIENCE_S


def test_one_caller_leaves_room_and_has_an_end() -> None:
    """Two of the three places at most are one caller's, a fifth query of one is refused, and turns
    come back, also from who has gone.
    """

    async def all_of_it() -> None:
        turns, gate = Turns(at_once=3, each=2, most=4), threading.Event()
        running: list[str] = []

        def query(name: str) -> str:
            running.append(name)
            assert gate.wait(PATIENCE_S)
            return name

        greedy = [
            asyncio.ensure_future(
                turns.run("greedy", lambda number=number: query(f"greedy {number}"))  # type: ignore[misc]
            )
            for number in range(4)
        ]
        while len(running) < 2:  # noqa: ASYNC110 - threads of an executor tell no event
            await asyncio.sleep(0.01)
        with pytest.raises(QueryError) as caught:
            await turns.run("greedy", lambda: query("one more"))
        assert caught.value.code == TOO_MANY_QUERIES
        assert await turns.run("modest", lambda: "at once") == "at once"
        assert len(running) == 2
        for one in (greedy[0], greedy[3]):  # one that runs, one that waits
            one.cancel()
        gate.set()
        found = await asyncio.gather(*greedy, return_exceptions=True)
        assert found[1:3] == ["greedy 1", "greedy 2"]
        assert "greedy 3" not in running
        assert await turns.run("greedy", lambda: "again") == "again"
        with pytest.raises(ZeroDivisionError):
            await turns.run("greedy", lambda: 1 // 0)
        async with asyncio.timeout(PATIENCE_S):
            while turns._callers:  # noqa: ASYNC110 - the thread of the cancelled one ends when it does
                await asyncio.sleep(0.01)
        turns.close()

    asyncio.run(all_of_it())
