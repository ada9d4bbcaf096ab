"""Columns of a Parquet file from outside, read by a child process that may take so much memory and
processor time and no more.

A page of a Parquet file unpacks to what it likes, and Arrow has no limit of its own. `python -m
esper.bounded.parquet BYTES COLUMN...` reads the file that is its standard input, and writes a line
a row: the values of the columns, with a space between, numbers in hexadecimal notation; without
columns all of them as a JSON object.
"""

from __future__ import annotations

import io
import json
import math
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, Final

from esper.bounded.formats import json_of
from esper.bounded.limits import Limits
from esper.errors import CorruptError

_CPU_S: Final = 300
_ROWS: Final = 10_000  # a batch
_LINE: Final = 1 << 12


def rows_of(
    file: BinaryIO, columns: Sequence[str], limits: Limits, what: str
) -> Iterator[tuple[str, ...]]:
    """The values of some columns, row by row, as text; a float is in the notation of `float.hex`.

    Raises:
        CorruptError: it is no Parquet file with these columns, or reading it takes more than the
            limits allow.
    """
    for line in _lines(file, columns, limits, what, longest=_LINE):
        values = tuple(line.decode("ascii", errors="replace").split())
        if len(values) != len(columns):
            raise _unreadable(what, columns, limits)
        yield values


def objects_of(file: BinaryIO, limits: Limits, what: str) -> Iterator[dict[str, Any]]:
    """All rows, each as a JSON object: times are microseconds since 1970-01-01 UTC, NaN and
    infinity are quoted.

    Raises:
        CorruptError: it is no Parquet file, or reading it takes more than the limits allow.
    """
    for line in _lines(file, (), limits, what, longest=limits.json.most):
        row = json_of(line, limits, what)
        if not isinstance(row, dict):
            raise _unreadable(what, (), limits)
        yield row


def _lines(
    file: BinaryIO, columns: Sequence[str], limits: Limits, what: str, *, longest: int
) -> Iterator[bytes]:
    """What the child process writes, line by line; raises as `rows_of` does."""
    command = [sys.executable, "-m", "esper.bounded.parquet", str(limits.table.most), *columns]
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "PYTHONPATH": os.pathsep.join(sys.path),
        "ARROW_DEFAULT_MEMORY_POOL": "system",
    }
    environment |= dict.fromkeys(
        ("OMP_NUM_THREADS", "ARROW_IO_THREADS", "OPENBLAS_NUM_THREADS"), "1"
    )
    with subprocess.Popen(
        command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as child:
        assert child.stdout is not None  # noqa: S101  # it is a pipe
        try:
            read = 0
            while line := child.stdout.readline(longest):
                read += len(line)
                limits.table.require(read, f"{what} unpacks to bytes,")
                if not line.endswith(b"\n"):
                    break
                yield line
            else:
                if child.wait() == 0:
                    return
        finally:
            child.kill()
    raise _unreadable(what, columns, limits)


def _unreadable(what: str, columns: Sequence[str], limits: Limits) -> CorruptError:
    having = f" with {', '.join(columns)}" if columns else ""
    return CorruptError(
        f"{what} is no Parquet file{having}, or reading it takes more memory than "
        f"{limits.table.setting} allows."
    )


def _written_objects(batches: Any, out: BinaryIO) -> None:
    for batch in batches:
        for row in batch.to_pylist(maps_as_pydicts="strict"):
            text = json.dumps(_plain(row), allow_nan=False)
            out.write(text.encode("ascii") + b"\n")


def _plain(value: Any) -> Any:
    """A value in what JSON has forms for."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, datetime):
        return (value - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    # NaN and infinity are no JSON; ids are objects of their own
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)


def _written(batches: Any, out: BinaryIO) -> None:
    for batch in batches:
        lines = io.StringIO()
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            lines.write(" ".join(_text(value) for value in row))
            lines.write("\n")
        out.write(lines.getvalue().encode("ascii", errors="replace"))


def _text(value: Any) -> str:
    if isinstance(value, float):
        return value.hex()
    text = value.decode("ascii", errors="replace") if isinstance(value, bytes) else str(value)
    return text if text and text.isprintable() and " " not in text else "?"


def main() -> None:
    """Read standard input within the limits; any end but 0 says that it could not be read."""
    from pyarrow import parquet  # noqa: PLC0415 - before the limit is set, which counts from here

    most, *columns = sys.argv[1:]
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for kind, value in (
        (resource.RLIMIT_AS, taken + int(most)),
        (resource.RLIMIT_CPU, _CPU_S),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (value, value))
    file = parquet.ParquetFile(
        sys.stdin.buffer, thrift_string_size_limit=1 << 20, thrift_container_size_limit=1 << 20
    )
    write = _written if columns else _written_objects
    write(
        file.iter_batches(batch_size=_ROWS, columns=columns or None, use_threads=False),
        sys.stdout.buffer,
    )


if __name__ == "__main__":
    main()
