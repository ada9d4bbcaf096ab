"""Claims about the page's sessions: what opens one, and which requests belong to one."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from starlette.datastructures import Headers, QueryParams

from esper.clock import ManualClock
from esper.service import ProblemError
from esper.service.checks import tokens
from esper.service.transport import token_keys
from esper_processors.nissa.page.sessions import LASTS, BrowserSession, Sessions

NOTHING = QueryParams()
HOST = "127.0.0.1:9090"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_700_000_000_000_000)


@pytest.fixture
def sessions(tmp_path: Path, clock: ManualClock) -> Sessions:
    token_keys.ensure(tmp_path / "keys")
    return Sessions(tmp_path / "keys", clock)


def code(sessions: Sessions, *audience: str, identity: str = "") -> str:
    made = tokens.own(
        sessions.folder,
        subject="ada",
        clock=sessions.clock,
        ttl=tokens.CODE_TTL,
        audience=audience,
        identity=identity,
    )
    return f"Bearer {made}"


def opened(sessions: Sessions, identity: str = "one") -> BrowserSession:
    return sessions.begin(code(sessions, "nissa", tokens.PAGE, identity=identity))


def asked(sessions: Sessions, cookie: str, key: str, port: str = "9090", **more: str) -> str:
    headers = {
        "host": HOST,
        "cookie": f"other=1; esper_session_{port}={cookie}",
        "x-esper-key": key,
        **more,
    }
    return sessions.authorization(Headers(headers), NOTHING)


def test_a_code_opens_one_session_for_whom_it_names(sessions: Sessions, clock: ManualClock) -> None:
    given = code(sessions, "nissa", tokens.PAGE, identity="one")
    session = sessions.begin(given)
    assert (session.caller.subject, session.caller.role) == ("ada", "viewer")
    assert session.expires_us == clock.now_us() + LASTS // timedelta(microseconds=1)
    with pytest.raises(ProblemError, match="used already"):
        sessions.begin(given)


def test_a_code_is_used_however_it_is_written(sessions: Sessions) -> None:
    """Base64 has several texts for the same bytes."""
    given = code(sessions, "nissa", tokens.PAGE, identity="one")
    sessions.begin(given)
    for again in (f"{given}=", f"{given}==", f" {given} "):
        with pytest.raises(ProblemError) as refused:
            sessions.begin(again)
        assert refused.value.status == 401


def test_a_code_without_an_identity_is_none(sessions: Sessions) -> None:
    with pytest.raises(ProblemError, match="no code"):
        sessions.begin(code(sessions, "nissa", tokens.PAGE))


@pytest.mark.parametrize("audience", [("nissa",), ("history",), ("nissa", "history")])
def test_a_token_that_is_no_code_opens_none(sessions: Sessions, audience: tuple[str, ...]) -> None:
    """Else whoever has a token of a minute would have one of hours."""
    with pytest.raises(ProblemError, match="no code") as refused:
        sessions.begin(code(sessions, *audience))
    assert refused.value.status == 401


def test_a_code_ends_with_its_minute(sessions: Sessions, clock: ManualClock) -> None:
    given = code(sessions, "nissa", tokens.PAGE, identity="one")
    clock.advance(61)
    with pytest.raises(ProblemError, match="esper open"):
        sessions.begin(given)


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer x", "Basic eDp5", "Bearer " + "x" * 9000])
def test_what_is_no_token_opens_none(sessions: Sessions, header: str) -> None:
    with pytest.raises(ProblemError) as refused:
        sessions.begin(header)
    assert refused.value.status == 401


def test_cookie_and_key_are_the_session_s_token(sessions: Sessions) -> None:
    session = opened(sessions)
    assert asked(sessions, session.cookie, session.key) == f"Bearer {session.cookie}"


def test_a_session_goes_on_after_a_restart(sessions: Sessions, clock: ManualClock) -> None:
    session = opened(sessions)
    later = Sessions(sessions.folder, clock)
    assert asked(later, session.cookie, session.key) == f"Bearer {session.cookie}"


def test_a_cookie_alone_is_nothing(sessions: Sessions) -> None:
    """A program at another port of this host is sent it too."""
    # of the same second and person
    session, other = opened(sessions), opened(sessions, "two")
    for key in (other.key, session.key[:-6], session.key[4:], session.cookie, "", "é~"):
        assert asked(sessions, session.cookie, key) == ""


@pytest.mark.parametrize("planted", ["foo", "a b=1", "secure", "esper_session_9090=x", "=;=", "é"])
def test_cookies_of_others_end_no_session(sessions: Sessions, planted: str) -> None:
    """Whoever listens at another port of this host may set cookies for it."""
    session = opened(sessions)
    headers = [
        (b"host", HOST.encode()),
        (b"cookie", f"{planted}; esper_session_9090={session.cookie}; z".encode("latin-1")),
        (b"x-esper-key", session.key.encode()),
    ]
    assert sessions.authorization(Headers(raw=headers), NOTHING) == f"Bearer {session.cookie}"


def test_a_cookie_of_another_port_is_another_installation_s(sessions: Sessions) -> None:
    session = opened(sessions)
    assert asked(sessions, session.cookie, session.key, port="9091") == ""


def test_a_header_goes_before_a_cookie(sessions: Sessions) -> None:
    session = opened(sessions)
    given = asked(sessions, session.cookie, session.key, authorization="Bearer mine")
    assert given == "Bearer mine"


@pytest.mark.parametrize("cookie", ["", ";;;", "a", "esper_session_9090", "é=1; x", "\x7f=2"])
def test_a_malformed_cookie_is_none(sessions: Sessions, cookie: str) -> None:
    headers = Headers(raw=[(b"host", HOST.encode()), (b"cookie", cookie.encode("latin-1"))])
    assert sessions.authorization(headers, NOTHING) == ""
