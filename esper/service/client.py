"""How Esper's own programs ask its parts: over the Unix socket that only this user can reach, with
a token that they make for themselves.

Parts in containers of their own (ESPER_PARTS=elsewhere) are asked over TLS, and have to show the
certificate of the installation.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

from esper.clock import Clock, SystemClock
from esper.config import Settings
from esper.errors import DeniedError, EsperError, RejectedError, UnavailableError, UsageError
from esper.service.checks import tokens
from esper.service.checks.caller_limits import names_this_machine
from esper.service.checks.roles import Role
from esper.service.transport import certificates, sockets

ANSWER_S: Final = 15.0
"""Seconds that a part has for each read of its answer, where a request does not say otherwise."""

_REFUSALS: Final[Mapping[int, type[EsperError]]] = {
    HTTPStatus.BAD_REQUEST: UsageError,
    HTTPStatus.UNAUTHORIZED: DeniedError,
    HTTPStatus.FORBIDDEN: DeniedError,
    HTTPStatus.NOT_FOUND: UsageError,
    HTTPStatus.CONFLICT: RejectedError,
    HTTPStatus.UNPROCESSABLE_ENTITY: UsageError,
}
"""What the caller does next, by status; UnavailableError, try again later, for all others."""


@dataclass(frozen=True, slots=True)
class HttpReply:
    """What a part answered, whatever its status."""

    status: int
    body: bytes

    @property
    def succeeded(self) -> bool:
        """Whether the part did what it was asked; none of them redirects."""
        return self.status < HTTPStatus.MULTIPLE_CHOICES


class Client:
    """Asks one part of this installation.

    Each request carries a fresh token for that part alone, in the name of `subject`.

    No other program can take the part's place: where the part does not run, nothing is sent.
    """

    def __init__(
        self, settings: Settings, *, subject: str, part: str, clock: Clock | None = None
    ) -> None:
        self._settings = settings
        self._subject = subject
        self._part = part
        self._clock = clock or SystemClock()

    def ask(
        self,
        url: str,
        *,
        timeout: float = ANSWER_S,
        data: bytes | None = None,
        method: str | None = None,
        headers: Mapping[str, str] | None = None,
        role: Role | None = "viewer",
        limit: int | None = None,
    ) -> HttpReply:
        """The answer, a refusal too; a POST where there is `data` and no `method`.

        A `role` of None sends no token: for what is open to all. `limit` is how many bytes of the
        body are read.

        Raises:
            UsageError: there is no key to make a token with, or `url` is not of this machine.
            UnavailableError: the part does not answer.
        """
        try:
            connection = self._connection(url, timeout)
            try:
                connection.connect()  # first of all: no token is made for a part that is not there
                # Path and query as they were given: a path that is quoted must not be quoted again.
                target = url[len(_origin(url)) :] or "/"
                sent = {**(headers or {}), **self._authorization(role)}
                verb = method or ("GET" if data is None else "POST")
                connection.request(verb, target, data, sent)
                answer = connection.getresponse()
                return HttpReply(answer.status, answer.read(limit))
            finally:
                connection.close()
        except (OSError, http.client.HTTPException) as error:
            raise UnavailableError(
                f"The part {self._part} at {_origin(url)} does not answer ({error}): "
                "`esper status` shows how it is."
            ) from error

    def json(
        self,
        url: str,
        body: Mapping[str, Any] | None = None,
        *,
        timeout: float = ANSWER_S,
        role: Role | None = "viewer",
    ) -> dict[str, Any]:
        """The JSON object that a request gives; a POST where there is a `body`.

        Raises:
            UsageError: as `ask`; or the part cannot take what it was asked.
            DeniedError: the caller may not ask this.
            RejectedError: the present state does not allow it.
            UnavailableError: the part does not answer, or fails.
        """
        data = None if body is None else json.dumps(body).encode()
        reply = self.ask(
            url,
            timeout=timeout,
            data=data,
            headers={"Content-Type": "application/json"},
            role=role,
        )
        if not reply.succeeded:
            raise self._refusal(reply)
        try:
            answer: dict[str, Any] = json.loads(reply.body)
        except (ValueError, RecursionError) as error:
            raise UnavailableError(
                f"The part {self._part} at {_origin(url)} did not answer in JSON: its log says "
                "why, `esper status` shows where that is."
            ) from error
        return answer

    def _refusal(self, reply: HttpReply) -> EsperError:
        """The error of a refusal, in the part's own words where it has any (RFC 9457)."""
        # The body is read whatever it is: a proxy in between may answer in HTML.
        kind = _REFUSALS.get(reply.status, UnavailableError)
        try:
            return kind(str(json.loads(reply.body)["detail"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            return kind(
                f"The part {self._part} answered {reply.status}: its log says why, "
                "`esper status` shows where that is."
            )

    def _authorization(self, role: Role | None) -> dict[str, str]:
        if role is None:
            return {}
        token = tokens.own(
            self._settings.keys_dir,
            subject=self._subject,
            clock=self._clock,
            role=role,
            audience=(self._part,),
        )
        return {"Authorization": f"Bearer {token}"}

    def _connection(self, url: str, timeout: float) -> http.client.HTTPConnection:
        return (
            self._elsewhere(url, timeout)
            if self._settings.parts == "elsewhere"
            else self._local(url, timeout)
        )

    def _local(self, url: str, timeout: float) -> http.client.HTTPConnection:
        where = urlsplit(url)
        if where.port is None or not names_this_machine(where.hostname or ""):
            raise UsageError(
                f"{url} is no part of this installation: Esper's own programs ask parts on "
                "this machine, by their port."
            )
        return sockets.LocalConnection(self._settings.sockets_dir, where.port, timeout=timeout)

    def _elsewhere(self, url: str, timeout: float) -> http.client.HTTPConnection:
        """To a part in a container of its own: what it shows has to be the very certificate of the
        installation.
        """
        where = urlsplit(url)
        if where.scheme != "https" or where.hostname is None:
            raise UsageError(
                f"{url} is asked with a token, which needs https: give parts a certificate "
                "(ESPER_SERVICE__CERTIFICATE)."
            )
        return http.client.HTTPSConnection(
            where.hostname, where.port, timeout=timeout, context=certificates.asking(self._settings)
        )


def _origin(url: str) -> str:
    """Scheme and address: a sentence shows no query, which may be long."""
    where = urlsplit(url)
    return f"{where.scheme}://{where.netloc}"
