"""Columns of a Parquet file from outside, read by a child process that may take so much memory and
processor time and no more.

A page of a Parquet file unpacks to what it likes, and Arrow has no limit of its own. `python -m
esper.bounded.parquet BYTES COLUMN...` reads the file that is its standard input, and writes a line
a row: the values of the columns, with a space between, numbers in hexadecimal notation.
"""

from __future__ import annotations

import io
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

from esper.bounded.limits import Limits
from esper.errors import CorruptError

_CPU_S: Final = 300
_ROWS: Final = 10_000  # a batch


def rows_of(
    file: BinaryIO, columns: Sequence[str], limits: Limits, what: str
) -> Iterator[tuple[str, ...]]:
    """The values of some columns, row by row, as text; a float is in the notation of `float.hex`.

    Raises:
        CorruptError: it is no Parquet file with these columns, or reading it takes more than the
            limits allow.
    """
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
            while line := child.stdout.readline(1 << 12):
                read += len(line)
                limits.table.require(read, f"{what} unpacks to bytes,")
                values = tuple(line.decode("ascii", errors="replace").split())
                if len(values) != len(columns) or not line.endswith(b"\n"):
                    break
                yield values
            else:
                if child.wait() == 0:
                    return
        finally:
            child.kill()
    raise CorruptError(
        f"{what} is no Parquet file with {', '.join(columns)}, or reading it takes more "
        f"memory than {limits.table.setting} allows."
    )


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
    _written(
        file.iter_batches(batch_size=_ROWS, columns=columns, use_threads=False), sys.stdout.buffer
    )


if __name__ == "__main__":
    main()
