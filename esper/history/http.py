"""The ClickHouse HTTP interface over the history, read only and for this machine alone:
clickhouse-connect, Grafana and curl work unchanged.

Source: ClickHouse documentation, "HTTP interface".
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from fastapi import Request
from starlette.datastructures import Headers, QueryParams
from starlette.responses import Response
from starlette.types import Scope

from esper.clock import Clock
from esper.config import Settings
from esper.history.compressed_frames import framed
from esper.history.confined.asked import Asked, asked
from esper.history.confined.engine import Engine, QueryResult
from esper.history.confined.guard import check
from esper.history.confined.refusal import (
    AUTHENTICATION_FAILED,
    BAD_ARGUMENTS,
    NETWORK,
    READONLY,
    SYNTAX,
    TIMEOUT,
    TOO_MANY_QUERIES,
    QueryError,
    refused,
)
from esper.history.native import FIRST_REVISION, at_revision
from esper.history.queries import answer_s
from esper.history.turns import Turns
from esper.service import CurrentCaller, Server, create_app, requires
from esper.service.checks.audit_entries import AuditEntry
from esper.service.checks.customs import OPEN, Customs
from esper.service.checks.problems import ProblemError

_CONTENT_TYPES: Final = {
    "json": "application/json; charset=UTF-8",
    "csv": "text/csv; charset=UTF-8; header=absent",
    "csvwithnames": "text/csv; charset=UTF-8; header=present",
    "tabseparated": "text/tab-separated-values; charset=UTF-8",
    "tsv": "text/tab-separated-values; charset=UTF-8",
    "tabseparatedwithnames": "text/tab-separated-values; charset=UTF-8",
    "jsoneachrow": "application/x-ndjson; charset=UTF-8",
    "xml": "application/xml; charset=UTF-8",
    "pretty": "text/plain; charset=UTF-8",
    "vertical": "text/plain; charset=UTF-8",
}
_STATUS: Final = {
    AUTHENTICATION_FAILED: 401,
    SYNTAX: 400,
    BAD_ARGUMENTS: 400,
    47: 404,
    46: 404,
    60: 404,
    81: 404,
    115: 404,
    READONLY: 403,
    48: 501,
    TIMEOUT: 504,
    TOO_MANY_QUERIES: 429,
    NETWORK: 503,
    241: 507,
}
_CODES: Final = {
    401: AUTHENTICATION_FAILED,
    403: READONLY,
    413: SYNTAX,
    429: TOO_MANY_QUERIES,
    503: NETWORK,
    504: TIMEOUT,
}
_PINGS: Final = ("/ping", "/replicas_status")
_QUERY_METHODS: Final = ("GET", "HEAD", "POST")
_METHODS: Final = (*_QUERY_METHODS, "PUT", "PATCH", "DELETE")
_ROUTE: Final = "/{path:path}"
_WEAK: Final = 3


class HistoryServer:
    """Serves `engine` on the port of the settings, in threads of its own.

    `health` gives readiness and the rest of /health, which is open as /ping is; every query needs a
    token, of whatever role.

    Raises:
        UnavailableError: the port is in use.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        settings: Settings,
        health: Callable[[], tuple[bool, dict[str, Any]]],
        clock: Clock,
    ) -> None:
        self._engine = engine
        own = settings.history
        self._turns = Turns(own.queries, own.caller_queries, own.caller_waiting)
        self._most = settings.service.body_bytes
        patient = settings.service.model_copy(update={"timeout_s": answer_s(settings)})
        app = create_app(
            title="Esper's history",
            part="history",
            settings=settings.model_copy(update={"service": patient}),
            clock=clock,
            ready=lambda: {"sink": health()[0]},
            audit=_unaudited,
            reading=[(method, _ROUTE) for method in _METHODS],
            customs=Customs(
                open=OPEN | {(method, path) for method in _QUERY_METHODS for path in _PINGS},
                authorization=_authorization,
                problem=_problem,
                own_pages_only=True,
            ),
            details=lambda: health()[1],
        )
        for path in _PINGS:
            app.add_api_route(path, _ping, methods=list(_QUERY_METHODS))
        app.add_api_route(
            _ROUTE,
            self._respond,
            methods=list(_QUERY_METHODS),
            dependencies=[requires("viewer")],
            include_in_schema=False,
        )
        self._server = Server(
            app, settings=settings, port=own.port, clock=clock, setting="ESPER_HISTORY__PORT"
        )
        self.port: int = self._server.port

    def start(self) -> None:
        """Begin to answer."""
        self._server.start()

    def stop(self) -> None:
        """Answer no more; queries under way end by themselves."""
        self._server.stop()
        self._turns.close()

    async def _respond(self, request: Request, caller: CurrentCaller) -> Response:
        """Answer a query: the parameter `query`, then the body."""
        body = await request.body()
        try:
            return await self._turns.run(
                caller.subject,
                lambda: self._answered(request.scope["query_string"], request.headers, body),
            )
        except QueryError as error:
            return _failure(error)

    def _answered(self, query_string: bytes, headers: Headers, body: bytes) -> Response:
        call = asked(query_string, headers, body, most=self._most)
        if not call.sql:
            return _ping()
        checked = check(call.sql)
        # The FORMAT clause wins, as in ClickHouse: the headers must name what the body is.
        name = _name(checked.format or call.default_format)
        answer = self._engine.answer(
            checked.sql,
            default_format=call.default_format,
            settings=call.settings,
            parameters=call.parameters,
        )
        if name.lower() == "native" and call.revision >= FIRST_REVISION:
            answer = replace(answer, body=at_revision(answer.body, call.revision))
        if call.frames:
            answer = replace(answer, body=framed(answer.body))
        return _result(answer, name, call, headers.get("accept-encoding", ""))


def _authorization(headers: Headers, parameters: QueryParams) -> str:
    """ClickHouse takes a password as Basic or Bearer, in a header of its own, or as a parameter."""
    if given := headers.get("authorization"):
        return given
    password = headers.get("x-clickhouse-key") or parameters.get("password", "")
    return f"Bearer {password}" if password else ""


def _unaudited(_: AuditEntry) -> None:
    """Queries change nothing, so none is audited."""


def _ping() -> Response:
    return Response(b"Ok.\n", headers={"Content-Type": "text/html; charset=UTF-8"})


def _problem(problem: ProblemError, scope: Scope, _: str) -> Response:
    """The gate's refusals as ClickHouse words them."""
    code = _CODES.get(problem.status, BAD_ARGUMENTS)
    # The gate's challenge begins with Bearer, which ClickHouse's clients do not know; theirs is
    # below.
    headers = {name: value for name, value in problem.headers.items() if name != "WWW-Authenticate"}
    if code != AUTHENTICATION_FAILED:
        return _failure(refused(code, problem.detail), status=problem.status, more=headers)
    given = (
        Headers(scope=scope).get("x-clickhouse-user")
        or QueryParams(scope["query_string"]).get("user")
        or "default"
    )
    # It goes into an answer, and on into logs: no control characters, no page of text.
    user = "".join(character for character in given[:80] if character.isprintable())
    challenge = {**headers, "WWW-Authenticate": 'Basic realm="ClickHouse server HTTP API"'}
    return _failure(
        refused(code, f"{user}: Authentication failed: {problem.detail}"),
        status=problem.status,
        more=challenge,
    )


def _failure(
    error: QueryError, *, status: int = 0, more: Mapping[str, str] | None = None
) -> Response:
    headers = {
        "Content-Type": "text/plain; charset=UTF-8",
        "X-ClickHouse-Exception-Code": str(error.code),
        "X-ClickHouse-Format": "TabSeparated",
        **(more or {}),
    }
    text = f"{error}\n".encode(errors="replace")
    return Response(
        text, status or _STATUS.get(error.code, 400 if error.code < 100 else 500), headers
    )


def _name(given: str) -> str:
    """The name of a format, which goes into a header.

    None of ClickHouse's has anything but letters and digits.
    """
    if not (given.isascii() and given.isalnum()):
        raise refused(BAD_ARGUMENTS, "The name of a format is letters and digits.")
    return given


def _result(answer: QueryResult, name: str, call: Asked, accepted: str) -> Response:
    summary = {
        "read_rows": str(answer.read_rows),
        "read_bytes": str(answer.read_bytes),
        "written_rows": "0",
        "written_bytes": "0",
        "total_rows_to_read": "0",
        "result_rows": "0",
        "result_bytes": str(len(answer.body)),
        "elapsed_ns": str(answer.elapsed_ns),
    }
    headers = {
        "Content-Type": _content_type(name),
        "X-ClickHouse-Format": name,
        "X-ClickHouse-Summary": json.dumps(summary),
        "X-ClickHouse-Query-Id": call.query_id,
        "X-ClickHouse-Timezone": "UTC",
        "X-ClickHouse-Server-Display-Name": "esper",
    }
    body = answer.body
    if call.compress and "gzip" in accepted:
        # A weak level: on loopback the processor is dearer than the bytes.
        body, headers["Content-Encoding"] = gzip.compress(body, compresslevel=_WEAK), "gzip"
    elif call.compress and "deflate" in accepted:
        body, headers["Content-Encoding"] = zlib.compress(body, _WEAK), "deflate"
    return Response(body, headers=headers)


def _content_type(name: str) -> str:
    lower = name.lower()
    if lower.startswith("pretty"):
        lower = "pretty"
    if lower.startswith("json") and lower not in _CONTENT_TYPES:
        lower = "json"
    return _CONTENT_TYPES.get(lower, "application/octet-stream")
