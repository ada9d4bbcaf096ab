"""How a part's FastAPI app is made: closed unless a route says which role may use it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from esper.clock import Clock
from esper.config import Settings
from esper.errors import EsperError, UsageError
from esper.service.checks.audit_entries import AuditEntry
from esper.service.checks.callers import demanded, requires
from esper.service.checks.customs import OPEN, Customs
from esper.service.checks.documents import problem_of
from esper.service.checks.gate import TRACE_KEY, Gate
from esper.service.checks.tokens import Gatekeeper
from esper.service.openapi import described

_log = logging.getLogger(__name__)


def create_app(
    *,
    title: str,
    part: str,
    settings: Settings,
    clock: Clock,
    ready: Callable[[], Mapping[str, bool]],
    audit: Callable[[AuditEntry], None],
    reading: Iterable[tuple[str, str]] = (),
    customs: Customs | None = None,
    details: Callable[[], Mapping[str, object]] = dict,
) -> FastAPI:
    """A FastAPI app with `GET /health` open to all, `GET /openapi.json` for viewers, and every
    other route closed to whoever has no token.

    Args:
        title: what the API is called in its description.
        part: name of the part, for logs and `/health`.
        settings: keys and limits.
        clock: time of tokens and limits.
        ready: what the part needs before it works, each by name; must not block.
        audit: called in a thread, for every request by POST, PUT, PATCH or DELETE. Where the
            request is refused, once, with the status of the refusal. Else with status `PENDING`
            before it is handled, and once more with the status of the answer, before the client has
            it. What it raises is the answer: `UnavailableError` becomes 503, and the request is not
            handled.
        reading: (method, route) of requests by other methods than GET that change nothing, and so
            are not audited.
        customs: where this part differs from the rest.
        details: what `/health` says besides; it is open to all, and must not block.

    Raises:
        EsperError: the keys cannot be made or read.
    """
    app = FastAPI(
        title=title,
        version="1.0",
        # Served below with a role; FastAPI's own page is open to all.
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        # A redirection would carry the token along, and be answered before the role is checked.
        redirect_slashes=False,
    )
    app.state.customs = own = customs or Customs()
    gatekeeper = Gatekeeper.of(settings.keys_dir, clock, part)

    async def health() -> JSONResponse:
        """Whether this part lives, which the answer itself proves, and whether it is
        ready to work.
        """
        try:
            checks = dict(ready())
        except Exception as error:  # noqa: BLE001 -- a check that fails is one that does not hold; the part lives
            _log.warning("the check of %s failed: %s: %s", part, type(error).__name__, error)
            checks = {"checks": False}
        well = all(checks.values())
        return JSONResponse(
            {**details(), "alive": True, "ready": well, "part": part, "checks": checks},
            200 if well else 503,
        )

    async def problem(request: Request, error: Exception) -> Response:
        return own.problem(problem_of(error), request.scope, request.scope[TRACE_KEY])

    app.add_api_route("/health", health, methods=["GET"], tags=["health"])
    app.add_api_route(
        "/openapi.json",
        lambda: described(app),
        methods=["GET"],
        dependencies=[requires("viewer")],
        include_in_schema=False,
    )
    for kind in (HTTPException, RequestValidationError, EsperError):
        app.add_exception_handler(kind, problem)
    app.add_middleware(
        Gate,
        part=part,
        routes=lambda: app.routes,
        reading=frozenset(reading),
        settings=settings.service,
        tls=settings.scheme == "https",
        gatekeeper=gatekeeper,
        clock=clock,
        audit=audit,
        customs=own,
    )
    return app


def refuse_unguarded(app: FastAPI) -> None:
    """Make sure that every route but the open ones demands a role.

    Raises:
        UsageError: one does not; the sentence names it.
    """
    customs = getattr(app.state, "customs", None)
    known = OPEN if customs is None else customs.open
    for context in iter_route_contexts(app.routes):
        methods = context.methods or {"ANY"}
        if demanded(getattr(context, "dependant", None)) is None and not all(
            (method, context.path) in known for method in methods
        ):
            name = f"{'|'.join(sorted(methods))} {context.path}"
            raise UsageError(
                f"The route {name} demands no role: give it dependencies=[requires(ROLE)]; "
                "only GET /health is open to all."
            )
