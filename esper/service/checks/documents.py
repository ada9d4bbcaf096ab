"""Exceptions to problem+json (RFC 9457): one sentence with the remedy, and never what is inside the
server.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from http.client import responses
from typing import Final

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from esper.errors import (
    BackpressureError,
    BuildError,
    EsperError,
    FencedError,
    PoisonError,
    RejectedError,
    StorageFullError,
    UnavailableError,
    UsageError,
)
from esper.service.checks.problems import ProblemError

MEDIA_TYPE: Final = "application/problem+json"

_STATUS: Final[tuple[tuple[type[EsperError], int], ...]] = (
    (UsageError, 400),
    (RejectedError, 409),
    (FencedError, 409),
    (UnavailableError, 503),
    (BackpressureError, 503),
    (StorageFullError, 507),
    (PoisonError, 422),
    (BuildError, 422),
)
_SENTENCES: Final = {
    404: "There is nothing at this address; /openapi.json lists what there is.",
    405: "This address does not take that method; the Allow header says which it takes.",
}
_RETRY_S: Final = 1


def problem_of(error: Exception) -> ProblemError:
    """What a caller receives about an exception.

    Sentences of `EsperError` are made for users; of others not a word goes out.
    """
    match error:
        case ProblemError():
            return error
        case RequestValidationError():
            faults = [
                {"where": "/".join(map(str, fault["loc"])), "what": fault["msg"]}
                for fault in error.errors()
            ]
            first = (
                f"{faults[0]['where']}: {faults[0]['what']}"
                if faults
                else "the request is malformed"
            )
            return ProblemError(
                422,
                f"The request does not fit: {first}; /openapi.json says what it takes.",
                more={"errors": faults},
            )
        case HTTPException():
            # Starlette's own words alone are replaced: a route's sentence stays
            plain = error.detail == responses.get(error.status_code)
            detail = _SENTENCES.get(error.status_code, error.detail) if plain else error.detail
            return ProblemError(error.status_code, detail, headers=error.headers)
        case EsperError():
            status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
            return ProblemError(
                status,
                str(error),
                headers={"Retry-After": str(_RETRY_S)}
                if status == HTTPStatus.SERVICE_UNAVAILABLE
                else None,
            )
        case _:
            return ProblemError(
                500,
                "The part failed at this request; its log has the reason under the trace id below.",
            )


def response_of(problem: ProblemError, *, instance: str, trace_id: str) -> Response:
    """The HTTP response of a problem."""
    document = {
        "type": "about:blank",
        "title": responses.get(problem.status, "Error"),
        "status": problem.status,
        "detail": problem.detail,
        "instance": instance,
        "trace_id": trace_id,
        **problem.more,
    }
    return Response(json.dumps(document).encode(), problem.status, problem.headers, MEDIA_TYPE)
