"""Opens the history: chDB in a process of its own that owns a folder, or a ClickHouse server."""

from __future__ import annotations

import fcntl
import json
import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import clickhouse_connect
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError

from esper.disk import make_folder
from esper.errors import UnavailableError
from esper.history.confined import cell
from esper.history.confined.confinement import Confinement
from esper.history.confined.query_settings import QueryLimits, Value, checked_parameters, typed
from esper.history.confined.refusal import NETWORK, TIMEOUT, QueryError, refused

DATABASE: Final = cell.DATABASE

CLICKHOUSE_ERRORS: Final = (ClickHouseError,)
"""What a writer's client raises where ClickHouse refuses."""

_READERS: Final = 4
_GRACE_S: Final = 15.0  # beyond a query's own time; then chDB does not heed it, and is ended
_START_S: Final = 120.0
_WRITE_S: Final = 900.0
_MOST_ANSWER: Final = 2 << 30
_KEPT: Final = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH")
"""What chDB's process has of the environment.

The rest may hold secrets, and a process can read its own.
"""


@dataclass(frozen=True, slots=True)
class QueryResult:
    """The result of a read-only query: its bytes in the format asked for, and what it took to get
    them.
    """

    body: bytes
    read_rows: int = 0
    read_bytes: int = 0
    elapsed_ns: int = 0


@dataclass(frozen=True, slots=True)
class ResultRows:
    """The rows of a query of the writer."""

    result_rows: list[tuple[Any, ...]]


class Writer(ABC):
    """For the one that writes.

    Raises one of CLICKHOUSE_ERRORS where ClickHouse refuses, UnavailableError where the engine is
    away.
    """

    @abstractmethod
    def command(self, sql: str) -> None:
        """Run a statement without result."""

    @abstractmethod
    def query(self, sql: str) -> ResultRows:
        """Run a query of numbers and texts."""

    @abstractmethod
    def insert(
        self,
        table: str,
        rows: Sequence[Sequence[Any]],
        *,
        column_names: Sequence[str],
        settings: Mapping[str, Value] | None = None,
    ) -> None:
        """Insert a few rows; times are integers in the column's unit."""

    @abstractmethod
    def raw_insert(
        self,
        table: str,
        *,
        column_names: Sequence[str],
        insert_block: bytes,
        fmt: str,
        settings: Mapping[str, Value] | None = None,
    ) -> None:
        """Insert a block that is in one of ClickHouse's formats."""


class Engine(ABC):
    """An open history.

    `client` is for the one that writes, a `Writer` or a client of clickhouse-connect; `answer` is
    for readers, from any thread.
    """

    client: Any
    folder: Path | None = None
    confinement: Confinement | None = None
    """What confines the engine; None where it is a server's affair."""

    def __init__(self, limits: QueryLimits) -> None:
        self.limits = limits

    def answer(
        self,
        sql: str,
        *,
        default_format: str,
        settings: Mapping[str, str],
        parameters: Mapping[str, str],
    ) -> QueryResult:
        """Run a query that can only read, with settings of the allow-list and within the limits.

        Raises:
            QueryError: ClickHouse refuses it, or a setting or a parameter's name is not one that is
                taken.
        """
        return self._answer(
            sql, default_format, typed(settings, self.limits), checked_parameters(parameters)
        )

    @abstractmethod
    def _answer(
        self,
        sql: str,
        default_format: str,
        settings: Mapping[str, Value],
        parameters: Mapping[str, str],
    ) -> QueryResult: ...

    @abstractmethod
    def close(self) -> None:
        """Give the history free."""


def open_engine(folder: Path, dsn: str, limits: QueryLimits | None = None) -> Engine:
    """Open the ClickHouse server that `dsn` names or, if it is empty, chDB in `folder`.

    Raises:
        UnavailableError: another process owns the folder, or the server does not answer.
    """
    return (
        _ServerEngine(dsn, limits or QueryLimits())
        if dsn
        else CellEngine(folder, limits or QueryLimits())
    )


class _EndedError(UnavailableError):
    """The engine's process has ended in the middle of a call."""


class CellEngine(Engine, Writer):
    """chDB in a confined process, which is begun again where it has ended."""

    def __init__(self, folder: Path, limits: QueryLimits) -> None:
        super().__init__(limits)
        self.client = self
        self.folder = self._home = folder = folder.resolve()
        self._lock = threading.Lock()
        self._closed = False
        try:
            for path in (folder, folder / cell.USER_FILES, folder / cell.SCRATCH):
                make_folder(path)
        except OSError as error:
            raise _cannot_open(folder, str(error)) from error
        self._process = _Process(folder)
        self.confinement = self._process.confinement

    @property
    def pid(self) -> int:
        """The process that holds chDB now."""
        return self._process.child.pid

    def _answer(
        self,
        sql: str,
        default_format: str,
        settings: Mapping[str, Value],
        parameters: Mapping[str, str],
    ) -> QueryResult:
        head = {
            "do": "ask",
            "sql": sql,
            "format": default_format,
            "settings": settings,
            "parameters": parameters,
        }
        try:
            # ClickHouse ends a query at its limit by itself; the grace is for one that does not.
            took, body = self._call(head, int(settings["max_execution_time"]) + _GRACE_S)
        except TimeoutError:
            raise refused(
                TIMEOUT,
                (
                    f"The query took more than {settings['max_execution_time']} seconds and "
                    "did not heed that; it was ended."
                ),
            ) from None
        except UnavailableError as error:
            raise refused(NETWORK, f"{error}") from error
        return QueryResult(body, took["rows"], took["bytes"], took["elapsed_ns"])

    def command(self, sql: str) -> None:
        """As the base class says."""
        self._write({"do": "command", "sql": sql})

    def query(self, sql: str) -> ResultRows:
        """As the base class says."""
        return ResultRows(
            [tuple(row) for row in json.loads(self._write({"do": "rows", "sql": sql}))]
        )

    def insert(
        self,
        table: str,
        rows: Sequence[Sequence[Any]],
        *,
        column_names: Sequence[str],
        settings: Mapping[str, Value] | None = None,
    ) -> None:
        """As the base class says."""
        self._write(
            {
                "do": "insert",
                "table": table,
                "rows": rows,
                "columns": list(column_names),
                "settings": dict(settings or {}),
            }
        )

    def raw_insert(
        self,
        table: str,
        *,
        column_names: Sequence[str],
        insert_block: bytes,
        fmt: str,
        settings: Mapping[str, Value] | None = None,
    ) -> None:
        """As the base class says."""
        # A block may be megabytes: as a file it is read by chDB itself and never copied through the
        # channel, whose messages are bounded.
        with tempfile.NamedTemporaryFile(dir=self._home / cell.SCRATCH, suffix=".block") as file:
            file.write(insert_block)
            file.flush()
            head = {
                "do": "insert_file",
                "table": table,
                "columns": list(column_names),
                "file": file.name,
                "format": fmt,
            }
            self._write({**head, "settings": dict(settings or {})})

    def _write(self, head: Mapping[str, Any]) -> bytes:
        try:
            return self._call(head, _WRITE_S)[1]
        except QueryError as error:
            raise DatabaseError(str(error)) from error
        except TimeoutError:
            raise UnavailableError(
                f"ClickHouse did not answer the writer within {_WRITE_S:g} s; its process "
                "was ended."
            ) from None

    def _call(self, head: Mapping[str, Any], patience: float) -> tuple[Any, bytes]:
        process = self._alive()
        try:
            return process.call(head, patience)
        except TimeoutError:
            # Nothing else ends a query that hangs: the next call begins a new process.
            process.kill()
            raise

    def _alive(self) -> _Process:
        """The process, begun again where it has ended."""
        with self._lock:
            if self._closed:
                raise UnavailableError("The history is closed.")
            if self._process.ended:
                self._process.kill()
                # Under the lock, because chDB's folder has one owner: two threads must not both
                # begin one.
                self._process = _Process(self._home)
            return self._process

    def close(self) -> None:
        """Give the folder free."""
        with self._lock:
            self._closed = True
            self._process.close()


class _Process:
    """One process that holds chDB: a channel for each reader and two for the writer."""

    def __init__(self, folder: Path) -> None:
        # One for the leash: when we are gone, its end closes and the process ends itself.
        pairs = [socket.socketpair() for _ in range(_READERS + 3)]
        ours = [Connection(mine.detach()) for mine, _ in pairs]
        theirs = [other for _, other in pairs]
        self._leash, *channels = ours
        self._every = ours
        self.ended = False
        numbers = [other.fileno() for other in theirs]
        try:
            self.child = subprocess.Popen(
                # -P: nothing in the working folder is imported in place of Esper.
                (sys.executable, "-P", "-m", cell.__name__, str(folder), *map(str, numbers)),
                env=_environment(folder),
                pass_fds=numbers,
                stdin=subprocess.DEVNULL,
            )
        except OSError as error:
            raise UnavailableError(f"The history's engine does not start: {error}.") from error
        finally:
            # the child has its own: kept open here, they would hide from us that it ended
            for other in theirs:
                other.close()
        try:
            began, _ = _received(channels[0], _START_S)
        except (QueryError, UnavailableError, TimeoutError) as error:
            self.kill()
            if (owner := _owner(folder)) is not None:
                raise UnavailableError(
                    f"The history in {folder} is open in another process{owner}; ask that "
                    "one over HTTP, or end it with `esper down`."
                ) from error
            raise _cannot_open(folder, str(error)) from error
        self.confinement = Confinement(**began)
        self._free: queue.SimpleQueue[Connection] = queue.SimpleQueue()
        for channel in channels:
            self._free.put(channel)

    def call(self, head: Mapping[str, Any], patience: float) -> tuple[Any, bytes]:
        """The result of one call.

        Raises:
            QueryError: ClickHouse refuses it.
            TimeoutError: no answer within `patience` seconds.
            UnavailableError: the process has ended.
        """
        with self._channel() as channel:
            try:
                channel.send_bytes(json.dumps(head).encode())
            except OSError as error:
                self.ended = True
                raise _ended() from error
            try:
                return _received(channel, patience)
            except _EndedError:
                self.ended = True
                raise

    @contextmanager
    def _channel(self) -> Iterator[Connection]:
        channel = self._free.get()
        try:
            yield channel
        finally:
            self._free.put(channel)

    def kill(self) -> None:
        """End it now."""
        self.ended = True
        self.child.kill()
        self.child.wait()
        for channel in self._every:
            channel.close()

    def close(self) -> None:
        """End it in order: chDB puts away what it has."""
        # All but the leash: without channels the process closes chDB in order, without the leash it
        # ends at once.
        for channel in self._every[1:]:
            channel.close()
        with suppress(subprocess.TimeoutExpired):
            self.child.wait(_GRACE_S)
        self.kill()


def _received(channel: Connection, patience: float) -> tuple[Any, bytes]:
    try:
        if not channel.poll(patience):
            raise TimeoutError
        head = json.loads(channel.recv_bytes(cell.MOST_HEAD))
        body = channel.recv_bytes(_MOST_ANSWER)
    except (EOFError, OSError) as error:
        if isinstance(error, TimeoutError):
            raise
        raise _ended() from error
    if "code" in head:
        raise QueryError(head["code"], head["message"])
    return head["result"], body


def _ended() -> UnavailableError:
    return _EndedError(
        "The history's engine ended in the middle of this; it is started again, and the "
        "same may be asked once more."
    )


def _environment(folder: Path) -> dict[str, str]:
    # A list of what it gets, not of what it does not: secrets stand in the environment too.
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    source = [
        str(Path(cell.__file__).parents[3]),
        *(part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part),
    ]
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(map(os.path.abspath, source)),
        "TMPDIR": str(folder / cell.SCRATCH),
        "OPENBLAS_NUM_THREADS": "1",
    }


def _cannot_open(folder: Path, why: str) -> UnavailableError:
    return UnavailableError(
        f"The history in {folder} cannot be opened: {why}; move the folder away to begin a new one."
    )


def _owner(folder: Path) -> str | None:
    """How to name the process that holds the folder's lock; None if none does."""
    status = folder / "status"
    with suppress(OSError):
        descriptor = os.open(status, os.O_RDWR)
        try:
            # The lock that ClickHouse itself takes: whoever holds it owns the folder, whatever the
            # file says.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            words = dict(
                line.partition(":")[::2] for line in status.read_text(errors="replace").splitlines()
            )
            return f" ({words['PID'].strip()})" if "PID" in words else ""
        finally:
            os.close(descriptor)
    return None


class _ServerEngine(Engine):
    """A ClickHouse server, whose own users and profiles confine it."""

    def __init__(self, dsn: str, limits: QueryLimits) -> None:
        super().__init__(limits)
        self._dsn = dsn
        try:
            self.client = clickhouse_connect.get_client(dsn=dsn)
        except CLICKHOUSE_ERRORS as error:
            raise UnavailableError(
                "The ClickHouse server of ESPER_HISTORY__DSN does not answer "
                f"({QueryError.of(error)}); correct the address or start it."
            ) from error

    def _answer(
        self,
        sql: str,
        default_format: str,
        settings: Mapping[str, Value],
        parameters: Mapping[str, str],
    ) -> QueryResult:
        try:
            # A client for each query: one session of clickhouse-connect refuses queries side by
            # side.
            client = clickhouse_connect.get_client(dsn=self._dsn)
            try:
                body = client.raw_query(
                    sql,
                    parameters=dict(parameters),
                    settings={
                        **{name: str(value) for name, value in settings.items()},
                        # The server enforces it, so that a query which our check misreads still
                        # changes nothing.
                        "readonly": "1",
                    },
                    transport_settings={"X-ClickHouse-Format": default_format},
                )
            finally:
                client.close()
        except CLICKHOUSE_ERRORS as error:
            raise QueryError.of(error) from error
        return QueryResult(body)

    def close(self) -> None:
        """Let go of the server."""
        closing: Any = self.client
        closing.close()
