"""The page's addresses: its files, its session, what it reads, and what it hears."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Final

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.datastructures import Headers
from starlette.types import Scope

from esper.clock import Clock
from esper.config import Settings
from esper.errors import UnavailableError
from esper.history.queries import HttpSource, QuerySource
from esper.json_text import json_text
from esper.service import CurrentCaller, ProblemError, requires
from esper.service.checks.customs import OPEN, Customs
from esper.service.checks.documents import response_of
from esper.service.transport.sockets import HOST
from esper_processors.nissa.alerting.instants import text_of
from esper_processors.nissa.page import run_queries, static_files
from esper_processors.nissa.page.broadcast import Broadcast, joined
from esper_processors.nissa.page.sessions import LASTS, BrowserSession, Sessions, cookie_name

MOST_COMPARED: Final = 100
MOST_CURVES: Final = 16
MOST_READERS: Final = 32
"""Streams at once, half of the requests that a part answers at once; and those of one caller."""
MOST_OF_ONE: Final = 16
_LONGEST_NAME: Final = 200
_LAST_STEP: Final = 2**62
_EVERY_S: Final = 0.2
_RUNS_EVERY_S: Final = 1.0
_ALIVE_S: Final = 10.0
_LASTS_S: Final = 3600.0
"""How long a stream lasts: who goes on reading shows the token again."""
_THREADS: Final = 8
RunId = Annotated[str, Path(max_length=_LONGEST_NAME)]
Runs = Annotated[list[str], Query(alias="run", min_length=1, max_length=MOST_COMPARED)]


@dataclass(frozen=True, slots=True)
class RunsPage:
    """What the routes ask of the worker.

    Attributes:
        sessions: who looks.
        history: where runs are read; None where this Nissa knows of no history.
        broadcast: what happens now.
        state: figures of the worker itself, for the list of runs.
        alerts: alerts of a run.
        readers: how many streams each caller reads now.
    """

    sessions: Sessions
    history: QuerySource | None
    broadcast: Broadcast
    clock: Clock
    state: Callable[[], dict[str, Any]]
    alerts: Callable[[str], list[dict[str, Any]]]
    readers: Counter[str] = field(default_factory=Counter)

    def source(self) -> QuerySource:
        """Where runs are read.

        Raises:
            UnavailableError: nowhere.
        """
        if self.history is None:
            raise UnavailableError(
                "This Nissa knows of no history to read runs from: start the whole stack with "
                "`esper up`, or set ESPER_HISTORY__PORT."
            )
        return self.history


def page_of(
    settings: Settings,
    clock: Clock,
    broadcast: Broadcast,
    *,
    state: Callable[[], dict[str, Any]],
    alerts: Callable[[str], list[dict[str, Any]]],
) -> RunsPage:
    """The page of a worker with these settings."""
    own = f"{settings.scheme}://{HOST}:{settings.history.port}" if settings.history.port else ""
    url = settings.history.url if settings.parts == "elsewhere" else own
    return RunsPage(
        Sessions(settings.keys_dir, clock),
        HttpSource(url, settings, subject="page") if url else None,
        broadcast,
        clock,
        state,
        alerts,
    )


def customs(page: RunsPage) -> Customs:
    """Where Nissa differs from other parts: a browser comes with a cookie and a key."""
    return Customs(
        open=OPEN | {("GET", path) for path in static_files.contents()},
        authorization=page.sessions.authorization,
        problem=_problem,
        own_pages_only=True,
        pages=frozenset({"/"}),
    )


def add_routes(app: FastAPI, page: RunsPage) -> None:
    """Add the page's routes.

    The history is waited for in threads; what the worker itself knows is asked in its loop alone.
    """
    static_files.add_files(app)

    @app.post("/api/v1/session", dependencies=[requires("viewer")])
    async def begin(request: Request, authorization: Annotated[str, Header()] = "") -> Response:
        """Trade the code of `esper open` for a session: a cookie, and a key to send beside it."""
        session = page.sessions.begin(authorization)
        answer = _json(
            {
                "key": session.key,
                "subject": session.caller.subject,
                "role": session.caller.role,
                "expires_at": text_of(session.expires_us),
            }
        )
        _set_cookie(answer, request, session)
        return answer

    @app.delete("/api/v1/session", dependencies=[requires("viewer")], status_code=204)
    async def end(request: Request) -> Response:
        """Forget the session in this browser."""
        answer = Response(status_code=204)
        answer.delete_cookie(cookie_name(request.headers.get("host", "")), path="/api")
        return answer

    @app.get("/api/v1/page/runs", dependencies=[requires("viewer")])
    async def runs() -> Response:
        """The latest runs."""
        state = page.state()

        def text() -> str:
            found = run_queries.runs_of(page.source())
            return json_text({"runs": found, "most": run_queries.MOST_RUNS, "stack": state})

        return await _read(text)

    @app.get("/api/v1/page/runs/{run_id}", dependencies=[requires("viewer")])
    async def run(run_id: RunId) -> Response:
        """One run: figures, settings, seeds, decisions, kernels, alerts."""
        alerts = [_alert(one) for one in page.alerts(run_id)]

        def text() -> str:
            found = run_queries.run_of(page.source(), run_id)
            if found is None:
                raise ProblemError(
                    404, f"There is no run {run_id} in the history; `esper runs` lists them."
                )
            return json_text(found | {"alerts": alerts})

        return await _read(text)

    @app.get("/api/v1/page/runs/{run_id}/health", dependencies=[requires("viewer")])
    async def health(run_id: RunId, columns: Annotated[int, Query(ge=1, le=500)] = 120) -> Response:
        """Health of each layer over the steps."""
        return await _read(lambda: json_text(run_queries.health_of(page.source(), run_id, columns)))

    @app.get("/api/v1/page/compared", dependencies=[requires("viewer")])
    async def compared(runs: Runs) -> Response:
        """Figures, settings and curves of some runs; those that the history lacks are left out."""
        return await _read(
            lambda: json_text({"runs": run_queries.compared_of(page.source(), runs)})
        )

    @app.get("/api/v1/page/curves", dependencies=[requires("viewer")])
    async def curves(
        runs: Runs,
        names: Annotated[list[str], Query(alias="name", min_length=1, max_length=MOST_CURVES)],
        points: Annotated[int, Query(ge=3, le=4000)] = 1000,
        first: Annotated[int, Query(ge=0, le=_LAST_STEP)] = 0,
        last: Annotated[int, Query(ge=0, le=_LAST_STEP)] = _LAST_STEP,
    ) -> Response:
        """Curves of some runs, with at most so many points each."""
        if too_long := next((name for name in names if len(name) > _LONGEST_NAME), None):
            raise ProblemError(422, f"No curve has a name as long as {too_long[:40]!r} ...")

        def text() -> str:
            found = run_queries.curves_of(
                page.source(),
                runs,
                list(dict.fromkeys(names)),
                points=points,
                first=first,
                last=last,
            )
            return json_text({"curves": found})

        return await _read(text)

    @app.get("/api/v1/page/stream", dependencies=[requires("viewer")])
    async def stream(
        caller: CurrentCaller,
        run: Annotated[str, Query(max_length=_LONGEST_NAME)] = "",
        last_event_id: Annotated[str, Header(max_length=_LONGEST_NAME)] = "",
    ) -> StreamingResponse:
        """What happens in a run, and the states of all runs, as server-sent events."""
        for held, most in (
            (page.readers.total(), MOST_READERS),
            (page.readers[caller.subject], MOST_OF_ONE),
        ):
            if held >= most:
                raise ProblemError(
                    429,
                    f"{held} pages are shown live already, which is the most: close one.",
                    headers={"Retry-After": "5"},
                )
        return StreamingResponse(
            _told(page, caller.subject, run, last_event_id),
            media_type="text/event-stream",
        )


async def _read(text: Callable[[], str]) -> Response:
    """An answer whose text is made in a thread: it waits for the history, and may be long."""
    made = await to_thread.run_sync(text, limiter=_asking())
    return Response(made, media_type="application/json")


@cache
def _asking() -> CapacityLimiter:
    """Threads that wait for the history: fewer than there are, so that audits find one."""
    return CapacityLimiter(_THREADS)


async def _told(page: RunsPage, subject: str, run: str, last: str) -> AsyncIterator[str]:
    """The text of server-sent events (HTML standard, section 9.2), until the reader leaves, or its
    token has to be looked at again.
    """
    page.readers[subject] += 1
    try:
        async for text in _news(page.broadcast, page.clock, run, last):
            yield text
    finally:
        page.readers[subject] -= 1


async def _news(broadcast: Broadcast, clock: Clock, run: str, last: str) -> AsyncIterator[str]:
    resumed, number = broadcast.begin(run, last)
    yield _message(broadcast.identity(number - 1), "hello", {"resumed": resumed})
    began = spoken = clock.monotonic()
    while (now := clock.monotonic()) - began < _LASTS_S:
        told, following, missed = broadcast.since(number, run)
        number = following
        text = "".join(
            _message(broadcast.identity(place), kind, said) for place, kind, said in joined(told)
        )
        if missed:
            text = _message(broadcast.identity(number - 1), "hello", {"resumed": False}) + text
        if text:
            spoken = now
            yield text
        elif now - spoken >= _ALIVE_S:
            spoken = now
            # without data: nothing is told, but a reader that comes back is not taken for late
            yield f": still here\nid: {broadcast.identity(number - 1)}\n\n"
        await asyncio.sleep(_EVERY_S if run else _RUNS_EVERY_S)


def _message(identity: str, kind: str, said: Any) -> str:
    return f"id: {identity}\nevent: {kind}\ndata: {json_text(said)}\n\n"


def _problem(problem: ProblemError, scope: Scope, trace_id: str) -> Response:
    """An answer that is an error, without the challenge that makes a browser ask for a password
    where a script of the page asked.
    """
    answer = response_of(problem, instance=scope["path"], trace_id=trace_id)
    asked = Headers(scope=scope).get("sec-fetch-mode", "navigate")
    if "WWW-Authenticate" in answer.headers and asked != "navigate":
        answer.headers["WWW-Authenticate"] = 'Bearer realm="esper"'
    return answer


def _json(value: Any) -> Response:
    """A value in JSON; numbers that are not finite are null."""
    return Response(json_text(value), media_type="application/json")


def _set_cookie(answer: Response, request: Request, session: BrowserSession) -> None:
    answer.set_cookie(
        cookie_name(request.headers.get("host", "")),
        session.cookie,
        max_age=round(LASTS.total_seconds()),
        path="/api",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )


def _alert(row: dict[str, Any]) -> dict[str, Any]:
    """An alert with its times as the page has all others."""
    return row | {
        name: None if row[name] is None else text_of(row[name])
        for name in ("raised_at", "resolved_at")
    }
