"""Who asks, and what role a route demands: viewer reads, operator changes runs, admin does what cannot be undone. Each includes those before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from fastapi import Depends
from fastapi.dependencies.models import Dependant
from starlette.requests import HTTPConnection

from esper.service.problems import ProblemError

Role = Literal["viewer", "operator", "admin"]
ROLES: Final[tuple[Role, ...]] = ("viewer", "operator", "admin")
"""From the least to the most powerful."""

SCOPE_KEY: Final = "esper.caller"
"""Where the gate puts the caller in a request's ASGI scope."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Subject and role of a valid token."""

    subject: str
    role: Role

    def may(self, role: Role) -> bool:
        """Whether this caller's role includes `role`."""
        return ROLES.index(self.role) >= ROLES.index(role)


def current_caller(connection: HTTPConnection) -> Caller:
    """The caller of this request; a dependency.

    Raises:
        ProblemError: 401, the request carries no valid token.
    """
    found = connection.scope.get(SCOPE_KEY)
    if not isinstance(found, Caller):
        raise unauthorized("This needs a token.")
    return found


CurrentCaller = Annotated[Caller, Depends(current_caller)]
"""Annotation of a route's parameter that takes the caller."""


def requires(role: Role) -> Any:
    """A dependency that lets only callers of `role`, or of a more powerful one, reach a route."""
    return Depends(_DEPENDENCIES[role])


def demanded(dependant: object) -> Role | None:
    """The role that a route demands, read from its dependencies; None where it has no `requires`."""
    if not isinstance(dependant, Dependant):
        return None
    roles = [role for role, dependency in _DEPENDENCIES.items() if dependant.call is dependency]
    roles += [role for inner in dependant.dependencies if (role := demanded(inner)) is not None]
    return max(roles, key=ROLES.index, default=None)


def unauthorized(why: str, *, invalid: bool = False) -> ProblemError:
    """The 401 for a missing or `invalid` token (RFC 6750, section 3; RFC 7617)."""
    error = ', error="invalid_token"' if invalid else ""
    return ProblemError(
        401,
        f"{why} `esper token` prints one: send it as `Authorization: Bearer TOKEN`, or as the password of HTTP Basic.",
        headers={"WWW-Authenticate": f'Bearer realm="esper"{error}, Basic realm="esper", charset="UTF-8"'},
    )


def forbidden(caller: Caller, role: Role) -> ProblemError:
    """The 403 for a caller whose role is too low."""
    return ProblemError(
        403,
        f"This needs the role {role}, and the token of {caller.subject!r} has the role {caller.role}; "
        f"`esper token --role {role}` prints one that may.",
        headers={"WWW-Authenticate": f'Bearer realm="esper", error="insufficient_scope", scope="{role}"'},
    )


def _viewer(connection: HTTPConnection) -> Caller:
    return _checked(connection, "viewer")


def _operator(connection: HTTPConnection) -> Caller:
    return _checked(connection, "operator")


def _admin(connection: HTTPConnection) -> Caller:
    return _checked(connection, "admin")


_DEPENDENCIES: Final[dict[Role, Callable[[HTTPConnection], Caller]]] = {"viewer": _viewer, "operator": _operator, "admin": _admin}


def _checked(connection: HTTPConnection, role: Role) -> Caller:
    caller = current_caller(connection)
    if not caller.may(role):
        raise forbidden(caller, role)
    return caller
