"""The HTTP foundation: one way to serve requests, with tokens, roles, TLS, audit and limits."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from esper.service.app import create_app
    from esper.service.audit import AuditEntry
    from esper.service.callers import CurrentCaller, current_caller, requires
    from esper.service.problems import ProblemError
    from esper.service.roles import Caller, Role
    from esper.service.server import Server

__all__ = ["AuditEntry", "Caller", "CurrentCaller", "ProblemError", "Role", "Server", "create_app", "current_caller", "requires"]

_HOMES: Final = {
    "AuditEntry": "audit",
    "Caller": "roles",
    "CurrentCaller": "callers",
    "ProblemError": "problems",
    "Role": "roles",
    "Server": "server",
    "create_app": "app",
    "current_caller": "callers",
    "requires": "callers",
}


def __getattr__(name: str) -> Any:
    """Import on first use: whoever only makes or checks tokens does not wait for FastAPI."""
    if name in _HOMES:
        return getattr(import_module(f"esper.service.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'esper.service' has no attribute {name!r}")
