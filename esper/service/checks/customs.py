"""What one part does in another way than the rest, because clients that are not Esper's expect it
of its protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers, QueryParams
from starlette.responses import Response
from starlette.types import Scope

from esper.service.checks.documents import response_of
from esper.service.checks.problems import ProblemError

OPEN = frozenset({("GET", "/health")})
"""Method and path of what every part answers without a token."""


def _authorization(headers: Headers, _: QueryParams) -> str:
    return headers.get("authorization", "")


def _document(problem: ProblemError, scope: Scope, trace_id: str) -> Response:
    return response_of(problem, instance=scope["path"], trace_id=trace_id)


@dataclass(frozen=True, slots=True)
class Customs:
    """Where a part differs.

    Attributes:
        open: method and path of what is answered without a token.
        authorization: the value of an Authorization header that a request is equal to; empty for
            none.
        problem: the answer that is an error.
        own_pages_only: whether pages of other sites may not even read.
        pages: paths that a link of any site may lead a browser to; they say nothing by themselves.
    """

    open: frozenset[tuple[str, str]] = OPEN
    authorization: Callable[[Headers, QueryParams], str] = _authorization
    problem: Callable[[ProblemError, Scope, str], Response] = _document
    own_pages_only: bool = False
    pages: frozenset[str] = frozenset()
