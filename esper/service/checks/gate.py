"""What every request passes before a route sees it: host name, load, token, role, body and audit,
in this order, and what every answer carries.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Final

from fastapi.routing import iter_route_contexts
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, QueryParams
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from esper.clock import Clock
from esper.config import ServiceSettings
from esper.errors import EsperError
from esper.events.envelope import trace_id
from esper.service.checks.audit_entries import PENDING, AuditEntry, detail_of
from esper.service.checks.bodies import is_json, parsed
from esper.service.checks.caller_limits import TokenBuckets, names_this_machine
from esper.service.checks.callers import SCOPE_KEY, demanded
from esper.service.checks.customs import Customs
from esper.service.checks.documents import problem_of
from esper.service.checks.problems import ProblemError, forbidden, unauthorized
from esper.service.checks.responses import HeldResponse, WithHeaders, replay
from esper.service.checks.roles import Caller, Role
from esper.service.checks.tokens import Gatekeeper

ID_KEY: Final = "esper.request"
"""Where a request's ASGI scope has its id within its part."""

TRACE_KEY: Final = "esper.trace"
"""Where a request's ASGI scope has its trace id."""

ANONYMOUS: Final = "anonymous"
"""Actor of a request without a valid token."""

_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_ONCE: Final = (
    b"authorization",
    b"content-length",
    b"content-type",
    b"host",
    b"origin",
    b"sec-fetch-site",
)
_MOST_HEADERS: Final = 100
LARGEST_HEAD: Final = 32 * 1024
"""The most bytes of a request's target and headers."""
_REPLACED: Final = "\ufffd"
"""What stands in a path for bytes that are not UTF-8."""
_NO_ROUTE: Final = "(no route)"
_SECURITY_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Matched:
    """The route that a request is for. `role` is None where no route is, or where one
    demands none.
    """

    route: str
    run_id: str
    role: Role | None
    open: bool
    reads: bool


class Gate:
    """ASGI middleware around a part's routes.

    `audit` receives every request that would change something, before and after.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        part: str,
        routes: Callable[[], Iterable[BaseRoute]],
        reading: frozenset[tuple[str, str]],
        settings: ServiceSettings,
        tls: bool,
        gatekeeper: Gatekeeper,
        clock: Clock,
        audit: Callable[[AuditEntry], None],
        customs: Customs,
    ) -> None:
        self._app = app
        self._customs = customs
        self._part = part
        self._routes = routes
        self._reading = reading
        self._settings = settings
        self._gatekeeper = gatekeeper
        self._clock = clock
        self._audit = audit
        self._buckets = TokenBuckets(rate=settings.rate, burst=settings.burst, clock=clock)
        self._in_flight = 0
        self._numbers = itertools.count()
        self._began = clock.now_us()
        self._unseen = 0
        self._headers = {
            **_SECURITY_HEADERS,
            **({"Strict-Transport-Security": "max-age=31536000"} if tls else {}),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; lifespan events pass through."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})  # no part has a route for it
            return
        answer = WithHeaders(send, self._headers)
        # Unique without randomness: the time at which the part began, and a count.
        scope[ID_KEY] = f"{self._part}/{self._began}/{next(self._numbers)}"
        scope[TRACE_KEY] = trace = _trace(Headers(scope=scope)) or trace_id(scope[ID_KEY])
        self._in_flight += 1
        try:
            await self._admit(scope, receive, answer)
        except Exception as error:  # noqa: BLE001 -- the one place that turns what no route has caught into an answer
            problem = problem_of(error)
            if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(
                error, EsperError
            ):
                _log.exception(
                    "%s failed at %s %r (trace %s)",
                    self._part,
                    scope["method"],
                    scope["path"],
                    trace,
                )
            # Once the head is sent, a second answer would be read as part of the body.
            if not answer.status:
                await self._customs.problem(problem, scope, trace)(scope, receive, answer)
        finally:
            self._in_flight -= 1

    async def _admit(self, scope: Scope, receive: Receive, answer: WithHeaders) -> None:
        headers = Headers(scope=scope)
        if unclear := _unclear(scope):
            self._unseen += scope["method"] not in _READING
            raise ProblemError(
                400,
                f"The request {unclear}; send it as RFC 9112 says.",
                headers={"Connection": "close"},
            )
        # A page of another site can let its own name lead to 127.0.0.1 (DNS rebinding); the Host
        # header still has that name.
        if not names_this_machine(headers.get("host", ""), self._settings.hosts):
            raise ProblemError(
                403,
                "This answers requests to this machine by 127.0.0.1 or localhost only; the "
                "Host header names another, "
                "which ESPER_SERVICE__HOSTS does not have.",
            )
        if (
            "transfer-encoding" in headers and "content-length" in headers
        ):  # RFC 9112, section 6.1: where a body ends would be a matter of opinion
            raise ProblemError(
                400,
                "The request states a length and comes in chunks; send one of the two.",
                headers={"Connection": "close"},
            )
        if (
            self._customs.own_pages_only
            and _is_cross_site(headers)
            and not self._is_followed_link(scope, headers)
        ):
            raise _cross_site()
        matched = self._match(scope)
        if matched.open:
            await self._app(scope, receive, answer)
            return
        caller, refusal = self._identify(
            self._customs.authorization(headers, QueryParams(scope["query_string"]))
        )
        # After the token, so that a caller without one spends no other caller's share.
        if limited := self._limited(caller):
            self._unseen += not matched.reads
            raise limited
        if caller is not None:
            scope[SCOPE_KEY] = caller
            refusal = _refusal(caller, matched, headers)
        if not matched.reads:
            await self._audited(scope, receive, answer, matched, caller, refusal)
            return
        if refusal is not None:
            raise refusal
        await self._handle(scope, replay(await self._body(headers, receive), receive), answer)

    def _identify(self, given: str) -> tuple[Caller | None, ProblemError | None]:
        try:
            if not given:
                raise unauthorized("This needs a token.")
            return self._gatekeeper.of_authorization(given), None
        except ProblemError as problem:
            return None, problem

    def _limited(self, caller: Caller | None) -> ProblemError | None:
        most = self._settings.in_flight
        if self._in_flight > most:
            return ProblemError(
                503,
                f"{most} requests are being answered already; try again.",
                headers={"Retry-After": "1"},
            )
        if not (wait := self._buckets.take(caller.subject if caller else "")):
            return None
        who = f"{caller.subject!r}" if caller else "whoever has no valid token"
        return ProblemError(
            429,
            (
                f"{self._settings.rate:g} requests a second are the most for {who}: wait "
                f"{wait:.2f} s, or raise ESPER_SERVICE__RATE."
            ),
            headers={"Retry-After": str(int(wait) + 1)},
        )

    def _is_followed_link(self, scope: Scope, headers: Headers) -> bool:
        """Whether somebody followed a link to a page: the other site never sees what it gives."""
        return (
            scope["method"] == "GET"
            and scope["path"] in self._customs.pages
            and headers.get("sec-fetch-mode") == "navigate"
            and headers.get("sec-fetch-dest") == "document"
        )

    async def _audited(
        self,
        scope: Scope,
        receive: Receive,
        answer: WithHeaders,
        matched: Matched,
        caller: Caller | None,
        refusal: ProblemError | None,
    ) -> None:
        """Handle a request that would change something, once it is sure that this will be on
        record.
        """
        headers, body = Headers(scope=scope), b""
        if refusal is None:
            try:
                body = await self._body(headers, receive)
            except ProblemError as problem:
                refusal = problem
        # Refusals without an entry of their own: the next entry carries their number.
        unseen, self._unseen = self._unseen, 0
        entry = AuditEntry(
            id=scope[ID_KEY],
            actor=caller.subject if caller else ANONYMOUS,
            role=caller.role if caller else "",
            action=f"{scope['method']} {matched.route}",
            resource=scope["path"],
            status=PENDING,
            detail=detail_of(
                QueryParams(scope["query_string"]),
                headers.get("content-type", ""),
                body,
                {"refused_unseen": unseen} if unseen else {},
            ),
            run_id=matched.run_id,
            trace_id=scope[TRACE_KEY],
        )
        if refusal is not None:
            await run_in_threadpool(self._audit, replace(entry, status=refusal.status))
            raise refusal
        try:
            await run_in_threadpool(self._audit, entry)
        except EsperError as error:
            # it is not done; that it was asked for goes on record as soon as that is possible
            with suppress(EsperError):
                await run_in_threadpool(
                    self._audit, replace(entry, status=problem_of(error).status)
                )
            raise
        # The caller must not have an answer before its outcome is on record.
        held = HeldResponse(answer)
        try:
            await self._handle(scope, replay(body, receive), held)
        except Exception as error:
            await run_in_threadpool(self._audit, replace(entry, status=problem_of(error).status))
            raise
        await run_in_threadpool(self._audit, replace(entry, status=held.status))
        await held.release()

    async def _handle(
        self, scope: Scope, receive: Receive, answer: WithHeaders | HeldResponse
    ) -> None:
        """Let the route answer; it has `timeout_s` to begin."""
        # Only the beginning has a limit: a long answer that flows is no fault.
        task = asyncio.ensure_future(self._app(scope, receive, answer))
        begun = asyncio.ensure_future(answer.begun.wait())
        try:
            await asyncio.wait(
                {task, begun}, timeout=self._settings.timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            if not task.done() and not begun.done():
                raise ProblemError(
                    504,
                    (
                        f"No answer began within {self._settings.timeout_s:g} s: ask for less "
                        "at once, or raise ESPER_SERVICE__TIMEOUT_S."
                    ),
                )
            await task
        finally:
            begun.cancel()
            # a route that is too late must not answer behind the 504
            task.cancel()

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """The whole body of a request; one that says that it is JSON has been read strictly.

        Raises:
            ProblemError: 413, it is too large; 408, it did not come in time; 400, the client went
                away, or it is no JSON that all read alike.
        """
        most = self._settings.body_bytes
        stated = headers.get("content-length", "0")
        # A length that is too large is refused before a byte is read.
        body = bytearray(most + 1) if not stated.isdecimal() or int(stated) > most else bytearray()
        more = not body
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                while more and len(body) <= most:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ProblemError(400, "The request ended before its body did.")
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
        except TimeoutError:
            raise ProblemError(
                408,
                f"The body did not come within {self._settings.timeout_s:g} s; send it at once.",
            ) from None
        if len(body) > most:
            raise ProblemError(
                413,
                (
                    f"The body is larger than {most} bytes: send less, or raise "
                    "ESPER_SERVICE__BODY_BYTES."
                ),
            )
        if body and is_json(headers.get("content-type", "")):
            parsed(bytes(body))
        return bytes(body)

    def _match(self, scope: Scope) -> Matched:
        """The route of a request, by the rules of the router behind."""
        method, path = scope["method"], scope["path"]
        best: Matched | None = None
        # By the router's own rules, so that the role checked here is of the route that answers.
        for context in iter_route_contexts(list(self._routes())):
            match, child = context.matches(scope)
            if match is Match.NONE:
                continue
            route = context.path or _NO_ROUTE
            matched = Matched(
                route=route,
                run_id=str(child.get("path_params", {}).get("run_id", "")),
                role=demanded(getattr(context, "dependant", None)),
                open=(method, path) in self._customs.open,
                reads=method in _READING or (method, route) in self._reading,
            )
            if match is Match.FULL:
                return matched
            best = best or replace(matched, open=False)
        return best or Matched(_NO_ROUTE, "", None, open=False, reads=method in _READING)


def _unclear(scope: Scope) -> str:
    """Why two readers could take a request for two different ones.

    Empty where all take it for the same.

    What stands between a caller and a part, or is put there one day, must not see another request
    than the part does (RFC 9112, section 11.2).
    """
    names = [name for name, _ in scope["headers"]]
    lengths = {value for name, value in scope["headers"] if name == b"content-length"}
    encoded = b"transfer-encoding" in names
    head = (
        len(scope["raw_path"])
        + len(scope["query_string"])
        + sum(len(name) + len(value) for name, value in scope["headers"])
    )
    if len(names) > _MOST_HEADERS or head > LARGEST_HEAD:
        return (
            f"has more than {_MOST_HEADERS} headers, or more than {LARGEST_HEAD >> 10} KiB of them"
        )
    if scope["http_version"] not in {"1.0", "1.1"}:
        return "is of another version than HTTP/1.1"
    if twice := next((name for name in _ONCE if names.count(name) > 1), None):
        return f"has {twice.decode()} twice"
    if encoded and (lengths or scope["http_version"] != "1.1"):
        return "states where its body ends in two ways"
    if scope["method"] in _READING and (encoded or lengths - {b"0"}):
        return "has a body, which its method does not take"
    if (
        not scope["path"].startswith("/")
        or not scope["path"].isprintable()
        or _REPLACED in scope["path"]
    ):
        return "has a target that is no path of printable UTF-8"
    return ""


def _refusal(caller: Caller, matched: Matched, headers: Headers) -> ProblemError | None:
    """Why a caller may not have what was asked for; None when it may."""
    if matched.route == _NO_ROUTE:
        return problem_of(HTTPException(404))
    # Fails closed: a route without a role was forgotten, not opened.
    if matched.role is None:
        return ProblemError(
            403, "This address demands no role, so nobody may use it; that is a fault in Esper."
        )
    if not caller.may(matched.role):
        return forbidden(caller, matched.role)
    if not matched.reads and _is_cross_site(headers):
        return _cross_site()
    return None


def _cross_site() -> ProblemError:
    return ProblemError(
        403,
        (
            "A page of another site asked for this; send it from a program or from this part's "
            "own pages."
        ),
    )


def _is_cross_site(headers: Headers) -> bool:
    """Whether a browser says that another site made it ask: it would add what the user once typed
    as password (Fetch Metadata; RFC 6454).
    """
    if headers.get("sec-fetch-site", "none") not in {"same-origin", "none"}:
        return True
    origin = headers.get("origin")
    return origin is not None and origin.rpartition("//")[2] != headers.get("host", "")


def _trace(headers: Headers) -> str:
    """The caller's trace id (W3C Trace Context); empty without one that is well formed."""
    fields = headers.get("traceparent", "").split("-")
    trace_id = fields[1] if len(fields) >= 4 else ""
    return (
        trace_id
        if len(trace_id) == 32
        and set(trace_id) <= set("0123456789abcdef")
        and set(trace_id) != {"0"}
        else ""
    )
