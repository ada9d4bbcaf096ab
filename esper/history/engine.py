"""Opens the history: chDB in a folder that this process then owns, or a ClickHouse server. The one module that imports their clients."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import clickhouse_connect
from clickhouse_connect.driver.exceptions import ClickHouseError

from esper.errors import UnavailableError

DATABASE: Final = "esper"

CLICKHOUSE_ERRORS: Final = (ClickHouseError,)
"""What clickhouse-connect raises."""

_LIMITS: Final = {"max_execution_time": "60", "max_memory_usage": str(2 << 30)}


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of a read-only query: its bytes in the format asked for, and what it took to get them."""

    body: bytes
    read_rows: int = 0
    read_bytes: int = 0
    elapsed_ns: int = 0


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
        return cls(int(digits) if digits.isdigit() else 1002, text)


class Engine:
    """An open history. `client` is a clickhouse-connect client for the one that writes; `answer` is for readers, from any thread."""

    def __init__(self, client: Any, folder: Path | None, dsn: str) -> None:
        self.client = client
        self.folder = folder
        self._dsn = dsn

    def answer(self, sql: str, *, default_format: str, settings: Mapping[str, str], parameters: Mapping[str, str]) -> Answer:
        """Run a query that can only read.

        Raises:
            QueryError: ClickHouse refuses it.
        """
        allowed = {**settings, **_LIMITS} if self.folder else dict(settings)
        try:
            if self.folder:
                return self._from_chdb(sql, default_format, allowed, parameters)
            return self._from_server(sql, default_format, allowed, parameters)
        except (*CLICKHOUSE_ERRORS, RuntimeError, _chdb_error()) as error:
            raise QueryError.of(error) from error

    def _from_chdb(self, sql: str, default_format: str, settings: Mapping[str, str], parameters: Mapping[str, str]) -> Answer:
        """A handle of its own for each query: state set on a handle stays there, and one handle runs one query at a time."""
        import chdb  # noqa: PLC0415 - half a gigabyte of library, which a client of a server does not need

        handle = chdb.connect(str(self.folder))
        try:
            handle.query(f"USE {DATABASE}")
            for name, value in settings.items():
                escaped = value.replace("\\", "\\\\").replace("'", "\\'")
                handle.query(f"SET `{name.replace('`', '')}` = '{escaped}'")
            handle.query("SET readonly = 1")
            result = handle.query(sql, default_format, params=dict(parameters))
            return Answer(result.bytes() or b"", result.rows_read(), result.bytes_read(), int(result.elapsed() * 1e9))
        finally:
            handle.close()

    def _from_server(self, sql: str, default_format: str, settings: Mapping[str, str], parameters: Mapping[str, str]) -> Answer:
        client = clickhouse_connect.get_client(dsn=self._dsn)
        try:
            body = client.raw_query(
                sql,
                parameters=dict(parameters),
                settings={**settings, "readonly": "1"},
                transport_settings={"X-ClickHouse-Format": default_format},
            )
        finally:
            client.close()
        return Answer(body)

    def close(self) -> None:
        """Give the folder free."""
        self.client.close()


def _chdb_error() -> type[Exception]:
    from chdb import ChdbError  # noqa: PLC0415 - as above

    found: type[Exception] = ChdbError
    return found


def open_engine(folder: Path, dsn: str) -> Engine:
    """Open the ClickHouse server that `dsn` names or, if it is empty, chDB in `folder`.

    Raises:
        UnavailableError: another process owns the folder, or the server does not answer.
    """
    return _open_server(dsn) if dsn else _open_folder(folder)


def _open_folder(folder: Path) -> Engine:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        client = clickhouse_connect.get_client(interface="chdb", path=str(folder.resolve()))
    except (*CLICKHOUSE_ERRORS, RuntimeError, OSError) as error:
        if (owner := _owner(folder)) is not None:
            raise UnavailableError(
                f"The history in {folder} is open in another process{owner}; ask that one over HTTP, or end it with `esper down`."
            ) from error
        raise UnavailableError(f"The history in {folder} cannot be opened: {error}; move the folder away to begin a new one.") from error
    client.command("DROP DATABASE IF EXISTS default")  # chDB's shows the files of this machine as tables
    client.command("CREATE DATABASE IF NOT EXISTS default ENGINE = Atomic")
    client.command(f"CREATE DATABASE IF NOT EXISTS {DATABASE}")
    client.database = DATABASE
    return Engine(client, folder, "")


def _owner(folder: Path) -> str | None:
    """How to name the process that holds the folder's lock; None if none does."""
    status = folder / "status"
    with suppress(OSError):
        descriptor = os.open(status, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            words = dict(line.partition(":")[::2] for line in status.read_text(errors="replace").splitlines())
            return f" ({words['PID'].strip()})" if "PID" in words else ""
        finally:
            os.close(descriptor)
    return None


def _open_server(dsn: str) -> Engine:
    try:
        client = clickhouse_connect.get_client(dsn=dsn)
    except CLICKHOUSE_ERRORS as error:
        raise UnavailableError(
            f"The ClickHouse server of ESPER_HISTORY__DSN does not answer ({QueryError.of(error)}); mend the address or start it."
        ) from error
    return Engine(client, None, dsn)
