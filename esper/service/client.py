"""How Esper's own programs ask its parts: over the Unix socket that only this user can reach, with
a token that they make for themselves.

Parts in containers of their own (ESPER_PARTS=elsewhere) are asked over TLS, and have to show the
certificate of the installation.
"""

from __future__ import annotations

import http.client
import io
import urllib.error
from collections.abc import Mapping
from email.message import Message
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from esper.clock import Clock, SystemClock
from esper.config import Settings
from esper.errors import UsageError
from esper.service.checks import tokens
from esper.service.checks.caller_limits import names_this_machine
from esper.service.checks.roles import Role
from esper.service.transport import certificates, sockets


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

    def get(
        self,
        url: str,
        *,
        timeout: float,
        data: bytes | None = None,
        method: str | None = None,
        headers: Mapping[str, str] | None = None,
        role: Role | None = "viewer",
    ) -> bytes:
        """The body of a successful answer.

        A `role` of None sends no token: for what is open to all.

        Raises:
            UsageError: there is no key to make a token with, or `url` is not of this machine.
            urllib.error.HTTPError: the part refuses; it is to be closed.
            OSError, http.client.HTTPException: it does not answer.
        """
        where = urlsplit(url)
        connection = (
            self._elsewhere(url, timeout)
            if self._settings.parts == "elsewhere"
            else self._local(url, timeout)
        )
        try:
            connection.connect()  # first of all: no token is made for a part that is not there
            sent = dict(headers or {})
            if role is not None:
                token = tokens.own(
                    self._settings.keys_dir,
                    subject=self._subject,
                    clock=self._clock,
                    role=role,
                    audience=(self._part,),
                )
                sent["Authorization"] = f"Bearer {token}"
            target = f"{where.path or '/'}{'?' if where.query else ''}{where.query}"
            connection.request(method or ("GET" if data is None else "POST"), target, data, sent)
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        if answer.status >= HTTPStatus.MULTIPLE_CHOICES:
            told: Message = answer.headers
            raise urllib.error.HTTPError(url, answer.status, answer.reason, told, io.BytesIO(body))
        return body

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


FAILURES: Final = (OSError, http.client.HTTPException)
"""What `Client.get` raises where a part does not answer; its refusals are of this kind too."""
