"""Who asks, and what role a route demands, as FastAPI's dependencies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final

from fastapi import Depends
from fastapi.dependencies.models import Dependant
from starlette.requests import HTTPConnection

from esper.service.checks.problems import forbidden, unauthorized
from esper.service.checks.roles import ROLES, Caller, Role

SCOPE_KEY: Final = "esper.caller"
"""Where the gate puts the caller in a request's ASGI scope."""


def current_caller(connection: HTTPConnection) -> Caller:
    """The caller of this request; a dependency.

    Raises:
        ProblemError: 401, the request carries no valid token.
    """
    caller = connection.scope.get(SCOPE_KEY)
    if not isinstance(caller, Caller):
        raise unauthorized("This needs a token.")
    return caller


CurrentCaller = Annotated[Caller, Depends(current_caller)]
"""Annotation of a route's parameter that takes the caller."""


def requires(role: Role) -> Any:
    """A dependency that lets only callers of `role`, or of a more powerful one, reach a route."""
    return Depends(_DEPENDENCIES[role])


def demanded(dependant: object) -> Role | None:
    """The role that a route demands, read from its dependencies; None where it has no
    `requires`.
    """
    if not isinstance(dependant, Dependant):
        return None
    roles = [role for role, dependency in _DEPENDENCIES.items() if dependant.call is dependency]
    roles += [role for inner in dependant.dependencies if (role := demanded(inner)) is not None]
    # FastAPI runs all of them, so the most powerful decides
    return max(roles, key=ROLES.index, default=None)


def _viewer(connection: HTTPConnection) -> Caller:
    return _checked(connection, "viewer")


def _operator(connection: HTTPConnection) -> Caller:
    return _checked(connection, "operator")


def _admin(connection: HTTPConnection) -> Caller:
    return _checked(connection, "admin")


# one function a role, no closure: `demanded` knows a role by its function
_DEPENDENCIES: Final[dict[Role, Callable[[HTTPConnection], Caller]]] = {
    "viewer": _viewer,
    "operator": _operator,
    "admin": _admin,
}


def _checked(connection: HTTPConnection, role: Role) -> Caller:
    caller = current_caller(connection)
    if not caller.may(role):
        raise forbidden(caller, role)
    return caller
