"""Who is let in: tokens, the ways to carry them, roles, and the keys behind them."""

from __future__ import annotations

import base64
import multiprocessing
import stat
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from esper.clock import ManualClock
from esper.errors import CorruptError, UsageError
from esper.service.checks import tokens
from esper.service.checks.problems import ProblemError
from esper.service.checks.roles import Caller
from esper.service.checks.tokens import Gatekeeper
from esper.service.transport import token_keys
from tests.servicefixtures import (
    HOLDERS,
    Holder,
    Row,
    assert_answered_by_role,
    assert_every_route_has_a_row,
    assert_problem,
    bearer,
    claims,
    credentials,
    forged_with_public_key,
    token,
)
from tests.unit.service.conftest import Part, build

TABLE = (
    Row("GET", "/health", None),
    Row("GET", "/openapi.json", "viewer"),
    Row("GET", "/api/v1/status", "viewer"),
    Row("GET", "/api/v1/errors/{name}", "viewer", "/api/v1/errors/usage"),
    Row("GET", "/api/v1/slow", "viewer"),
    Row("POST", "/api/v1/look", "viewer"),
    Row("POST", "/api/v1/runs/{run_id}/orders", "operator", "/api/v1/runs/r1/orders", {"count": 1}),
    Row("DELETE", "/api/v1/runs/{run_id}", "admin", "/api/v1/runs/r1"),
)


def test_every_route_has_a_row(part: Part) -> None:
    """The table below knows every route."""
    assert_every_route_has_a_row(build(part), TABLE)


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.method} {row.route}")
def test_each_route_answers_by_role(part: Part, row: Row, holder: Holder) -> None:
    """Each route, for everyone who may come: 401 without a valid token, 403 with too low a role,
    else its answer.
    """
    part.gate.set()
    assert_answered_by_role(
        lambda row, headers: part.client.request(
            row.method, row.path or row.route, json=row.body, headers=headers
        ),
        row,
        holder,
        credentials(part.settings, part.clock, holder),
    )
    if row.method == "DELETE":
        assert part.done == (["removed r1"] if holder == "admin" else [])


def test_a_token_travels_as_bearer_and_as_password(part: Part) -> None:
    """Bearer, and Basic with any user name, say the same; the route learns subject and role."""
    text = token(part.settings, part.clock, "operator", subject="ann")
    expected = {"subject": "ann", "role": "operator"}
    assert part.client.get("/api/v1/status", headers=bearer(text)).json() == expected
    for user in ("ann", "", "anybody"):
        assert part.client.get("/api/v1/status", auth=(user, text)).json() == expected
    assert (
        part.client.get("/api/v1/status", headers={"Authorization": f"bEARER  {text}"}).json()
        == expected
    )


def test_what_is_no_valid_token_is_refused_with_the_reason(part: Part) -> None:
    """Malformed, unsigned, signed by HMAC with the public key, for another service, lacking a
    claim, from the future: 401 and a challenge.
    """
    clock = part.clock
    key = token_keys.signing(part.settings.keys_dir)
    good, later = claims(clock), clock.now_us() // 1_000_000 + 60

    def without(claim: str) -> dict[str, Any]:
        return {name: value for name, value in good.items() if name != claim}

    bad = {
        "": "neither Bearer nor Basic",
        "Bearer": "malformed",
        "Bearer a.b.c": "malformed",
        f"Bearer {'a' * 5_000}": "malformed",
        "Basic %%%": "malformed",
        "Digest x": "neither Bearer nor Basic",
        f"Bearer {jwt.encode(good, '', algorithm='none')}": "another way",
        f"Bearer {forged_with_public_key(part.settings, clock)}": "another way",
        (
            f"Bearer {jwt.encode(good, Ed25519PrivateKey.generate(), algorithm='EdDSA')}"
        ): "another key",
        f"Bearer {jwt.encode(good | {'aud': 'other'}, key, algorithm='EdDSA')}": "not for test",
        f"Bearer {jwt.encode(good | {'iss': 'other'}, key, algorithm='EdDSA')}": "another service",
        (
            f"Bearer {jwt.encode(good | {'role': 'root'}, key, algorithm='EdDSA')}"
        ): "role that does not exist",
        f"Bearer {jwt.encode(good | {'iat': later}, key, algorithm='EdDSA')}": "future",
        f"Bearer {jwt.encode(good | {'exp': 'never'}, key, algorithm='EdDSA')}": "malformed",
    }
    bad |= {
        f"Bearer {jwt.encode(without(missing), key, algorithm='EdDSA')}": f"claim {missing}"
        for missing in good
    }
    for header, reason in bad.items():
        answer = part.client.get(
            "/api/v1/status",
            headers={"Authorization": header} if header else {"Authorization": "x"},
        )
        assert_problem(answer, 401)
        assert reason in answer.json()["detail"], (header, answer.json())
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]
        assert "Basic" in answer.headers["www-authenticate"]


def test_a_token_ends_when_it_says(part: Part) -> None:
    """By the clock that the part was given, to the second."""
    text = token(part.settings, part.clock, ttl=timedelta(seconds=60))
    part.clock.advance(59)
    assert part.client.get("/api/v1/status", headers=bearer(text)).status_code == 200
    part.clock.advance(1)
    answer = part.client.get("/api/v1/status", headers=bearer(text))
    assert_problem(answer, 401)
    assert "expired" in answer.json()["detail"]


def test_a_changed_token_is_another(tmp_path: Path) -> None:
    """Whatever character of a token is changed, it is refused, or it is the same token written
    otherwise.
    """
    clock = ManualClock()
    keeper = Gatekeeper.of(tmp_path / "keys", clock, "nissa")
    text = tokens.own(tmp_path / "keys", subject="ann", clock=clock, role="viewer")
    for place in range(len(text)):
        changed = text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :]
        try:
            caller = keeper.caller(changed)
        except ProblemError:
            pass
        else:
            assert caller == Caller("ann", "viewer")
            assert base64.urlsafe_b64decode(
                changed.split(".")[2] + "=="
            ) == base64.urlsafe_b64decode(text.split(".")[2] + "==")


def _make(folder: str) -> bytes:
    token_keys.ensure(Path(folder))
    return (Path(folder) / token_keys.PRIVATE).read_bytes()


def test_processes_that_start_together_end_with_one_pair(tmp_path: Path) -> None:
    """Four processes make keys at once: one pair, and the same again afterwards."""
    folder = tmp_path / "home" / "keys"
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        made = set(pool.map(_make, [str(folder)] * 8, chunksize=1))
    assert len(made) == 1
    assert _make(str(folder)) in made
    assert token_keys.checking(folder) == token_keys.signing(folder).public_key()
    assert sorted(path.name for path in folder.iterdir()) == [token_keys.PRIVATE, token_keys.PUBLIC]


def test_the_private_key_is_its_owners_alone(tmp_path: Path) -> None:
    """Folder 0700, key 0600.

    A key that others may read, a damaged one and a missing one are refused by name.
    """
    folder = tmp_path / "keys"
    with pytest.raises(UsageError, match="esper up"):
        token_keys.signing(folder)
    token_keys.ensure(folder)
    private = folder / token_keys.PRIVATE
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    private.chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        token_keys.signing(folder)
    private.chmod(0o600)
    private.write_text("nonsense")
    with pytest.raises(CorruptError, match="Ed25519"):
        token_keys.signing(folder)
    (folder / token_keys.PUBLIC).write_text("nonsense")
    with pytest.raises(CorruptError, match="Ed25519"):
        token_keys.checking(folder)


def test_a_part_with_the_public_key_alone_checks_tokens(tmp_path: Path) -> None:
    """On another machine a part needs only the public key, and makes none of its own beside it."""
    clock = ManualClock()
    token_keys.ensure(tmp_path / "here")
    there = tmp_path / "there"
    there.mkdir()
    (there / token_keys.PUBLIC).write_bytes((tmp_path / "here" / token_keys.PUBLIC).read_bytes())
    text = tokens.own(tmp_path / "here", subject="ann", clock=clock)
    assert Gatekeeper.of(there, clock, "nissa").caller(text) == Caller("ann", "viewer")
    assert not (there / token_keys.PRIVATE).exists()


def test_tokens_that_mean_nothing_are_not_made(tmp_path: Path) -> None:
    """No subject, an unknown role, no time: a sentence."""
    key = Ed25519PrivateKey.generate()
    hour, clock = timedelta(hours=1), ManualClock()
    with pytest.raises(UsageError, match="subject"):
        tokens.issue(key, subject=" ", role="viewer", ttl=hour, clock=clock)
    with pytest.raises(UsageError, match="role"):
        tokens.issue(key, subject="ann", role="root", ttl=hour, clock=clock)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="time to live"):
        tokens.issue(key, subject="ann", role="viewer", ttl=timedelta(0), clock=clock)
