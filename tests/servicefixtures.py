"""What tests of parts that serve HTTP share: tokens of every kind, and the table of every route by
role.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Literal

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from esper.clock import Clock, ManualClock, SystemClock
from esper.config import Settings
from esper.service import Server
from esper.service.checks import tokens
from esper.service.checks.audit_entries import AuditEntry
from esper.service.checks.roles import ROLES, Role
from esper.service.transport import token_keys

Holder = Literal["no token", "expired", "wrong key", "viewer", "operator", "admin"]
HOLDERS: Final[tuple[Holder, ...]] = ("no token", "expired", "wrong key", *ROLES)
"""Everyone who may come: three without a valid token, and the three roles."""

AUDIENCE: Final = [*tokens.PARTS, "test", "t"]
"""Whom the tests' tokens are for: every part, and those that tests make."""


@dataclass(frozen=True, slots=True)
class Row:
    """One route of the table: how a request for it that works looks, and the least role that it
    takes; None for open ones.
    """

    method: str
    route: str
    role: Role | None
    path: str = ""
    """A path that the route matches; the route itself if empty."""
    body: Mapping[str, object] | None = None


@dataclass
class Recorder:
    """An audit that keeps what it is told; `down` lets it refuse."""

    entries: list[AuditEntry] = field(default_factory=list)
    down: Exception | None = None

    def __call__(self, entry: AuditEntry) -> None:
        if self.down is not None:
            raise self.down
        self.entries.append(entry)


def token(
    settings: Settings,
    clock: Clock,
    role: Role = "viewer",
    *,
    subject: str = "tester",
    ttl: timedelta = timedelta(hours=1),
) -> str:
    """A valid token of this installation, whose keys are made where they are missing."""
    token_keys.ensure(settings.keys_dir)
    return tokens.own(
        settings.keys_dir, subject=subject, clock=clock, role=role, ttl=ttl, audience=AUDIENCE
    )


def bearer(text: str) -> dict[str, str]:
    """The header that carries a token."""
    return {"Authorization": f"Bearer {text}"}


def credentials(settings: Settings, clock: Clock, holder: Holder) -> dict[str, str]:
    """The headers with which `holder` comes."""
    if holder == "no token":
        return {}
    if holder == "expired":
        earlier = ManualClock(clock.now_us() - 7_200_000_000)
        return bearer(token(settings, earlier, "admin"))
    if holder == "wrong key":
        return bearer(_of_another_key(clock))
    return bearer(token(settings, clock, holder))


def _of_another_key(clock: Clock) -> str:
    return tokens.issue(
        Ed25519PrivateKey.generate(),
        subject="tester",
        role="admin",
        ttl=timedelta(hours=1),
        clock=clock,
        audience=AUDIENCE,
    )


def forged_with_public_key(settings: Settings, clock: Clock) -> str:
    """A token signed by HMAC with the public key as its secret: what a checker takes that lets the
    token choose the algorithm.
    """
    public = token_keys.checking(settings.keys_dir).public_bytes(Encoding.Raw, PublicFormat.Raw)
    return jwt.encode(claims(clock), public, algorithm="HS256")


def claims(clock: Clock) -> dict[str, object]:
    """Claims that are all right."""
    now = clock.now_us() // 1_000_000
    return {
        "iss": "esper",
        "aud": AUDIENCE,
        "sub": "mallory",
        "role": "admin",
        "iat": now,
        "nbf": now,
        "exp": now + 600,
    }


def routes_of(app: FastAPI) -> set[tuple[str, str]]:
    """Method and route of everything that the app answers."""
    found = set()
    for context in iter_route_contexts(app.routes):
        found |= {(method, context.path or "") for method in context.methods or {"ANY"}}
    return found


def assert_every_route_has_a_row(app: FastAPI, table: Iterable[Row]) -> None:
    """A route without a row fails, and so does a row without a route."""
    assert routes_of(app) == {(row.method, row.route) for row in table}


def assert_answered_by_role(
    ask: Callable[[Row, Mapping[str, str]], httpx.Response],
    row: Row,
    holder: Holder,
    headers: Mapping[str, str],
) -> None:
    """Without a valid token 401, with too low a role 403, else neither.

    401 and 403 are problems with a challenge.
    """
    answer = ask(row, headers)
    if row.role is None:
        assert answer.status_code in {200, 503}
    elif holder not in ROLES:
        assert_problem(answer, 401)
    elif ROLES.index(holder) < ROLES.index(row.role):
        assert_problem(answer, 403)
    else:
        assert answer.status_code not in {401, 403, 500}, answer.text


def assert_problem(answer: httpx.Response, status: int) -> None:
    """The answer is a problem document with this status, a sentence and a trace id."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["status"] == status
    assert document["detail"].endswith(".")
    assert len(document["trace_id"]) == 32
    assert status != 401 or "Bearer" in answer.headers["www-authenticate"]


def client_of(url: str) -> httpx.Client:
    """A client for a part of this machine."""
    return httpx.Client(base_url=url, timeout=30, trust_env=False, verify=False)  # noqa: S501 -- loading the world's certificates takes half a second


@contextmanager
def served(app: FastAPI, settings: Settings, clock: Clock | None = None) -> Iterator[httpx.Client]:
    """The app behind a real socket, and a client for it."""
    server = Server(app, settings=settings, port=0, clock=clock or SystemClock())
    server.start()
    try:
        with client_of(server.url) as client:
            yield client
    finally:
        server.stop()
