"""What a query may say."""

from __future__ import annotations

import pytest

from esper.history.confined.guard import check
from esper.history.confined.refusal import QueryError

ALLOWED = [
    "SELECT 1",
    "select count() from events where reason = 'INTO OUTFILE file(x)'; -- file('/etc/passwd')",
    "WITH 1 AS x SELECT x",
    "SHOW TABLES",
    "DESCRIBE runs",
    "EXPLAIN SELECT 1",
    "EXISTS TABLE runs",
    "(SELECT 1) UNION ALL (SELECT 2)",
    "SELECT * FROM numbers(3)",
    "SELECT url, `file name` FROM (SELECT 'a' AS url, 'b' AS \"file name\")",
    "/* a comment */ SELECT 1 # another\n + 2",
]

REFUSED = [
    "INSERT INTO runs VALUES (1)",
    "DROP TABLE raw_training_step",
    "ALTER TABLE raw_training_step DELETE WHERE 1",
    "SET readonly = 0",
    "USE system",
    "KILL QUERY WHERE 1",
    "SYSTEM FLUSH LOGS",
    "SELECT 1; DROP TABLE runs",
    "SELECT * FROM file('/etc/passwd', 'CSV')",
    "SELECT * FROM FILE('/etc/passwd', 'CSV')",
    "SELECT * FROM `file`('/etc/passwd', 'CSV')",
    "SELECT * FROM \"fi\\x6ce\"('/etc/passwd')",
    "SELECT file('/etc/passwd')",
    "SELECT arrayMap(file, ['/etc/passwd'])",
    "SELECT * APPLY file FROM (SELECT '/etc/passwd')",
    "SELECT * APPLY(file) FROM (SELECT '/etc/passwd')",
    "DESCRIBE file('/etc/passwd')",
    "SELECT * FROM url('http://127.0.0.1/')",
    "DESCRIBE url('http://127.0.0.1/')",
    "SELECT * FROM s3('http://127.0.0.1/b/x')",
    "SELECT * FROM remote('127.0.0.1', system.one)",
    "SELECT * FROM executable('ls', 'TSV', 'a String')",
    "SELECT * FROM python(x)",
    "SELECT 1 INTO OUTFILE '/tmp/x'",
    "SELECT 1 INTO/**/OUTFILE '/tmp/x'",
    "SELECT 1 // ' \n INTO OUTFILE '/tmp/x' // '",
    "SELECT 1 /* /* */ ' */ INTO OUTFILE '/tmp/x' -- '",
    "SELECT \u2018 ' \u2019 INTO OUTFILE '/tmp/x' -- '",
    "SELECT 1 AS a$b$, 2 INTO OUTFILE '/tmp/x' -- $b$",
    "SELECT x'61\\' INTO OUTFILE '/tmp/x' -- '",
    "SELECT 'open INTO OUTFILE",
    "",
    " ; ",
]


@pytest.mark.parametrize("sql", ALLOWED)
def test_reading_is_allowed(sql: str) -> None:
    """A query that only reads passes, whatever its strings, comments and column names say."""
    assert check(sql).sql == sql


@pytest.mark.parametrize("sql", REFUSED)
def test_anything_else_is_refused(sql: str) -> None:
    """Writes, settings, second statements, files, addresses, and every way of hiding them from this
    check, are refused before ClickHouse sees them.
    """
    with pytest.raises(QueryError) as caught:
        check(sql)
    assert caught.value.code in {62, 164}


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        ("SELECT 1 FORMAT JSON", "JSON"),
        ("SELECT 1 format CSVWithNames;", "CSVWithNames"),
        ("SELECT 1 FORMAT JSONEachRow SETTINGS max_threads = 1", "JSONEachRow"),
        ("SELECT format('{}', 'x')", None),
        ("SELECT 'FORMAT JSON'", None),
    ],
)
def test_the_format_clause_is_found(sql: str, found: str | None) -> None:
    """The answer's format is the query's own FORMAT clause, not a function or a text of
    that name.
    """
    assert check(sql).format == found
