"""How Faust and aiokafka reach Kafka: `esper.oona.bus.access.Access` in the shapes that
they take.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Final

from aiokafka.abc import AbstractTokenProvider
from faust import auth
from faust.types.auth import CredentialsT

from esper.errors import UnavailableError, UsageError
from esper.oona.bus.access import Access

_RENEW_S: Final = 30.0
"""A token that lives no longer than this is not used any more."""
_ANSWER_S: Final = 10.0
_LOOK_S: Final = 1.0
_OPTIONS: Final = {
    "socket.timeout.ms": "request_timeout_ms",
    "metadata.max.age.ms": "metadata_max_age_ms",
    "connections.max.idle.ms": "connections_max_idle_ms",
}


class Tokens(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka has no types
    """Access tokens of an OpenID provider by the client credentials grant (RFC 6749, 4.4), each
    used until shortly before it expires.
    """

    def __init__(self, access: Access) -> None:
        self._access = access
        self._token = ""
        self._expires = 0.0
        self._turn = asyncio.Lock()

    async def token(self) -> str:
        """A token that is valid now.

        Raises:
            UnavailableError: the provider does not answer, or gives none.
        """
        # consumer and producer ask at the same time: one fetch serves both
        async with self._turn:
            if time.monotonic() > self._expires - _RENEW_S:
                # in a thread: a provider that is slow must not stop the worker's heartbeats
                self._token, lasting = await asyncio.to_thread(self._fetch)
                self._expires = time.monotonic() + lasting
            return self._token

    def _fetch(self) -> tuple[str, float]:
        kafka = self._access.kafka
        form = {
            "grant_type": "client_credentials",
            "client_id": self._access.user,
            "client_secret": self._access.password(),
        }
        body = urllib.parse.urlencode(
            form | ({"scope": kafka.oauth_scope} if kafka.oauth_scope else {})
        ).encode()
        request = urllib.request.Request(  # noqa: S310  # the owner's setting
            kafka.oauth_token_endpoint, body, {"Accept": "application/json"}
        )
        trust = ssl.create_default_context(cafile=kafka.ca or None)
        try:
            with urllib.request.urlopen(request, timeout=_ANSWER_S, context=trust) as answer:  # noqa: S310  # the same
                granted = json.load(answer)
            return str(granted["access_token"]), float(granted.get("expires_in", 2 * _RENEW_S))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UnavailableError(
                f"{kafka.oauth_token_endpoint} gives no token for {self._access.user} "
                f"({error}): see ESPER_KAFKA__OAUTH_*."
            ) from error


def options(access: Access) -> dict[str, Any]:
    """What a client of aiokafka takes.

    Raises UsageError where a file that the settings name cannot be read.
    """
    kafka = access.kafka
    taken: dict[str, Any] = {
        "security_protocol": kafka.security_protocol,
        "ssl_context": access.ssl_context(),
    }
    taken |= {
        name: int(kafka.options[option])
        for option, name in _OPTIONS.items()
        if option in kafka.options
    }
    if not kafka.authenticated:
        return taken
    taken["sasl_mechanism"] = kafka.sasl_mechanism
    if kafka.sasl_mechanism == "OAUTHBEARER":
        return taken | {"sasl_oauth_token_provider": Tokens(access)}
    return taken | {"sasl_plain_username": access.user, "sasl_plain_password": access.password()}


def secrets_of(access: Access) -> str:
    """A digest of the secrets that a client comes with, as they stand in their files now.

    Raises UsageError where one cannot be read.
    """
    kafka, digest = access.kafka, hashlib.sha256()
    if kafka.authenticated:
        digest.update(access.password().encode())
    for path in (
        access.librdkafka().get(name)
        for name in ("ssl.ca.location", "ssl.certificate.location", "ssl.key.location")
    ):
        # contents, not times: a secret may be written again without a change
        digest.update(Path(path).read_bytes() if path else b"\0")
    return digest.hexdigest()


async def until_renewed(access: Access) -> None:
    """Return once the secrets that a client comes with are others than at the call: aiokafka keeps
    those that it was made with for good.
    """
    before = await asyncio.to_thread(secrets_of, access)
    while True:
        await asyncio.sleep(_LOOK_S)
        with contextlib.suppress(UsageError, OSError):  # a file is being replaced
            if await asyncio.to_thread(secrets_of, access) != before:
                return


def app_options(access: Access) -> dict[str, Any]:
    """The options that `faust.App` has a name of its own for, where the settings have them."""
    values = {
        name: int(access.kafka.options[option])
        for option, name in _OPTIONS.items()
        if option in access.kafka.options
    }
    taken: dict[str, Any] = {
        f"{who}_{name}": values[name]
        # the first, the request's time-out, has names of its own in Faust, in seconds
        for name in list(_OPTIONS.values())[1:]
        if name in values
        for who in ("consumer", "producer")
    }
    if "request_timeout_ms" in values:
        taken |= dict.fromkeys(
            ("broker_request_timeout", "producer_request_timeout"),
            values["request_timeout_ms"] / 1000,
        )
    return taken


def credentials(access: Access) -> CredentialsT | None:
    """What `faust.App(broker_credentials=...)` takes. Raises as `options` does."""
    kafka, context = access.kafka, access.ssl_context()
    if not kafka.authenticated:
        return None if context is None else auth.SSLCredentials(context)
    if kafka.sasl_mechanism == "OAUTHBEARER":
        return auth.OAuthCredentials(oauth_cb=Tokens(access), ssl_context=context)
    return auth.SASLCredentials(
        username=access.user,
        password=access.password(),
        ssl_context=context,
        mechanism=kafka.sasl_mechanism,
    )
