"""The HTTP interface, asked by clients that know nothing of Esper."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import clickhouse_connect
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from esper.clock import SystemClock
from esper.config import HistorySettings, Settings
from esper.errors import UnavailableError
from esper.events.schemas import BY_NAME, current
from esper.history.confined.engine import Engine
from esper.history.http import HistoryServer
from esper.history.tables.container import container, layout
from esper.oona.bus.port import Received
from tests.servicefixtures import HOLDERS, Holder, bearer, credentials, token
from tests.unit.history.conftest import example, framed

TOKENS: dict[int, str] = {}
"""A token for the server on each port."""

CREDENTIALS = {"Authorization", "X-ClickHouse-Key", "X-ClickHouse-User", "No-Token"}
"""Headers beside which `ask` sends no token of its own."""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """An installation with its keys."""
    return Settings(home=tmp_path_factory.mktemp("installation"))


@pytest.fixture(scope="module")
def password(settings: Settings) -> str:
    """A viewer's token."""
    return token(settings, SystemClock())


@pytest.fixture(scope="module")
def server(engine: Engine, settings: Settings, password: str) -> Iterator[HistoryServer]:
    """A served history that holds 1,000 training steps; `ask` knows a token for it."""
    wire = current(BY_NAME["TrainingStep"])
    place = layout(wire.id)
    messages = [
        Received(
            wire.record.TOPIC,
            0,
            n,
            b"",
            framed(
                wire,
                {
                    **example("TrainingStep"),
                    "event_id": f"00000000-0000-8000-8000-{n:012d}",
                    "step": n,
                },
            ),
            (),
            0,
        )
        for n in range(1_000)
    ]
    engine.client.raw_insert(
        place.table.name,
        column_names=list(place.columns),
        insert_block=container(wire.id, "http", messages),
        fmt="Avro",
    )
    served = HistoryServer(
        engine, settings=settings, health=lambda: (True, {"positions": {}}), clock=SystemClock()
    )
    served.start()
    TOKENS[served.port] = password
    yield served
    served.stop()


def ask(
    server: HistoryServer,
    body: str = "",
    headers: dict[str, str] | None = None,
    path: str = "/",
    **parameters: str,
) -> Any:
    """The response to a request; POST if there is a body."""
    address = f"http://127.0.0.1:{server.port}{path}?{urlencode(parameters)}"
    sent = (
        bearer(TOKENS[server.port]) if headers is None or not headers.keys() & CREDENTIALS else {}
    )
    request = urllib.request.Request(
        address, data=body.encode() or None, headers=sent | (headers or {})
    )
    return urllib.request.urlopen(request, timeout=20)  # noqa: S310 - the same


def test_clickhouse_connect_works_unchanged(server: HistoryServer, password: str) -> None:
    """An unmodified client connects, reads settings and rows, binds parameters, reads frames and
    asks for column names only.
    """
    client = clickhouse_connect.get_client(
        host="127.0.0.1", port=server.port, username="me", password=password
    )
    try:
        assert client.ping()
        assert client.command("SELECT 1") == 1
        result = client.query(
            (
                "SELECT step, loss, occurred_at, event_id FROM training_step WHERE step < "
                "{n:Int64} ORDER BY step"
            ),
            parameters={"n": 10},
        )
        assert [row[0] for row in result.result_rows] == list(range(10))
        assert client.query("SELECT sum(step) FROM training_step").result_rows == [(499_500,)]
        assert client.query_df("SELECT step FROM training_step ORDER BY step LIMIT 3")[
            "step"
        ].tolist() == [0, 1, 2]
        assert client.query_arrow("SELECT step FROM training_step LIMIT 3").num_rows == 3
        assert client.query("SELECT * FROM runs LIMIT 0").column_names[0] == "run_id"
        assert client.query("SELECT commands FROM epoch_reviewed").result_rows == []
        with client.query_row_block_stream("SELECT step FROM training_step") as stream:
            assert sum(len(block) for block in stream) == 1_000
        with pytest.raises(DatabaseError, match="READONLY"):
            client.command("DROP TABLE raw_training_step")
        with pytest.raises(DatabaseError, match="READONLY"):
            client.insert(
                "ledger",
                [["t", "i", 0, 1, 0]],
                column_names=["topic", "topic_id", "partition", "next_offset", "written_at"],
            )
        with pytest.raises(DatabaseError) as caught:
            client.query("SELECT nonsense FROM training_step")
        assert caught.value.code == 47
    finally:
        client.close()


def test_curl_style_requests_are_answered(server: HistoryServer) -> None:
    """The query may stand in the address or in the body, the format in the query or beside it.

    Headers say what came.
    """
    response = ask(server, query="SELECT count() FROM training_step")
    assert response.read() == b"1000\n"
    assert response.headers["X-ClickHouse-Format"] == "TabSeparated"
    assert int(json.loads(response.headers["X-ClickHouse-Summary"])["read_rows"]) >= 1
    assert ask(server, "SELECT 1 AS x FORMAT JSONEachRow").read() == b'{"x":1}\n'
    assert ask(server, "SELECT 1 AS x", default_format="CSVWithNames").read() == b'"x"\n1\n'
    assert (
        ask(server, "SELECT 1 AS x", headers={"X-ClickHouse-Format": "JSONEachRow"}).read()
        == b'{"x":1}\n'
    )
    assert (
        ask(server, "SELECT {a:String} || {b:String}", param_a="1", param_b="2").read() == b"12\n"
    )
    assert ask(server, "FROM training_step", query="SELECT max(step)").read() == b"999\n"
    assert ask(server, path="/ping").read() == b"Ok.\n"
    assert ask(server).read() == b"Ok.\n"
    assert json.load(ask(server, path="/health"))["ready"] is True
    for database in ("", "default", "esper"):
        assert (
            ask(server, "SELECT count() FROM training_step", database=database).read() == b"1000\n"
        )


def test_settings_and_compression_are_honoured(server: HistoryServer) -> None:
    """A setting in the address holds for its query only.

    Gzip is used when asked for, and a gzipped body is read.
    """
    assert ask(server, "SELECT getSetting('max_threads')", max_threads="3").read() == b"3\n"
    assert ask(server, "SELECT getSetting('max_threads')", max_threads="5").read() == b"5\n"
    response = ask(
        server,
        "SELECT step FROM training_step",
        headers={"Accept-Encoding": "gzip"},
        enable_http_compression="1",
    )
    assert response.headers["Content-Encoding"] == "gzip"
    assert len(gzip.decompress(response.read()).splitlines()) == 1_000
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    headers = bearer(TOKENS[server.port])
    connection.request(
        "POST", "/", gzip.compress(b"SELECT 7"), headers | {"Content-Encoding": "gzip"}
    )
    assert connection.getresponse().read() == b"7\n"
    connection.request(
        "POST",
        "/",
        iter([b"SELECT ", b"8"]),
        headers | {"Transfer-Encoding": "chunked"},
        encode_chunked=True,
    )
    assert connection.getresponse().read() == b"8\n"
    connection.close()


@pytest.mark.parametrize(
    ("sql", "code", "status"),
    [
        ("SELEC 1", 164, 403),
        ("SELECT 1 +", 62, 400),
        ("SELECT * FROM nowhere", 60, 404),
        ("SELECT nonsense", 47, 404),
        ("INSERT INTO raw_training_step VALUES (1)", 164, 403),
        ("SELECT * FROM file('/etc/passwd', 'LineAsString')", 164, 403),
        ("SELECT file('/etc/passwd')", 164, 403),
        ("SELECT * FROM url('http://127.0.0.1:1/x', 'CSV', 'a String')", 164, 403),
        ("SELECT 1 SETTINGS max_threads = 1", 164, 403),
        ("SELECT throwIf(1)", 395, 500),
    ],
)
def test_refusals_are_clickhouses_own(
    server: HistoryServer, sql: str, code: int, status: int
) -> None:
    """A query that is wrong or does more than read gets ClickHouse's exception code in the header
    and a status that is no success.
    """
    with pytest.raises(urllib.error.HTTPError) as caught:
        ask(server, sql)
    with caught.value as error:
        assert (int(error.headers["X-ClickHouse-Exception-Code"]), error.status) == (code, status)
        assert error.read().startswith(b"Code: ")


def test_chdb_itself_refuses_what_the_check_would_miss(engine: Engine, tmp_path: Path) -> None:
    """Behind the check stands ClickHouse's readonly mode: it refuses writes and table functions,
    and no file shows as a table.
    """
    from esper.history.confined.refusal import QueryError  # noqa: PLC0415 - for this claim alone

    file = tmp_path / "secret.csv"
    file.write_text("a\n1\n")
    for sql in (
        "SELECT * FROM file('{}')",
        "DROP TABLE ledger",
        "SET readonly = 0",
        "SELECT * FROM `{}`",
        "DESCRIBE default.`{}`",
    ):
        with pytest.raises(QueryError):
            engine.answer(sql.format(file), default_format="TSV", settings={}, parameters={})


def test_many_readers_and_a_writer_do_not_disturb_each_other(
    server: HistoryServer, engine: Engine
) -> None:
    """While blocks go in, queries from several threads each get a whole answer."""
    wire = current(BY_NAME["SeedHealth"])
    place = layout(wire.id)
    body = framed(wire, example("SeedHealth"))
    wrong: list[object] = []

    def read() -> None:
        for _ in range(15):
            rows = ask(server, "SELECT step FROM training_step ORDER BY step").read().splitlines()
            if len(rows) != 1_000:
                wrong.append(rows)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(10):
        block = container(
            wire.id,
            "busy",
            [
                Received(wire.record.TOPIC, 0, number * 100 + n, b"", body, (), 0)
                for n in range(100)
            ],
        )
        engine.client.raw_insert(
            place.table.name,
            column_names=list(place.columns),
            insert_block=block,
            fmt="Avro",
            settings={"async_insert": 0},
        )
    for thread in threads:
        thread.join()
    assert not wrong
    assert ask(server, "SELECT count() FROM raw_seed_health").read() == b"1000\n"


def test_only_this_machine_by_its_own_names_is_answered(server: HistoryServer) -> None:
    """The server listens on the loopback alone, and a request under another host name (a rebound
    DNS name in a browser) gets nothing.
    """
    with pytest.raises(urllib.error.HTTPError) as caught:
        ask(server, "SELECT 1", headers={"Host": f"evil.example:{server.port}"})
    with caught.value as error:
        assert error.status == 403
    assert ask(server, "SELECT 1", headers={"Host": f"localhost:{server.port}"}).read() == b"1\n"


def test_a_port_in_use_is_one_sentence(engine: Engine, settings: Settings) -> None:
    """The remedy names the variable."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        taken_too = settings.model_copy(
            update={"history": HistorySettings(port=taken.getsockname()[1])}
        )
        with pytest.raises(UnavailableError, match="ESPER_HISTORY__PORT"):
            HistoryServer(
                engine, settings=taken_too, health=lambda: (True, {}), clock=SystemClock()
            )


def test_a_token_is_taken_in_every_way_that_clickhouse_takes_a_password(
    server: HistoryServer, password: str
) -> None:
    """Bearer, Basic, ClickHouse's own headers, parameters in the address; any user name does."""
    basic = base64.b64encode(f"anybody:{password}".encode()).decode()
    for headers in (
        bearer(password),
        {"Authorization": f"Basic {basic}"},
        {"X-ClickHouse-User": "me", "X-ClickHouse-Key": password},
    ):
        assert ask(server, "SELECT 1", headers=headers).read() == b"1\n"
    assert (
        ask(server, "SELECT 1", headers={"No-Token": "1"}, user="me", password=password).read()
        == b"1\n"
    )


def test_curl_and_clickhouse_connect_with_a_token(server: HistoryServer, password: str) -> None:
    """`curl -u me:TOKEN`, and clickhouse-connect with an access token."""
    command = [
        "curl",
        "-sS",
        "-u",
        f"me:{password}",
        f"http://127.0.0.1:{server.port}/?query=SELECT%201",
    ]
    assert subprocess.run(command, capture_output=True, check=True, timeout=600).stdout == b"1\n"
    client = clickhouse_connect.get_client(
        host="127.0.0.1", port=server.port, access_token=password
    )
    assert client.command("SELECT 1") == 1
    client.close()


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize(
    "path",
    [
        "/ping",
        "/replicas_status",
        "/health",
        "/",
        "/anything",
        "/?query=SELECT%201",
        "/?query=DROP%20TABLE%20ledger",
    ],
)
def test_each_path_answers_by_token(
    server: HistoryServer, settings: Settings, path: str, holder: Holder
) -> None:
    """Whether it lives is open.

    Every query, and what is no query, needs a token of any role, or it gets ClickHouse's code 516.
    """
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        for method in ("GET", "POST"):
            connection.request(method, path, headers=credentials(settings, SystemClock(), holder))
            answer = connection.getresponse()
            body = answer.read()
            if path in {"/ping", "/replicas_status"} or (method, path) == ("GET", "/health"):
                assert answer.status == 200
            elif holder in {"viewer", "operator", "admin"}:
                assert answer.status == (403 if "DROP" in path else 200)
                assert b"AUTHENTICATION_FAILED" not in body
            else:
                assert (answer.status, answer.headers["X-ClickHouse-Exception-Code"]) == (
                    401,
                    "516",
                )
                assert body.startswith(b"Code: 516. DB::Exception: default: Authentication failed")
                assert answer.headers["WWW-Authenticate"].startswith("Basic")
    finally:
        connection.close()


def test_a_driver_without_a_token_says_why(server: HistoryServer) -> None:
    """clickhouse-connect raises with the code and the remedy."""
    with pytest.raises(DatabaseError, match="esper token") as caught:
        clickhouse_connect.get_client(
            host="127.0.0.1",
            port=server.port,
            username="me",
            password="nonsense",  # noqa: S106
        )
    assert caught.value.code == 516
