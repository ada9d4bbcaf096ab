"""Malformed and greedy requests against the history's port, with and without a token.

Expected outcome of each: one clean answer or a closed connection, memory bounded, and the next
client is served.
"""

from __future__ import annotations

import gzip
import json
import re
import socket
import threading
import zlib
from urllib.parse import quote

import pytest

from tests.attacks.history_victim import Victim
from tests.servicefixtures import bearer

SLACK = 96 << 20
"""Memory that one attack may cost, bytes; each sent or unpacked more on the version before."""


def raw(victim: Victim, request: bytes, *, more: int = 0) -> bytes:
    """Everything that comes back for bytes sent as they are, and for `more` bytes behind them,
    until the server closes or falls silent.
    """
    out = b""
    with socket.create_connection(("127.0.0.1", victim.port), timeout=2) as connection:
        try:
            connection.sendall(request)
            for _ in range(more >> 20):
                connection.sendall(b"A" * (1 << 20))
        except OSError:
            pass  # it has heard enough
        try:
            while part := connection.recv(1 << 16):
                out += part
        except OSError:
            pass
    return out


def request(
    victim: Victim,
    method: str = "GET",
    path: str = "/?query=SELECT%201",
    *headers: str,
    token: bool = True,
) -> bytes:
    """The head of a request."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{victim.port}", *headers]
    if token:
        lines.append(f"Authorization: Bearer {victim.token()}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


@pytest.mark.parametrize(
    "length", ["-1", "99999999999", "1e9", "0x10", "+5", "abc", "5, 5000000000"]
)
@pytest.mark.parametrize("token", [False, True])
def test_a_stated_length_costs_no_memory(history_victim: Victim, length: str, token: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """`Content-Length: -1` was read without limit before the token.

    Whatever the length says, little is read and the connection ends.
    """
    before = history_victim.memory()
    answer = raw(
        history_victim,
        request(history_victim, "POST", "/", f"Content-Length: {length}", token=token),
        more=256 << 20,
    )
    assert history_victim.memory() - before < SLACK
    assert answer == b"" or re.match(rb"HTTP/1.1 4\d\d ", answer), answer[:100]
    assert history_victim.ask("SELECT 1")[0] == 200


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_small_body_does_not_unpack_to_a_large_one(history_victim: Victim, encoding: str) -> None:
    """A bomb of 250 KB that is 250 MB unpacked is refused after the first MiB."""
    packing = zlib.compressobj(9, wbits=31 if encoding == "gzip" else 15)
    bomb = b"".join([*(packing.compress(b" " * (1 << 20)) for _ in range(250)), packing.flush()])
    assert len(bomb) < 1 << 20
    before = history_victim.memory()
    status, body, _ = _post(history_victim, bomb, encoding)
    assert (status, "unpacked" in body) == (400, True)
    assert history_victim.memory() - before < SLACK
    for broken in (
        gzip.compress(b"SELECT 1")[:-4],
        gzip.compress(b"SELECT 1") + b"SELECT 2",
        b"nonsense",
        b"",
    ):
        assert _post(history_victim, broken, "gzip")[0] == 400


def _post(victim: Victim, body: bytes, encoding: str) -> tuple[int, str, bytes]:
    answer = raw(
        victim,
        request(
            victim,
            "POST",
            "/",
            f"Content-Encoding: {encoding}",
            f"Content-Length: {len(body)}",
            "Connection: close",
        )
        + body,
    )
    head, _, content = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), content.decode(), head


@pytest.mark.parametrize(
    "piece",
    [
        "/*a",
        "/*",
        "'",
        "''",
        '"',
        "`",
        "x'\\",
        "(",
        "((1))",
        "1,",
        "a.",
        "--\n",
        "-- ",
        "#!",
        "\\",
        "/**/",
        "'a'",
        "$",
        "é",
        "[",
        "{a:",
        "WITH x AS (SELECT ",
        "NOT ",
    ],
)
def test_reading_a_query_takes_time_in_proportion_to_it(history_victim: Victim, piece: str) -> None:
    """The longest query of each kind of piece is answered within the client's patience.

    Unterminated comments took minutes.
    """
    longest = 256 << 10
    text = "SELECT " + piece * ((longest - 100) // len(piece.encode()))
    status, _, _ = history_victim.ask(text)
    assert status < 600
    status, body, _ = history_victim.ask("SELECT " + "1," * longest + "1")
    assert (status, "Max query size" in body) == (400, True)


@pytest.mark.parametrize(
    "evil",
    ["a\r\nX-Evil: 1", "a\nX-Evil: 1", "\r\n\r\nHTTP/1.1 200 OK", "a\0b", "é", "a b", "x" * 300],
)
@pytest.mark.parametrize(
    "where",
    [
        "query_id",
        "default_format",
        "user",
        "X-ClickHouse-Format",
        "FORMAT",
        "FORMAT and default_format",
    ],
)
def test_nothing_of_a_request_becomes_a_header(
    history_victim: Victim, evil: str, where: str
) -> None:
    """A query id was copied into a header with its line ends.

    No header of the answer has a line of the caller's.
    """
    if where == "X-ClickHouse-Format":
        answer = raw(
            history_victim,
            request(
                history_victim,
                "GET",
                "/?query=SELECT%201",
                f"X-ClickHouse-Format: {evil}",
                "Connection: close",
            ),
        )
    else:
        sql = (
            f"SELECT 1 FORMAT `{evil}`"
            if where == "FORMAT"
            else "SELECT 1 FORMAT JSON"
            if "and" in where
            else "SELECT 1"
        )
        name = where.rpartition(" ")[2]
        address = f"/?query={quote(sql)}" + ("" if name == "FORMAT" else f"&{name}={quote(evil)}")
        answer = raw(history_victim, request(history_victim, "GET", address, "Connection: close"))
    head = answer.partition(b"\r\n\r\n")[0]
    assert b"\nX-Evil" not in head or where == "X-ClickHouse-Format"
    assert answer.count(b"HTTP/1.1 ") <= 1 + (where == "X-ClickHouse-Format")
    assert not re.search(rb"^x-evil", head, re.IGNORECASE | re.MULTILINE)
    assert history_victim.ask("SELECT 1")[0] == 200


def test_a_body_is_never_a_second_request(history_victim: Victim) -> None:
    """What stands in a body after GET or HEAD, or behind two contradicting lengths, is not answered
    as a request of its own.
    """
    inner = request(history_victim, "GET", "/?query=SELECT%20'smuggled'", "Connection: close")
    for method in ("GET", "HEAD", "POST"):
        answer = raw(
            history_victim,
            request(
                history_victim,
                method,
                "/ping",
                f"Content-Length: {len(inner)}",
                "Connection: close",
            )
            + inner,
        )
        assert b"smuggled" not in answer
        assert answer.count(b"HTTP/1.1 ") == 1
    for headers in (
        ("Content-Length: 0", f"Content-Length: {len(inner)}"),
        ("Content-Length: 4", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
    ):
        answer = raw(
            history_victim, request(history_victim, "POST", "/", *headers) + b"0\r\n\r\n" + inner
        )
        assert b"smuggled" not in answer
        assert answer == b"" or re.match(rb"HTTP/1.1 [45]\d\d ", answer)


MALFORMED = [
    ("GET", "/?client_protocol_version=abc&query=SELECT%201%20FORMAT%20Native", (), b""),
    ("GET", "/?client_protocol_version=-5&query=SELECT%201%20FORMAT%20Native", (), b""),
    ("GET", "/?client_protocol_version=" + "9" * 5000 + "&query=SELECT%201", (), b""),
    ("GET", "/?" + "&".join(f"a{n}=1" for n in range(2_000)), (), b""),
    ("GET", "/?query=%FF%FE", (), b""),
    ("GET", "/?max_threads=%00&query=SELECT%201", (), b""),
    ("GET", "/?default_format=DataFrame&query=SELECT%201", (), b""),
    ("GET", "/?default_format=ArrowTable&query=SELECT%201", (), b""),
    ("GET", "/?default_format=datastore&query=SELECT%201", (), b""),
    ("GET", "http://[::1/?query=SELECT%201", (), b""),
    ("POST", "/", ("Content-Type: multipart/form-data",), b"x"),
    (
        "POST",
        "/",
        ("Content-Type: multipart/form-data; boundary=x",),
        b"--x\r\nContent-Disposition: form-data; name=param_a\r\n\r\n\xff\r\n--x--",
    ),
    ("POST", "/", ("Content-Type: multipart/form-data; boundary=x",), b"--x" * 3_000),
    ("POST", "/", ("Content-Type: multipart/form-data; boundary=" + "x" * 500,), b"--x"),
    ("POST", "/", (), b"\xff\xfe"),
    ("POST", "/", ("Content-Encoding: br",), b"x"),
    ("POST", "/", ("Content-Encoding: \xff",), b"x"),
    ("POST", "/?decompress=1", (), b"x"),
    ("DELETE", "/", (), b""),
    ("PUT", "/?query=SELECT%201", (), b""),
    ("OPTIONS", "/?query=SELECT%201", (), b""),
]


@pytest.mark.parametrize(("method", "path", "headers", "body"), MALFORMED)
def test_a_malformed_request_is_one_clean_refusal(
    history_victim: Victim, method: str, path: str, headers: tuple[str, ...], body: bytes
) -> None:
    """What cannot be read was an exception in the server's thread, and no answer.

    Each gets a status of its own fault and a line of text.
    """
    head = request(
        history_victim, method, path, *headers, f"Content-Length: {len(body)}", "Connection: close"
    )
    answer = raw(history_victim, head + body)
    assert re.match(rb"HTTP/1.1 4\d\d ", answer), answer[:200]
    assert b"Traceback" not in answer
    assert history_victim.ask("SELECT 1")[0] == 200


@pytest.mark.parametrize(
    "chunk",
    [b"zz\r\n", b"-1\r\n", b"ffffffffffffffff\r\n", b"5;" + b"x" * 70_000 + b"\r\n", b"\r\n"],
)
def test_a_malformed_chunk_ends_the_request(history_victim: Victim, chunk: bytes) -> None:
    """The size of a chunk was read by int(), negative ones too."""
    before = history_victim.memory()
    answer = raw(
        history_victim,
        request(history_victim, "POST", "/", "Transfer-Encoding: chunked") + chunk,
        more=64 << 20,
    )
    assert answer == b"" or re.match(rb"HTTP/1.1 4\d\d ", answer), answer[:100]
    assert history_victim.memory() - before < SLACK


def test_one_callers_queries_leave_room_for_another(history_victim: Victim) -> None:
    """While one viewer has as many long queries under way and waiting as are let in, another is
    answered; the seventeenth is refused.
    """
    long = "SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 1"
    statuses: list[int] = []
    greedy = [
        threading.Thread(
            target=lambda: statuses.append(
                history_victim.ask(long, {"max_execution_time": "2"}, subject="greedy")[0]
            )
        )
        for _ in range(20)
    ]
    for thread in greedy:
        thread.start()
    try:
        for _ in range(3):
            assert history_victim.ask("SELECT 1", subject="modest")[:2] == (200, "1\n")
        assert any(thread.is_alive() for thread in greedy), (
            "the modest one did not wait for the greedy one's queries"
        )
    finally:
        for thread in greedy:
            thread.join()
    assert set(statuses) <= {429, 504}
    assert statuses.count(429) >= 4
    status, body, headers = history_victim.ask("SELECT 1", subject="greedy")
    assert (status, body) == (200, "1\n")
    assert json.loads(headers["x-clickhouse-summary"])["result_bytes"] == "2"


def test_a_page_of_another_origin_is_refused_by_what_browsers_say(history_victim: Victim) -> None:
    """A browser that holds the password adds it by itself: Fetch Metadata and Origin tell who made
    it ask.
    """
    history_victim.ran.clear()
    own = f"http://127.0.0.1:{history_victim.port}"
    for headers in (
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {
            "Sec-Fetch-Site": "cross-site",
            "Sec-Fetch-Mode": "navigate",
            "Sec-Fetch-Dest": "document",
        },
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": f"http://127.0.0.1:{history_victim.port + 1}"},
    ):
        for method in ("GET", "POST"):
            status, body, answered = history_victim.ask(
                "" if method == "GET" else "SELECT 1",
                {"query": "SELECT 1"},
                method=method,
                headers=headers,
            )
            assert (status, "another site" in body) == (403, True)
            assert "access-control-allow-origin" not in {name.lower() for name in answered}
    assert not history_victim.ran
    for headers in (
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "same-origin", "Origin": own},
        bearer(history_victim.token()),
    ):
        assert history_victim.ask("SELECT 1", headers=headers)[0] == 200
