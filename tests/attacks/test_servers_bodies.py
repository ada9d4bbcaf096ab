"""Attack: a body that one reader takes in another way than the next, that no record can hold, or
that exhausts who reads it.

Expected: 400 with a sentence, on record under the caller's name, the route never called, the part
alive.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from esper.clock import SystemClock
from esper.config import ServiceSettings, Settings
from esper.events import decode, encode
from esper.service import create_app, requires
from esper.service.checks.audit_entries import AuditEntry, Link, chained
from esper.service.checks.bodies import parsed
from esper.service.checks.problems import ProblemError
from tests.servicefixtures import Recorder, assert_problem, bearer, served, token

CLOCK = SystemClock()
DEEP = 100_000
HOSTILE: dict[str, bytes] = {
    "arrays": b"[" * DEEP + b"]" * DEEP,
    "objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "unclosed": b"[" * DEEP,
    "33 levels": b"[" * 33 + b"]" * 33,
    "deep in a list": b"[1, " + b"[" * 40 + b"]" * 40 + b"]",
    "a key twice": b'{"recipe": "digits", "recipe": "leak"}',
    "a key twice, escaped": rb'{"a": 1, "\u0061": 2}',
    "NaN": b'{"a": NaN}',
    "Infinity": b"[-Infinity]",
    "too large": b'{"a": 1e999}',
    "65 bits": b'{"a": 9223372036854775808}',
    "many digits": b'{"a": ' + b"9" * 100_000 + b"}",
    "half a pair": rb'{"a": "\ud800"}',
    "half a pair as key": rb'{"\udfff": 1}',
    "zero": rb'{"a": "x\u0000y"}',
    "zero in a key": rb'{"\u0000": 1}',
    "no UTF-8": b'{"a": "\xff"}',
    "half a character": b'{"a": "\xc3"}',
    "overlong": b'{"a": "\xc0\x80"}',
    "CESU-8": b'{"a": "\xed\xa0\x80"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "UTF-32": '{"a": 1}'.encode("utf-32"),
    "byte order mark": b'\xef\xbb\xbf{"a": 1}',
    "two values": b"{}{}",
    "comment": b"{/**/}",
    "control character": b'{"a": "\x01"}',
    "single quotes": b"{'a': 1}",
    "nothing": b" ",
}


@pytest.fixture(scope="module")
def part(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[httpx.Client, dict[str, str], Recorder, list[Any]]]:
    """A part whose routes take any JSON at all, with an operator's token, its audit, and what
    reached the routes.
    """
    settings = Settings(home=tmp_path_factory.mktemp("home"), service=ServiceSettings(burst=10_000))
    audit, reached = Recorder(), list[Any]()
    app: FastAPI = create_app(
        title="T", part="t", settings=settings, clock=CLOCK, ready=dict, audit=audit
    )

    @app.post("/api/v1/any", dependencies=[requires("operator")])
    async def anything(body: Any) -> None:
        reached.append(body)

    @app.post("/api/v1/object", dependencies=[requires("operator")])
    async def whole(body: dict[str, Any]) -> None:
        reached.append(body)

    with served(app, settings) as client:
        yield client, bearer(token(settings, CLOCK, "operator", subject="mallory")), audit, reached


@pytest.mark.parametrize(
    "kind", ["application/json", "application/problem+json", "Application/JSON; charset=utf-16"]
)
@pytest.mark.parametrize("name", HOSTILE)
def test_a_body_that_is_not_plain_json_is_400_and_on_record(
    part: tuple[httpx.Client, dict[str, str], Recorder, list[Any]], name: str, kind: str
) -> None:
    """With the sentence that says why.

    The record can be written and read, and the next request is answered.
    """
    client, headers, audit, reached = part
    audit.entries.clear()
    answer = client.post(
        "/api/v1/object", content=HOSTILE[name], headers=headers | {"Content-Type": kind}
    )
    assert_problem(answer, 400)
    (entry,) = audit.entries
    assert (entry.actor, entry.status, entry.action) == ("mallory", 400, "POST /api/v1/object")
    assert_can_be_recorded(entry)
    assert reached == []
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": [1.5, -9223372036854775808, null, true, "\xc3\xa9 \\ud83d\\ude00"]}',
        b"[" * 32 + b"]" * 32,
        b"[]",
    ],
)
def test_a_body_that_is_plain_json_reaches_its_route(
    part: tuple[httpx.Client, dict[str, str], Recorder, list[Any]], body: bytes
) -> None:
    """As it is: strictness changes nothing."""
    client, headers, audit, reached = part
    reached.clear()
    audit.entries.clear()
    client.post("/api/v1/any", content=body, headers=headers | {"Content-Type": "application/json"})
    assert audit.entries[0].status == 0
    for entry in audit.entries:
        assert_can_be_recorded(entry)
    assert parsed(body) == json.loads(body)
    reached.clear()


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists
    ).map(lambda v: json.dumps(v).encode())
)
def test_whatever_is_taken_can_be_recorded(body: bytes) -> None:
    """Of any bytes: refused, or a value that goes through JSON, UTF-8 and Avro and back."""
    try:
        value = parsed(body)
    except ProblemError as problem:
        detail = problem.detail
        assert detail.encode()
        return
    assert json.loads(json.dumps(value, ensure_ascii=False).encode()) == value


def assert_can_be_recorded(entry: AuditEntry) -> None:
    """The record goes through Avro."""
    record = chained(entry, Link(), sender_id="t", occurred_at=1)
    assert decode(encode(record).value) == record


@pytest.mark.parametrize(
    "target",
    [
        "/api/v1/runs/%00",
        "/api/v1/%ff",
        "/a%0d%0aSet-Cookie:x",
        "/%ed%a0%80",
        "/api/v1/object?x=%ed%a0%80&y=%00",
    ],
)
def test_a_target_that_no_record_can_hold_is_refused(
    part: tuple[httpx.Client, dict[str, str], Recorder, list[Any]], target: str
) -> None:
    """Or its record can be written."""
    client, headers, audit, _ = part
    audit.entries.clear()
    answer = client.post(target, content=b"x", headers=headers)
    assert 400 <= answer.status_code < 500
    assert "set-cookie" not in answer.headers
    for entry in audit.entries:
        assert_can_be_recorded(entry)


def test_a_callers_text_becomes_no_header(tmp_path: Path) -> None:
    """An answer whose header has a caller's text in it keeps it in one line."""
    settings = Settings(home=tmp_path)
    app = create_app(
        title="T", part="t", settings=settings, clock=CLOCK, ready=dict, audit=Recorder()
    )

    @app.get("/echo", dependencies=[requires("viewer")])
    async def echo(text: str) -> Any:
        from starlette.responses import Response  # noqa: PLC0415 -- FastAPI reads the annotation of a route

        answer = Response(b"x")
        answer.raw_headers.append((b"x-query-id", text.encode()))
        return answer

    with served(app, settings) as client:
        answer = client.get(
            "/echo",
            params={"text": "a\r\nSet-Cookie: x=1\r\n\r\nHTTP/1.1 200 OK\0é"},
            headers=bearer(token(settings, CLOCK)),
        )
        assert answer.status_code == 200
        assert "set-cookie" not in answer.headers
        assert answer.headers["x-query-id"].startswith("a  Set-Cookie: x=1")
        assert client.get("/health").status_code == 200
