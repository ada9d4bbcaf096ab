"""The HTTP foundation: one way to serve requests, with tokens, roles, TLS, audit and limits."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from esper.service.app import create_app
    from esper.service.checks.audit_entries import AuditEntry
    from esper.service.checks.callers import CurrentCaller, current_caller, requires
    from esper.service.checks.problems import ProblemError
    from esper.service.checks.roles import Caller, Role
    from esper.service.server import Server

__all__ = [
    "AuditEntry",
    "Caller",
    "CurrentCaller",
    "ProblemError",
    "Role",
    "Server",
    "create_app",
    "current_caller",
    "requires",
]

_HOMES: Final = {
    "AuditEntry": "checks.audit_entries",
    "Caller": "checks.roles",
    "CurrentCaller": "checks.callers",
    "ProblemError": "checks.problems",
    "Role": "checks.roles",
    "Server": "server",
    "create_app": "app",
    "current_caller": "checks.callers",
    "requires": "checks.callers",
}


def __getattr__(name: str) -> Any:
    """Import on first use: whoever only makes or checks tokens does not wait for FastAPI."""
    if name in _HOMES:
        return getattr(import_module(f"esper.service.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'esper.service' has no attribute {name!r}")
