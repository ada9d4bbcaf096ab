"""Queries and settings from a seeded grammar, against guard, settings and engine as a viewer's
request meets them.

Expected outcome: each is a result or one clean refusal, the engine's process lives, its memory is
bounded, and nothing outside is read or written. `ESPER_FUZZ=100000` runs the full length;
`ESPER_FUZZ_SEED` another seed.
"""

# ruff: noqa: S311, S608 - a seeded generator is what repeats; the statements are the attacks
from __future__ import annotations

import os
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlencode

import pytest
from starlette.datastructures import Headers

from esper.history.confined.query_settings import NAMES, QueryLimits
from esper.history.confined.refusal import QueryError
from esper.history.http import _failure
from tests.attacks.history_victim import MARK, Victim, victim

SHORT = 2_000
MEMORY = 3 << 30
"""What this process and the engine's may hold together, bytes."""

TABLES = (
    "training_step",
    "raw_training_step",
    "runs",
    "events",
    "seed_timeline",
    "decisions",
    "system.one",
    "system.tables",
    "numbers(10)",
    "ledger",
)
COLUMNS = (
    "run_id",
    "step",
    "loss",
    "occurred_at",
    "event_id",
    "number",
    "x",
    "*",
    "name",
    "1",
    "'a'",
    "NULL",
    "[1, 2]",
    "(1, 'b')",
    "{p:String}",
    "{q:Identifier}",
)
FUNCTIONS = (
    *(
        "count",
        "sum",
        "any",
        "groupArray",
        "toString",
        "length",
        "arrayMap",
        "file",
        "url",
        "sleep",
        "hex",
        "repeat",
        "range",
        "cast",
        "tuple",
        "now",
        "rand",
    ),
    *(
        "dictGet",
        "getSetting",
        "hostName",
        "currentUser",
        "evalMLMethod",
        "joinGet",
        "throwIf",
        "formatReadableSize",
        "JSONExtract",
        "extractAll",
        "match",
    ),
    *(
        "replaceRegexpAll",
        "toDateTime64",
        "materialize",
        "ignore",
        "identity",
        "addressToSymbol",
        "demangle",
        "initializeAggregation",
        "hasColumnInTable",
    ),
)
SOURCES = (
    "file",
    "url",
    "s3",
    "remote",
    "python",
    "executable",
    "merge",
    "format",
    "values",
    "view",
    "generateRandom",
    "zeros",
    "input",
    "sqlite",
    "loop",
    "null",
)
STATEMENTS = (
    "SELECT",
    "WITH 1 AS w SELECT",
    "EXPLAIN SELECT",
    "DESCRIBE",
    "SHOW",
    "INSERT INTO",
    "CREATE TABLE evil AS",
    "DROP TABLE",
    "SET",
    "SYSTEM",
    "KILL QUERY WHERE",
    "ATTACH",
    "BACKUP",
    "EXISTS",
)
CLAUSES = (
    "WHERE",
    "PREWHERE",
    "GROUP BY",
    "ORDER BY",
    "HAVING",
    "LIMIT 3 BY",
    "LIMIT",
    "UNION ALL SELECT",
    "INTO OUTFILE",
    "FORMAT",
    "SETTINGS",
    "SAMPLE",
    "ARRAY JOIN",
    "QUALIFY",
    "WINDOW w AS ()",
)
FORMATS = (
    "JSON",
    "CSV",
    "Native",
    "Parquet",
    "Template",
    "Protobuf",
    "CapnProto",
    "Avro",
    "ArrowStream",
    "Pretty",
    "Null",
    "DataFrame",
    "Npy",
    "ORC",
    "x`y",
    "MySQLWire",
    "RawBLOB",
    "PNG",
)
NOISE = (
    "/*",
    "*/",
    "--",
    "\\",
    "`",
    "'",
    '"',
    "$$",
    "\0",
    "\u2018",
    "\x1a",
    "{",
    "}",
    "//",
    "#!",
    ";",
    "é",
    "\n",
    "()",
    "[[",
    "?",
    "::",
    "->",
    "@@",
    "\u00a0",
    "x'\\'",
)


INFIX = (
    *("+", "-", "*", "/", "%", "=", "<", "AND", "OR", "IN", "LIKE", "||"),
    *("BETWEEN 1 AND", ".", "AS", "::"),
)


def expression(rng: random.Random, depth: int, secret: str) -> str:
    """An expression, which may be nonsense."""
    if depth <= 0 or rng.random() < 0.35:
        return rng.choice(
            (*COLUMNS, f"'{secret}'", str(rng.choice((0, 1, -1, 2**31, 2**63, 2**64, 1e308, 0.5))))
        )
    inner = [expression(rng, depth - 1, secret) for _ in range(rng.randrange(1, 4))]
    kind = rng.randrange(6)
    if kind == 0:
        return f"({inner[0]} {rng.choice(INFIX)} {inner[-1]})"
    if kind == 1:
        return f"(SELECT {inner[0]} FROM {source(rng, depth - 1, secret)})"
    if kind == 2:
        return f"[{', '.join(inner)}]"
    if kind == 3:
        return f"{rng.choice(FUNCTIONS)}(x -> {inner[0]}, {inner[-1]})"
    return f"{rng.choice(FUNCTIONS)}({', '.join(inner)})"


def source(rng: random.Random, depth: int, secret: str) -> str:
    """What a query reads from."""
    if depth > 0 and rng.random() < 0.2:
        return (
            f"(SELECT {expression(rng, depth - 1, secret)} FROM {source(rng, depth - 1, secret)})"
        )
    if rng.random() < 0.25:
        return (
            f"{rng.choice(SOURCES)}('{secret}', {rng.choice(('LineAsString', 'CSV', 'RawBLOB'))})"
        )
    return rng.choice((*TABLES, f"`{secret}`"))


TAME = (
    "toString",
    "length",
    "hex",
    "tuple",
    "array",
    "toUInt64OrZero",
    "cityHash64",
    "upper",
    "isNull",
    "toTypeName",
    "count",
    "sum",
    "any",
    "groupArray",
    "max",
    "uniq",
)


def tame(rng: random.Random, depth: int) -> str:
    """An expression over `number` that ClickHouse mostly takes."""
    if depth <= 0 or rng.random() < 0.3:
        return rng.choice(
            (
                "number",
                "1",
                "'a'",
                "-1",
                "NULL",
                "now()",
                "[1, 2]",
                "{p:String}",
                "number * 1e300",
                "toString(number)",
            )
        )
    first, last = tame(rng, depth - 1), tame(rng, depth - 1)
    shapes = (
        f"if(number > 1, {first}, {first})",
        f"arrayMap(x -> ({first}, x), range(number % 5))",
        f"[{first}, {first}]",
        f"({first}, {last})",
        f"repeat(toString({first}), 3)",
    )
    return rng.choice((*shapes, *(f"{name}({first})" for name in rng.sample(TAME, 4))))


def tame_query(rng: random.Random) -> str:
    """A query that mostly succeeds, so that formats, limits and the ways behind the engine are met
    as well.
    """
    text = (
        f"SELECT {', '.join(tame(rng, 3) for _ in range(rng.randrange(1, 4)))} FROM "
        f"numbers({rng.choice((0, 1, 10, 1000, 10**6, 10**12))})"
    )
    return text + rng.choice(
        (
            "",
            " LIMIT 3",
            " LIMIT 1000",
            " GROUP BY ALL",
            " ORDER BY 1 LIMIT 5",
            f" FORMAT {rng.choice(FORMATS)}",
            f" WHERE {tame(rng, 2)} LIMIT 2",
        )
    )


def query(rng: random.Random, secret: str) -> str:
    """A query; one in four has something broken in it."""
    if rng.random() < 0.4:
        return tame_query(rng)
    text = (
        f"{rng.choices(STATEMENTS, (20, *(1,) * (len(STATEMENTS) - 1)))[0]} "
        f"{expression(rng, 3, secret)} FROM {source(rng, 2, secret)}"
    )
    for _ in range(rng.choice((0, 0, 1, 2))):
        clause = rng.choice(CLAUSES)
        tail = (
            rng.choice(FORMATS)
            if clause == "FORMAT"
            else f"'{secret}'"
            if "OUTFILE" in clause
            else expression(rng, 2, secret)
        )
        text += f" {clause} {tail}"
    if rng.random() < 0.25:
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(text) + 1)
            text = text[:at] + rng.choice(NOISE) + text[at + rng.randrange(3) :]
    return text


def parameters(rng: random.Random, unlisted: Sequence[str], secret: str) -> dict[str, str]:
    """What stands in the address besides the query."""
    values = (
        "0",
        "1",
        "true",
        "7",
        "99999999999999999999",
        "-1",
        "",
        "'",
        "` = 1",
        secret,
        "throw",
        "break",
        "auto",
        "iso",
        "zstd",
        "\0",
        "é",
    )
    found = {}
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        name = rng.choice(
            (
                rng.choice(sorted(NAMES)),
                rng.choice(unlisted),
                "param_p",
                "param_q",
                f"param_{rng.choice(NOISE)}",
                f"{rng.choice(NOISE)}max_threads",
            )
        )
        found[name] = rng.choice(values)
    if rng.random() < 0.5:
        found |= {
            "param_p": rng.choice(values),
            "param_q": rng.choice(("number", "`", secret, "x.y")),
        }
    for name, choices in (
        ("default_format", FORMATS),
        ("client_protocol_version", ("54460", "x")),
        ("compress", ("1", "0")),
        ("query_id", ("a", "\r\nb")),
    ):
        if rng.random() < 0.1:
            found[name] = rng.choice(choices)
    return found


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    """A history whose queries have little time and memory, so that a hundred thousand of
    them end.
    """
    with victim(
        tmp_path_factory.mktemp("fuzzed"),
        QueryLimits(seconds=1, memory=256 << 20, rows=100_000, result=16 << 20),
    ) as made:
        yield made


@pytest.mark.timeout(7_200)
def test_queries_and_settings_of_a_grammar(target: Victim, tmp_path: Path) -> None:
    """Every answer is a result or a refusal with ClickHouse's code.

    The process is the one that began; memory and files are as they may be.
    """
    count, seed = (
        int(os.environ.get("ESPER_FUZZ", str(SHORT))),
        int(os.environ.get("ESPER_FUZZ_SEED", "11")),
    )
    rng = random.Random(seed)
    pid, most = target.engine.pid, 0
    unlisted = [
        row[0]
        for row in target.engine.query("SELECT name FROM system.settings ORDER BY name").result_rows
    ]
    secrets = [
        *map(str, target.secrets),
        "/etc/passwd",
        "../../keys/stolen.pem",
        f"http://127.0.0.1:{target.port}/ping",
        str(tmp_path / "x"),
    ]
    outcomes: Counter[int] = Counter()
    for number in range(count):
        secret = rng.choice(secrets)
        text, given = query(rng, secret), parameters(rng, unlisted, secret)
        try:
            answer = target.server._answered(urlencode(given).encode(), Headers(), text.encode())
        except QueryError as error:
            answer = _failure(error)
        body = bytes(answer.body)
        outcomes[answer.status_code] += 1
        assert 200 <= answer.status_code < 600
        assert (
            answer.status_code == 200
            or 0 < int(answer.headers["x-clickhouse-exception-code"]) < 2_000
        )
        assert MARK.encode() not in body, (number, text, given)
        assert b"root:x" not in body, (number, text, given)
        assert target.engine.pid == pid, (number, text, given)
        if number % 100 == 0:
            most = max(most, target.memory())
            assert most < MEMORY, (number, text, given)
    assert target.engine.query("SELECT 1").result_rows == [(1,)]
    assert target.engine.pid == pid
    assert outcomes[200] > count / 20, outcomes
    assert not list(tmp_path.iterdir())
    target.unharmed()
    sys.stdout.write(
        f"seed {seed}: {count} queries, at most {most / 2**20:.0f} MiB in both processes, "
        f"answers by status {dict(outcomes)}\n"
    )
