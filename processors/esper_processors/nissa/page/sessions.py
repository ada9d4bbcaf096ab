"""Who looks at the page: a browser trades a code of `esper open` for a session of some hours.

A cookie alone opens nothing. Browsers send cookies to every port of a host, and programs of other
users may listen on another one. So each request has to bring, in a header, a key that belongs to
the cookie: scripts of this very origin, port included, are all that can read it.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from starlette.datastructures import Headers, QueryParams

from esper.clock import Clock
from esper.service import ProblemError
from esper.service.checks import tokens
from esper.service.checks.roles import Caller
from esper.service.checks.tokens import PAGE, Gatekeeper
from esper.service.transport import token_keys

LASTS: Final = timedelta(hours=12)
"""How long a session lasts; whoever looks longer asks for another code."""
KEY_HEADER: Final = "x-esper-key"
_PART: Final = "nissa"
_OPENED: Final = b"esper page\0"
"""What a key signs before its cookie, so that no other signature of this installation is one."""
_SECOND_US: Final = 1_000_000
_NO_CODE: Final = "That is no code of `esper open`, or its minute is over"
_TRIED: Final = 8
"""Cookies of one name that are looked at: programs at other ports may have set some."""


@dataclass(frozen=True, slots=True)
class BrowserSession:
    """One browser's session: `cookie` is its token, `key` what its scripts send beside it."""

    caller: Caller
    cookie: str
    key: str
    expires_us: int


@dataclass
class Sessions:
    """Begins sessions, and knows their requests.

    Attributes:
        folder: the keys of tokens of this installation.
        clock: time of codes and sessions.
    """

    folder: Path
    clock: Clock
    _used: dict[str, int] = field(default_factory=dict)
    _public: Ed25519PublicKey | None = None

    def begin(self, authorization: str) -> BrowserSession:
        """A session for the code in an Authorization header.

        Raises:
            ProblemError: 401, it is no code, has expired, or was used before.
        """
        code = authorization.strip().partition(" ")[2].strip()
        try:
            caller = Gatekeeper(self._checking(), self.clock, PAGE).caller(code)
        except ProblemError:
            raise _refused(_NO_CODE) from None
        identity = tokens.identity_of(code)
        if not identity:
            raise _refused(_NO_CODE)
        now = self.clock.now_us()
        self._used = {one: until for one, until in self._used.items() if until > now}
        if identity in self._used:
            raise _refused("That code has been used already")
        self._used[identity] = now + round(tokens.CODE_TTL.total_seconds() * _SECOND_US)
        private = token_keys.signing(self.folder)
        cookie = tokens.issue(
            private,
            subject=caller.subject,
            role=caller.role,
            ttl=LASTS,
            clock=self.clock,
            audience=(_PART,),
            identity=identity,
        )
        key = base64.urlsafe_b64encode(private.sign(_OPENED + cookie.encode())).decode()
        until = now + round(LASTS.total_seconds() * _SECOND_US)
        return BrowserSession(caller, cookie, key, until)

    def authorization(self, headers: Headers, _: QueryParams) -> str:
        """What a request says in its Authorization header, or by cookie and key; empty for
        neither.
        """
        if given := headers.get("authorization", ""):
            return given
        for cookie in _cookies(headers):
            if self._belongs(headers, cookie):
                return f"Bearer {cookie}"
        return ""

    def _belongs(self, headers: Headers, cookie: str) -> bool:
        try:
            signature = base64.urlsafe_b64decode(headers.get(KEY_HEADER, "").encode())
            self._checking().verify(signature, _OPENED + cookie.encode())
        except (InvalidSignature, binascii.Error, UnicodeEncodeError):
            return False
        return True

    def _checking(self) -> Ed25519PublicKey:
        if self._public is None:
            self._public = token_keys.checking(self.folder)
        return self._public


def cookie_name(host: str) -> str:
    """The cookie of the installation that answers at a host: another one has another port."""
    port = host.rpartition(":")[2]
    return f"esper_session_{port}" if port.isdecimal() else "esper_session"


def _refused(why: str) -> ProblemError:
    return ProblemError(
        401,
        f"{why}: run `esper open` again.",
        headers={"WWW-Authenticate": 'Bearer realm="esper", error="invalid_token"'},
    )


def _cookies(headers: Headers) -> list[str]:
    """The values of this installation's cookie.

    Read by hand: the standard library drops all cookies where it dislikes one, and whoever listens
    at another port of this host may have set that.
    """
    name = cookie_name(headers.get("host", ""))
    parts = (part for line in headers.getlist("cookie") for part in line.split(";"))
    pairs = (part.strip().partition("=") for part in parts)
    return [value for key, _, value in pairs if key == name and value][:_TRIED]
