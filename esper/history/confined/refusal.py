"""What ClickHouse, or this history in its place, answers to a query that it does not run."""

from __future__ import annotations

from typing import Final

READONLY: Final = 164
SYNTAX: Final = 62
BAD_ARGUMENTS: Final = 36
TIMEOUT: Final = 159
TOO_MANY_QUERIES: Final = 202
NETWORK: Final = 210
MEMORY_LIMIT: Final = 241
AUTHENTICATION_FAILED: Final = 516
UNKNOWN: Final = 1002

_NAMES: Final = {
    READONLY: "READONLY",
    SYNTAX: "SYNTAX_ERROR",
    BAD_ARGUMENTS: "BAD_ARGUMENTS",
    TIMEOUT: "TIMEOUT_EXCEEDED",
    TOO_MANY_QUERIES: "TOO_MANY_SIMULTANEOUS_QUERIES",
    NETWORK: "NETWORK_ERROR",
    AUTHENTICATION_FAILED: "AUTHENTICATION_FAILED",
}


class QueryError(Exception):
    """ClickHouse refuses a query. `code` is its exception code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code

    @classmethod
    def of(cls, error: Exception) -> QueryError:
        """The refusal in an exception of a client."""
        text = str(error)
        text = text[max(text.find("Code: "), 0) :].strip()
        digits = text.removeprefix("Code: ").partition(".")[0]
        return cls(int(digits) if digits.isdecimal() else UNKNOWN, text)


def refused(code: int, reason: str) -> QueryError:
    """A refusal of this history's own, in ClickHouse's form."""
    return QueryError(code, f"Code: {code}. DB::Exception: {reason} ({_NAMES[code]})")


def read_only(reason: str) -> QueryError:
    """The refusal of what does more than read."""
    return refused(READONLY, f"Cannot execute query in readonly mode: {reason}.")
