"""Answers that are errors, and the two that every part gives: who are you, and you may not."""

from __future__ import annotations

from collections.abc import Mapping

from esper.errors import EsperError
from esper.service.checks.roles import Caller, Role


class ProblemError(EsperError):
    """An answer that is an error: `status`, one sentence, headers beside it, and members of its own
    in the problem's document.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})
        self.more = dict(more or {})


def unauthorized(why: str, *, invalid: bool = False, remedy: str = "esper token") -> ProblemError:
    """The 401 for a missing or `invalid` token (RFC 6750, section 3; RFC 7617).

    `remedy` is the command that prints a right one.
    """
    error = ', error="invalid_token"' if invalid else ""
    return ProblemError(
        401,
        (
            f"{why} `{remedy}` prints one: send it as `Authorization: Bearer TOKEN`, or as the "
            "password of HTTP Basic."
        ),
        headers={
            "WWW-Authenticate": f'Bearer realm="esper"{error}, Basic realm="esper", charset="UTF-8"'
        },
    )


def forbidden(caller: Caller, role: Role) -> ProblemError:
    """The 403 for a caller whose role is too low."""
    return ProblemError(
        403,
        f"This needs the role {role}, and the token of {caller.subject!r} has the role "
        f"{caller.role}; "
        f"`esper token --role {role}` prints one that may.",
        headers={
            "WWW-Authenticate": f'Bearer realm="esper", error="insufficient_scope", scope="{role}"'
        },
    )
