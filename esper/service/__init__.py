"""The HTTP foundation: one way to serve requests, with tokens, roles, TLS, audit and limits."""

from __future__ import annotations

from esper.service.app import create_app
from esper.service.audit import AuditEntry
from esper.service.callers import Caller, CurrentCaller, Role, current_caller, requires
from esper.service.problems import ProblemError
from esper.service.server import Server

__all__ = ["AuditEntry", "Caller", "CurrentCaller", "ProblemError", "Role", "Server", "create_app", "current_caller", "requires"]
