"""The process that holds chDB: `python -m esper.history.confined.cell`.

It has the history's folder, what its libraries need, and nothing else of this machine.

Its parent talks to it over socket pairs, one for each call that is under way at once: a JSON head
and a body. It ends when its parent does.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from esper.history.confined.confinement import Confinement, confine
from esper.history.confined.query_settings import statement
from esper.history.confined.refusal import BAD_ARGUMENTS, UNKNOWN, QueryError, refused

DATABASE: Final = "esper"
MOST_HEAD: Final = 16 << 20
"""The largest JSON head, bytes."""

USER_FILES: Final = "user_files"
"""The folder that ClickHouse's own rule leaves to queries; always empty."""
SCRATCH: Final = "scratch"
"""Where blocks stand until they are inserted."""

_OF_PYTHON: Final = frozenset({"dataframe", "datastore", "arrowtable"})
"""Formats that chDB's Python makes objects of."""

_MACHINE: Final = (
    *(
        "/lib",
        "/lib64",
        "/usr/lib",
        "/usr/lib64",
        "/usr/share/zoneinfo",
        "/etc/localtime",
        "/etc/ld.so.cache",
    ),
    *(
        "/proc/meminfo",
        "/proc/cpuinfo",
        "/proc/stat",
        "/proc/sys/vm/overcommit_memory",
        "/sys/fs/cgroup",
    ),
    *("/sys/devices/system/cpu", "/sys/devices/system/node", "/sys/kernel/mm/transparent_hugepage"),
    *("/dev/null", "/dev/zero", "/dev/urandom"),
)
"""What chDB and its libraries read of the machine; none of it is anybody's."""


def readable() -> list[Path]:
    """The files that this process may read beside the history: libraries, and what the kernel says
    of this process and the machine.
    """
    python = [
        Path(path)
        for name, path in sysconfig.get_paths().items()
        if name in {"stdlib", "platstdlib", "purelib", "platlib"}
    ]
    shared = [Path(sys.base_prefix) / "lib", Path(__file__).parents[2]]
    return [*python, *shared, Path("/proc") / str(os.getpid()), *map(Path, _MACHINE)]


class Cell:
    """chDB in `folder`. Each call comes with its own head; `answer` may be called from
    any thread.
    """

    def __init__(self, folder: Path) -> None:
        import chdb  # noqa: PLC0415 - it begins threads, so it must come after the confinement
        import clickhouse_connect  # noqa: PLC0415 - the same

        self._chdb = chdb
        self._folder = str(folder)
        self._held = chdb.connect(f"{folder}?user_files_path={folder / USER_FILES}")
        self._client = clickhouse_connect.get_client(interface="chdb", path=self._folder)
        self._client.command(
            "DROP DATABASE IF EXISTS default"
        )  # chDB's shows the files of this machine as tables
        self._client.command("CREATE DATABASE IF NOT EXISTS default ENGINE = Atomic")
        self._client.command(f"CREATE DATABASE IF NOT EXISTS {DATABASE}")
        self._client.database = DATABASE
        self._writing = threading.Lock()
        self._does: Mapping[str, Callable[[Mapping[str, Any]], tuple[Any, bytes]]] = {
            "ask": self._ask,
            "command": self._command,
            "rows": self._rows,
            "insert": self._insert,
            "insert_file": self._insert_file,
        }

    def answer(self, head: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
        """The head and the body of the answer to a call; a refusal is an answer too."""
        try:
            result, body = self._does[head["do"]](head)
        except Exception as error:  # noqa: BLE001 - whatever a query makes chDB's Python raise is that query's answer
            refusal = error if isinstance(error, QueryError) else QueryError.of(error)
            return {"code": refusal.code, "message": str(refusal) or type(error).__name__}, b""
        return {"result": result}, body

    def _ask(self, head: Mapping[str, Any]) -> tuple[Any, bytes]:
        """A handle of its own for each query: state set on a handle stays there, and one handle
        runs one query at a time.
        """
        if head["format"].lower() in _OF_PYTHON:
            raise refused(
                BAD_ARGUMENTS, f"{head['format']} is a format of Python, not of ClickHouse."
            )
        handle = self._chdb.connect(self._folder)
        try:
            handle.query(f"USE {DATABASE}")
            handle.query(statement({"allow_python_table_function": 0, **head["settings"]}))
            # last: from here on the query cannot change any setting back
            handle.query("SET readonly = 1")
            result = handle.query(head["sql"], head["format"], params=head["parameters"])
            body = result.bytes() or b""
            return {
                "rows": result.rows_read(),
                "bytes": result.bytes_read(),
                "elapsed_ns": int(result.elapsed() * 1e9),
            }, body
        finally:
            handle.close()

    def _command(self, head: Mapping[str, Any]) -> tuple[Any, bytes]:
        with self._writing:
            self._client.command(head["sql"])
        return None, b""

    def _rows(self, head: Mapping[str, Any]) -> tuple[Any, bytes]:
        with self._writing:
            rows = self._client.query(head["sql"]).result_rows
        return None, json.dumps([list(row) for row in rows], default=str).encode()

    def _insert(self, head: Mapping[str, Any]) -> tuple[Any, bytes]:
        with self._writing:
            self._client.insert(
                head["table"], head["rows"], column_names=head["columns"], settings=head["settings"]
            )
        return None, b""

    def _insert_file(self, head: Mapping[str, Any]) -> tuple[Any, bytes]:
        settings = ", ".join(
            f"{name} = {_literal(value)}" for name, value in head["settings"].items()
        )
        columns = ", ".join(f"`{name}`" for name in head["columns"])
        clause = f" SETTINGS {settings}" if settings else ""
        file = _literal(head["file"])
        with self._writing:
            self._client.command(
                f"INSERT INTO {head['table']} ({columns}) FROM INFILE {file}{clause} "
                f"FORMAT {head['format']}"
            )
        return None, b""

    def close(self) -> None:
        """Give the folder free."""
        self._client.close()
        self._held.close()


def _literal(value: int | str) -> str:
    return (
        str(value)
        if isinstance(value, int)
        else "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    )


def calls(connection: Connection) -> Iterator[Mapping[str, Any]]:
    """The calls that come, until the parent closes its end."""
    while True:
        try:
            yield json.loads(connection.recv_bytes(MOST_HEAD))
        except (EOFError, OSError):
            return


def reply(connection: Connection, head: Mapping[str, Any], body: bytes) -> None:
    """Send an answer."""
    connection.send_bytes(json.dumps(head).encode())
    connection.send_bytes(body)


def _serve(cell: Cell, connection: Connection) -> None:
    for head in calls(connection):
        try:
            reply(connection, *cell.answer(head))
        except OSError:
            return


def _end_with(parent: Connection) -> None:
    """End at once when the parent does, by whatever end, in the middle of whatever query."""
    for _ in calls(parent):
        pass
    os._exit(1)


def _confined(folder: Path) -> Confinement:
    # the folder that this was started in is out of reach after the confinement
    os.chdir(folder / USER_FILES)
    import clickhouse_connect  # noqa: F401, PLC0415 - what imports read of the machine is read before it is out of reach

    return confine(write=[folder], read=readable())


def main(arguments: Sequence[str]) -> int:
    """Serve the folder on the descriptors given.

    The first is the leash, the second says how the start went.
    """
    folder, descriptors = Path(arguments[0]), [int(descriptor) for descriptor in arguments[1:]]
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent decides when this ends
        signal.signal(number, signal.SIG_IGN)
    leash, *channels = [Connection(descriptor) for descriptor in descriptors]
    try:
        confinement = _confined(folder)
        cell = Cell(folder)
    except Exception as error:  # noqa: BLE001 - the parent says it in a sentence
        reply(channels[0], {"code": UNKNOWN, "message": f"{error}"}, b"")
        return 1
    threading.Thread(target=_end_with, args=(leash,), name="leash", daemon=True).start()
    threads = [
        threading.Thread(target=_serve, args=(cell, channel), name="channel")
        for channel in channels
    ]
    # before its thread begins: on this channel the next message answers a call
    reply(channels[0], {"result": asdict(confinement)}, b"")
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cell.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
