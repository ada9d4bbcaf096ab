"""`esper sql` and `esper runs` on a folder that no process owns."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet
import pytest

from esper.cli import main
from esper.clock import SystemClock
from esper.events.schemas import BY_NAME, current
from esper.history.confined.engine import Engine
from esper.history.confined.query_settings import QueryLimits
from esper.history.tables.container import container, layout
from esper.history.tables.read_positions import SinkLedger
from esper.oona.bus.port import Received
from tests.unit.history.conftest import example, framed

Said = tuple[int, bytes, bytes]
"""Exit code, standard output, standard error."""


class Lent:
    """The module's engine, which whoever borrows it cannot close.

    To begin one of its own for each command would take seconds.
    """

    def __init__(self, engine: Engine) -> None:
        self.answer = engine.answer

    def close(self) -> None:
        """It is still needed."""


@pytest.fixture
def esper(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> Callable[..., Said]:
    """One command line of `esper` on this module's history."""
    assert engine.folder is not None
    monkeypatch.setenv("ESPER_HOME", str(engine.folder.parent))

    def open_engine(folder: Path, dsn: str, limits: QueryLimits) -> Lent:
        assert (folder, dsn, limits) == (engine.folder, "", QueryLimits())
        return Lent(engine)

    monkeypatch.setattr("esper.history.confined.engine.open_engine", open_engine)

    def run(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["esper", *arguments])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsysbinary.readouterr()
        return code, said.out, said.err

    return run


def test_a_result_is_written_in_each_format(esper: Callable[..., Said]) -> None:
    """Table, JSON array, CSV with names and Parquet hold the same rows."""
    query = "SELECT number AS n, toString(number) AS s FROM numbers(3)"
    assert esper("sql", query)[1].split() == b"n s 0 0 1 1 2 2".split()
    assert json.loads(esper("sql", query, "--format", "json")[1]) == [
        {"n": n, "s": str(n)} for n in range(3)
    ]
    assert esper("sql", query, "--format", "csv")[1] == b'"n","s"\n0,"0"\n1,"1"\n2,"2"\n'
    assert (
        pyarrow.parquet.read_table(
            io.BytesIO(esper("sql", query, "--format", "parquet")[1])
        ).num_rows
        == 3
    )
    assert esper("sql", "SELECT 1 AS x FORMAT Vertical")[1].splitlines()[-1].startswith(b"x: 1")
    assert json.loads(esper("sql", "SELECT 1 WHERE 0", "--json")[1]) == []


@pytest.mark.parametrize("form", ["JSON", "JSONCompact", "JSONEachRow", "CSV", "Pretty"])
def test_a_format_of_the_query_goes_out_as_it_is(esper: Callable[..., Said], form: str) -> None:
    """Or, where a list of rows was asked for and it is none, is refused in a sentence."""
    query = f"SELECT number AS n FROM numbers(2) FORMAT {form}"  # noqa: S608  # a case
    code, out, _ = esper("sql", query)
    assert code == 0
    assert b"0" in out
    if form == "JSON":
        assert json.loads(out)["data"] == [{"n": 0}, {"n": 1}]
    code, out, err = esper("sql", query, "--json")
    if form == "JSONEachRow":
        assert json.loads(out) == [{"n": 0}, {"n": 1}]
    else:
        assert (code, out) == (2, b"")
        assert b"leave out FORMAT or --json" in err


def test_a_query_may_begin_with_a_comment(esper: Callable[..., Said]) -> None:
    """It is no option, wherever it stands; a misspelt option still is one."""
    query = "-- how many\nSELECT count() AS n FROM numbers(3)"
    for arguments in ((query, "--json"), ("--json", query), ("--json", "--", query)):
        assert json.loads(esper("sql", *arguments)[1]) == [{"n": 3}]
    code, _, err = esper("sql", "--jsn", "SELECT 1")
    assert (code, b"No such option" in err) == (2, True)
    assert json.loads(esper("sql", "SELECT 1 AS n", "--format=json")[1]) == [{"n": 1}]


def test_without_a_query_tables_and_views_are_listed_with_their_comments(
    esper: Callable[..., Said],
) -> None:
    """The history explains itself: analysts' views first, raw tables last."""
    code, out, _ = esper("sql")
    lines = out.decode().splitlines()
    assert code == 0
    assert (
        next(line for line in lines if line.startswith("seed_timeline "))
        .rstrip()
        .endswith("how long it stayed in each")
    )
    assert [line.startswith("raw") for line in lines[1:]] == sorted(
        line.startswith("raw") for line in lines[1:]
    )


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("SELECT 1 +", b"Syntax error"),
        ("SELECT nonsense FROM training_step", b"Unknown expression identifier `nonsense`"),
        ("SELECT * FROM nowhere", b"Unknown table expression identifier 'nowhere'"),
        ("DROP TABLE ledger", b"readonly mode"),
        ("SELECT * FROM file('/etc/passwd')", b"file is not allowed here"),
        ("SELECT 1 INTO OUTFILE '/tmp/x'", b"INTO OUTFILE is not allowed"),
    ],
)
def test_wrong_sql_is_one_sentence(esper: Callable[..., Said], query: str, says: bytes) -> None:
    """ClickHouse's message shortened to one line, exit code 2, nothing on standard output."""
    code, out, err = esper("sql", query)
    assert (code, out) == (2, b"")
    assert says in err
    assert len(err.strip().splitlines()) == 1
    assert b"version" not in err


def test_runs_are_listed_or_it_is_said_how_to_make_one(
    esper: Callable[..., Said], engine: Engine
) -> None:
    """An empty history is one sentence and exit code 2.

    Then each run is a row, and an object with --json.
    """
    assert esper("runs")[0] == 2
    assert b"`esper run mnist1d`" in esper("runs")[2]
    wire = current(BY_NAME["RunStarted"])
    place = layout(wire.id)
    received = Received(
        wire.record.TOPIC,
        0,
        0,
        b"",
        framed(wire, {**example("RunStarted"), "run_id": "one", "recipe": "mnist1d"}),
        (),
        0,
    )
    engine.client.raw_insert(
        place.table.name,
        column_names=list(place.columns),
        insert_block=container(wire.id, "cli", [received]),
        fmt="Avro",
    )
    assert b"one" in esper("runs")[1]
    [run] = json.loads(esper("runs", "--json")[1])
    assert (run["run_id"], run["recipe"], run["state"]) == ("one", "mnist1d", "RUNNING")


def test_what_may_be_missing_is_said(esper: Callable[..., Said], engine: Engine) -> None:
    """A history that was killed, or ended with messages left on Kafka, says so on standard error.

    One that ended in order says nothing.
    """
    ledger = SinkLedger(engine.client, SystemClock())
    ledger.note(None)
    assert b"was not ended in order" in esper("sql", "SELECT 1")[2]
    ledger.note(12)
    assert b"Up to 12 messages are still on Kafka" in esper("sql", "SELECT 1")[2]
    ledger.note(0)
    assert esper("sql", "SELECT 1")[2] == b""


def test_without_a_history_it_is_said_how_to_make_one(
    esper: Callable[..., Said], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No folder is made by asking."""
    monkeypatch.setenv("ESPER_HOME", str(tmp_path))
    for command in (("sql", "SELECT 1"), ("runs",)):
        code, _, err = esper(*command)
        assert code == 2
        assert err.startswith(b"esper: There is no history in")
    assert not list(tmp_path.iterdir())
