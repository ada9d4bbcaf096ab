"""Refuses every query that does more than read the history.

ClickHouse's own `readonly = 1` refuses writes, settings and almost all table functions, but in chDB not `INTO OUTFILE`, the function `file()`,
`DESCRIBE` of a table function, `KILL`, `USE` nor a second statement, so what a query may say is also checked here, on its tokens.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from esper.history.engine import QueryError

_FIRST: Final = frozenset({"SELECT", "WITH", "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "EXISTS", "FROM", "VALUES", "("})
_TABLE_FUNCTIONS: Final = frozenset(
    {"numbers", "numbers_mt", "zeros", "zeros_mt", "values", "view", "viewexplain", "merge", "null", "format", "generaterandom"}
    | {"generateseries", "generate_series", "primes", "viewifpermitted"}
)
"""Table functions that read nothing but this history or what the query itself says."""

_OUTSIDE: Final = re.compile(
    r"^(file|python|executable|url|input|eval|loop|jdbc|odbc|redis|sqlite|mysql|mongodb|postgresql|bigquery|arrowstream|dictionary|filesystem"
    r"|oss|gcs|cosn|fuzz.*|s3.*|hdfs.*|azure.*|iceberg.*|delta.*|hudi.*|paimon.*|ytsaurus.*|remote.*|cluster.*|.*cluster|prometheus.*"
    r"|mergetree.*|timeseries(selector|tags|samples|data|metrics|metricfamilies)|ai(redact|similarity|filter|classify|embed|extract|generate|translate)"
    r"|catboostevaluate|reversednsquery|sleep|sleepeachrow)$"
)
"""Table functions and functions that reach outside, or that only hold things up. Those of a newer ClickHouse `readonly = 1` refuses."""

_SIGNS: Final = frozenset("()[]{},.;:+-*/%=<>!?|&^@")
"""Signs that mean the same here and in ClickHouse's lexer. A `$` may begin a heredoc, and typographic quotes are quotes there."""

_READONLY: Final = 164

_TOKEN: Final = re.compile(
    r"""(?P<space>\s+|--[^\n]*|\#[!\ ][^\n]*|/\*.*?\*/)
    |(?P<string>'(?:[^'\\]|\\.|'')*')
    |(?P<quoted>"(?:[^"\\]|\\.|"")*"|`(?:[^`\\]|\\.|``)*`)
    |(?P<word>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<number>[0-9][A-Za-z0-9_.]*)
    |(?P<sign>.)""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Token:
    """A word, quoted identifier, string or sign. `text` is without quotes."""

    kind: str
    text: str

    def is_word(self, *words: str) -> bool:
        """Whether it is one of these keywords, given in capitals."""
        return self.kind == "word" and self.text.upper() in words


@dataclass(frozen=True, slots=True)
class Checked:
    """A query that may be run. `format` is what its FORMAT clause says, or None."""

    sql: str
    format: str | None


def tokens(sql: str) -> Iterator[Token]:
    """The tokens of a query without space and comments, bounded as ClickHouse's lexer bounds them. Raises QueryError where it may differ."""
    for match in _TOKEN.finditer(sql):
        kind = match.lastgroup or ""
        text = match.group()
        if kind == "space":
            if "/*" in text[2:]:
                raise _refused("a comment inside a comment is not allowed")
            continue
        yield Token("word" if kind == "quoted" else kind, text[1:-1] if kind in {"quoted", "string"} else text)


def check(sql: str) -> Checked:
    """The query, if it only reads.

    Raises:
        QueryError: it does not, with ClickHouse's code 164 (READONLY), or 62 if it is empty or more than one statement.
    """
    found = list(tokens(sql))
    while found and found[-1] == Token("sign", ";"):
        found.pop()
    if not found:
        raise QueryError(62, "Code: 62. DB::Exception: Empty query. (SYNTAX_ERROR)")
    if any(token == Token("sign", ";") for token in found):
        raise QueryError(62, "Code: 62. DB::Exception: Multi-statements are not allowed. (SYNTAX_ERROR)")
    if found[0].text.upper() not in _FIRST:
        raise _refused(f"{found[0].text.upper()[:30]} is not allowed")
    for before, token, after in zip([Token("", ""), *found], found, [*found[1:], Token("", "")], strict=False):
        name = token.text.lower()
        if token == after == Token("sign", "/"):
            raise _refused("// is not allowed; write -- before a comment")
        if token.kind == "string" and "\\" in token.text and before.is_word("X", "B"):
            raise _refused("a backslash in a hexadecimal or binary literal is not allowed")
        if token.kind == "sign" and token.text not in _SIGNS:
            raise _refused(f"the character {token.text!r} is not allowed outside of quotes")
        if token.kind != "word":
            continue
        if token.is_word("INTO") and after.is_word("OUTFILE"):
            raise _refused("INTO OUTFILE is not allowed")
        if "\\" in token.text or (name == "file" and before != Token("sign", ".")):
            raise _refused(f"{token.text[:30]} is not allowed here")
        called = after == Token("sign", "(") or before.is_word("APPLY")
        if called and name not in _TABLE_FUNCTIONS and _OUTSIDE.match(name):
            raise _refused(f"the function {token.text[:30]} reaches outside the history and is not allowed")
    return Checked(sql, _format(found))


def _format(found: list[Token]) -> str | None:
    """What the last FORMAT clause of the outermost query says."""
    depth, last = 0, None
    for token, after in itertools.pairwise(found):
        depth += (token.text == "(") - (token.text == ")") if token.kind == "sign" else 0
        if depth == 0 and token.is_word("FORMAT") and after.kind == "word":
            last = after.text
    return last


def _refused(reason: str) -> QueryError:
    return QueryError(_READONLY, f"Code: {_READONLY}. DB::Exception: Cannot execute query in readonly mode: {reason}. (READONLY)")
