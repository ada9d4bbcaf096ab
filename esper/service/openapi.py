"""The description of a part's API (OpenAPI 3.1): how to send a token, which role each operation
needs, and what its errors look like.
"""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from esper.service.checks.callers import demanded
from esper.service.checks.documents import MEDIA_TYPE

_EXAMPLE: Final = {
    "type": "about:blank",
    "title": "Unauthorized",
    "status": 401,
    "detail": (
        "The token has expired. `esper token` prints one: send it as `Authorization: Bearer "
        "TOKEN`, or as the password of HTTP Basic."
    ),
    "instance": "/api/v1/status",
    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
}
_PROBLEM: Final = {
    "type": "object",
    "description": "An error, by RFC 9457: `detail` is one sentence with the remedy.",
    "required": ["type", "title", "status", "detail", "instance", "trace_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "trace_id": {
            "type": "string",
            "description": "W3C trace id under which the part logged what happened.",
        },
    },
}
_SCHEMES: Final = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "What `esper token` prints.",
    },
    "basic": {
        "type": "http",
        "scheme": "basic",
        "description": "Any user name, and the token as password.",
    },
}


def described(app: FastAPI) -> dict[str, Any]:
    """The app's OpenAPI document with security schemes and problems."""
    document = app.openapi()
    components = document.setdefault("components", {})
    components["securitySchemes"] = _SCHEMES
    components.setdefault("schemas", {})["Problem"] = _PROBLEM
    for context in iter_route_contexts(app.routes):
        operations = document["paths"].get(context.path_format, {})
        for method in context.methods or ():
            if (operation := operations.get(method.lower())) is not None:
                _describe(operation, demanded(getattr(context, "dependant", None)))
    return document


def _describe(operation: dict[str, Any], role: str | None) -> None:
    # FastAPI's own form of it, which no part answers with
    operation["responses"].pop("422", None)
    operation["responses"]["default"] = {
        "description": "What went wrong.",
        "content": {
            MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "example": _EXAMPLE}
        },
    }
    operation["security"] = [{"bearer": []}, {"basic": []}] if role else []
    if role:
        operation["x-esper-role"] = role
