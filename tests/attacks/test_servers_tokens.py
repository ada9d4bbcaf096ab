"""Attack: a token is used where, when, or for longer than it was made for.

Expected: each part takes tokens that name it, from their beginning to their end, and of no longer
life than their role may have.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest

from esper.cli.installation.token import audience
from esper.clock import ManualClock
from esper.errors import UsageError
from esper.service.checks import tokens
from esper.service.checks.problems import ProblemError
from esper.service.checks.roles import Caller
from esper.service.checks.tokens import PARTS, Gatekeeper
from esper.service.transport import token_keys

CLOCK = ManualClock()
NOW = CLOCK.now_us() // 1_000_000
DAY = 86_400
GOOD: dict[str, Any] = {
    "iss": "esper",
    "sub": "ann",
    "role": "operator",
    "aud": ["nissa"],
    "iat": NOW,
    "nbf": NOW,
    "exp": NOW + 600,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The keys of an installation."""
    made = tmp_path_factory.mktemp("keys") / "keys"
    token_keys.ensure(made)
    return made


def judged(folder: Path, claims: dict[str, Any], part: str = "nissa") -> str:
    """What a part says of a token with these claims and the right signature.

    Empty when it takes it.
    """
    text = jwt.encode(claims, token_keys.signing(folder), algorithm="EdDSA")
    try:
        assert Gatekeeper.of(folder, CLOCK, part).caller(text) == Caller(
            claims["sub"], claims["role"]
        )
    except ProblemError as problem:
        return problem.detail
    return ""


@pytest.mark.parametrize("part", PARTS)
def test_a_token_for_one_part_is_taken_by_that_part_alone(folder: Path, part: str) -> None:
    """What leaks at one part opens no other; a part's name is compared whole."""
    for other in PARTS:
        text = tokens.own(folder, subject="ann", clock=CLOCK, audience=(part,))
        keeper = Gatekeeper.of(folder, CLOCK, other)
        if other == part:
            assert keeper.caller(text) == Caller("ann", "viewer")
        else:
            with pytest.raises(ProblemError, match=f"esper token --for {other}"):
                keeper.caller(text)
    for named in (
        [],
        "",
        "nissa2",
        ["niss"],
        ["*"],
        ["all"],
        {"nissa": 1},
        [["nissa"]],
        None,
        1,
        True,
    ):
        assert judged(folder, GOOD | {"aud": named}), named


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, ""),
        ({"nbf": NOW + 60}, "future"),
        ({"nbf": NOW + 60, "exp": NOW + 50}, "future"),
        ({"nbf": "0"}, "malformed"),
        ({"nbf": True}, "malformed"),
        ({"nbf": -1e9}, "malformed"),
        ({"exp": NOW}, "expired"),
        ({"exp": NOW + DAY + 1}, "longer"),
        ({"nbf": NOW - DAY, "exp": NOW + 60}, "longer"),
        ({"iat": NOW - DAY, "exp": NOW + 60}, "longer"),
        ({"exp": 10**30}, "longer"),
        ({"exp": True}, "malformed"),
        ({"exp": NOW + 600.5}, "malformed"),
        ({"role": ["operator"]}, "role"),
        ({"role": "Operator"}, "role"),
        ({"sub": " "}, "malformed"),
        ({"sub": "ann\nadmin"}, "malformed"),
        ({"sub": "\ud800"}, "malformed"),
        ({"iss": "esper2"}, "another service"),
    ],
)
def test_claims_are_held_against_clock_and_role(
    folder: Path, change: dict[str, Any], reason: str
) -> None:
    """Signed with the right key or not: what may not be said is not believed."""
    assert reason in judged(folder, GOOD | change)
    assert bool(judged(folder, GOOD | change)) == bool(reason)


@pytest.mark.parametrize("missing", sorted(GOOD))
def test_every_claim_is_needed(folder: Path, missing: str) -> None:
    """A token without a beginning, an end or a part is none."""
    text = jwt.encode(
        {name: value for name, value in GOOD.items() if name != missing},
        token_keys.signing(folder),
        algorithm="EdDSA",
    )
    with pytest.raises(ProblemError, match=f"claim {missing}"):
        Gatekeeper.of(folder, CLOCK, "nissa").caller(text)


def test_tokens_that_nobody_should_have_are_not_made(folder: Path) -> None:
    """An operator's for a week, one for no part: a sentence."""
    for ttl, parts, sentence in (
        (timedelta(days=7), PARTS, "1 days at most"),
        (timedelta(hours=1), (), "at least one part"),
    ):
        with pytest.raises(UsageError, match=sentence):
            tokens.own(folder, subject="ann", clock=CLOCK, role="operator", ttl=ttl, audience=parts)


def test_the_command_makes_tokens_for_what_they_are_needed(folder: Path) -> None:
    """A viewer's for every part, an operator's for Tolaria, others by name.

    An hour, unless said otherwise.
    """
    environment = os.environ | {"ESPER_HOME": str(folder.parent)}

    def made(*arguments: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "esper.cli", "token", "--json", *arguments]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=60
        )
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    assert (made()["for"], made()["expires_in"]) == (sorted(PARTS), 3_600)
    operator = made("--role", "operator")
    assert (
        operator["for"]
        == jwt.decode(operator["token"], options={"verify_signature": False})["aud"]
        == ["tolaria"]
    )
    assert made("--role", "admin", "--for", "nissa", "--for", "tamiyo")["for"] == [
        "nissa",
        "tamiyo",
    ]
    assert audience(("all",), PARTS, ("tolaria",)) == PARTS
    with pytest.raises(UsageError, match="Did you mean nissa"):
        audience(("nisa",), PARTS, ())
