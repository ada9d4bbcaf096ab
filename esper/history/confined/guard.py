"""Refuses every query that does more than read the history.

ClickHouse's own `readonly = 1` refuses writes, settings and almost all table functions, but in chDB
not `INTO OUTFILE`, the function `file()`, `DESCRIBE` of a table function, `KILL`, `USE` nor a
second statement, so what a query may say is also checked here, on its tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from esper.history.confined.refusal import SYNTAX, read_only, refused

MOST_BYTES: Final = 256 << 10
"""The longest query, as ClickHouse's own `max_query_size` has it."""

_FIRST: Final = frozenset(
    {"SELECT", "WITH", "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "EXISTS", "FROM", "VALUES", "("}
)
_TABLE_FUNCTIONS: Final = frozenset(
    {
        "numbers",
        "numbers_mt",
        "zeros",
        "zeros_mt",
        "values",
        "view",
        "viewexplain",
        "merge",
        "null",
        "format",
        "generaterandom",
    }
    | {"generateseries", "generate_series", "primes", "viewifpermitted"}
)
"""Table functions that read nothing but this history or what the query itself says."""

_OUTSIDE: Final = re.compile(
    r"^(file|python|executable|url|input|eval|loop|jdbc|odbc|redis|sqlite|mysql|mongodb|postgresql|bigquery|arrowstream|dictionary|filesystem"
    r"|oss|gcs|cosn|fuzz.*|s3.*|hdfs.*|azure.*|iceberg.*|delta.*|hudi.*|paimon.*|ytsaurus.*|remote.*|cluster.*|.*cluster|prometheus.*"
    r"|mergetree.*|timeseries(selector|tags|samples|data|metrics|metricfamilies)|ai(redact|similarity|filter|classify|embed|extract|generate|translate)"
    r"|catboostevaluate|reversednsquery|sleep|sleepeachrow)$"
)
"""Table functions and functions that reach outside, or that only hold things up.

Those of a newer ClickHouse `readonly = 1` refuses.
"""

_SIGNS: Final = frozenset("()[]{},.;:+-*/%=<>!?|&^@")
"""Signs that mean the same here and in ClickHouse's lexer.

A `$` may begin a heredoc, and typographic quotes are quotes there.
"""

_TOKEN: Final = re.compile(
    r"""(?P<space>\s+|--[^\n]*|\#[!\ ][^\n]*|/\*.*?\*/)
    |(?P<string>'(?:[^'\\]|\\.|'')*+')
    |(?P<quoted>"(?:[^"\\]|\\.|"")*+"|`(?:[^`\\]|\\.|``)*+`)
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
    """The tokens of a query without space and comments, bounded as ClickHouse's lexer bounds them.

    Raises QueryError where it may differ.

    What begins and does not end (a comment, a quote) is refused where it begins: to read on behind
    it would read the rest once for each.
    """
    for match in _TOKEN.finditer(sql):
        kind = match.lastgroup or ""
        text = match.group()
        if kind == "space":
            # ClickHouse nests comments and this lexer does not: what one takes for a comment would
            # be a query to the other.
            if "/*" in text[2:]:
                raise read_only("a comment inside a comment is not allowed")
            continue
        if kind == "sign":
            # Whatever this lexer does not know is refused: it must never see less than ClickHouse
            # does.
            if text not in _SIGNS:
                raise read_only(f"the character {text!r} is not allowed outside of quotes")
            if text == "/" and sql.startswith(("*", "/"), match.end()):
                raise read_only(
                    "// and a comment without an end are not allowed; write -- before a comment"
                )
        yield Token(
            "word" if kind == "quoted" else kind,
            text[1:-1] if kind in {"quoted", "string"} else text,
        )


def check(sql: str) -> Checked:
    """The query, if it only reads.

    Raises:
        QueryError: it does not, with ClickHouse's code 164 (READONLY), or 62 if it is empty or more
            than one statement.
    """
    # Before the expression runs over it: its cost grows with the length.
    if len(sql.encode(errors="surrogatepass")) > MOST_BYTES:
        raise refused(SYNTAX, f"Max query size exceeded: a query has at most {MOST_BYTES} bytes.")
    lexed = list(tokens(sql))
    while lexed and lexed[-1] == Token("sign", ";"):
        lexed.pop()
    if not lexed:
        raise refused(SYNTAX, "Empty query.")
    # ClickHouse would run them one after the other, and only the first was looked at.
    if any(token == Token("sign", ";") for token in lexed):
        raise refused(SYNTAX, "Multi-statements are not allowed.")
    if lexed[0].text.upper() not in _FIRST:
        raise read_only(f"{lexed[0].text.upper()[:30]} is not allowed")
    for before, token, after in zip(
        [Token("", ""), *lexed], lexed, [*lexed[1:], Token("", "")], strict=False
    ):
        name = token.text.lower()
        if token.kind == "string" and "\\" in token.text and before.is_word("X", "B"):
            raise read_only("a backslash in a hexadecimal or binary literal is not allowed")
        if token.kind != "word":
            continue
        if token.is_word("INTO") and after.is_word("OUTFILE"):
            raise read_only("INTO OUTFILE is not allowed")
        # ClickHouse undoes escapes in quoted names, this lexer does not: the name may be another
        if "\\" in token.text or (name == "file" and before != Token("sign", ".")):
            raise read_only(f"{token.text[:30]} is not allowed here")
        # APPLY calls a function by its bare name
        called = after == Token("sign", "(") or before.is_word("APPLY")
        if called and name not in _TABLE_FUNCTIONS and _OUTSIDE.match(name):
            raise read_only(
                f"the function {token.text[:30]} reaches outside the history and is not allowed"
            )
    return Checked(sql, _format(lexed))


def _format(lexed: list[Token]) -> str | None:
    """What the FORMAT clause of the outermost query says, which stands at its end or before
    SETTINGS.
    """
    depth, last = 0, None
    for token, name, after in zip(lexed, lexed[1:], [*lexed[2:], Token("", "")], strict=False):
        depth += (token.text == "(") - (token.text == ")") if token.kind == "sign" else 0
        if (
            depth == 0
            and token.is_word("FORMAT")
            and name.kind == "word"
            and (not after.kind or after.is_word("SETTINGS"))
        ):
            last = name.text
    return last
