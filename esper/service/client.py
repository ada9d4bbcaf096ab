"""How Esper's own programs ask its parts: with a token that they make for themselves, over TLS where there is a certificate."""

from __future__ import annotations

import http.client
import ssl
import urllib.request
from collections.abc import Mapping
from functools import cached_property

from esper.clock import Clock, SystemClock
from esper.config import Settings
from esper.service import certificates, tokens
from esper.service.roles import Role


class Client:
    """Asks parts of this installation. Each request carries a fresh token in the name of `subject`."""

    def __init__(self, settings: Settings, *, subject: str, clock: Clock | None = None) -> None:
        self._settings = settings
        self._subject = subject
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
        """The body of a successful answer. A `role` of None sends no token: for what is open to all.

        Raises:
            UsageError: there is no key to make a token with.
            urllib.error.HTTPError: the part refuses; it is to be closed.
            OSError, http.client.HTTPException: it does not answer.
        """
        sent = dict(headers or {})
        if role is not None:
            sent["Authorization"] = f"Bearer {tokens.own(self._settings.keys_dir, subject=self._subject, clock=self._clock, role=role)}"
        request = urllib.request.Request(url, data=data, headers=sent, method=method)  # noqa: S310 -- our own address
        context = self._context if url.startswith("https:") else None
        with urllib.request.urlopen(request, timeout=timeout, context=context) as response:  # noqa: S310 -- the same
            body: bytes = response.read()
        return body

    @cached_property
    def _context(self) -> ssl.SSLContext:
        return certificates.asking(self._settings)


FAILURES = (OSError, http.client.HTTPException)
"""What `Client.get` raises where a part does not answer; its refusals are of this kind too."""
