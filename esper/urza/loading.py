"""The loader process: fetches, verifies and unpacks kernels outside the trainer's interpreter,
where it would hold the GIL.

`python -m esper.urza.loading STORE KERNELS SHARED LIMIT_BYTES ENDPOINT` reads the key of the
kernels from the first line of standard input, one request a line from there on, and answers each
with a line on standard output, all JSON. Files are sealed wherever they lie. A verified artefact is
put into KERNELS, the run's own folder, from where the trainer reads it: out of the cache SHARED of
all runs where it has it, else out of STORE, and then into SHARED too. Requests to prefetch wait for
those that somebody waits for, on a thread of their own, so that one that hangs holds up nobody. It
imports no torch, and ends when its input does.
"""

from __future__ import annotations

import itertools
import json
import os
import queue
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from esper.disk import make_folder, write_new
from esper.errors import CorruptError, EsperError
from esper.urza.artefact import address_of, content_of, read
from esper.urza.disk_tier import DiskCache
from esper.urza.opening import store_at
from esper.urza.store import Store
from esper.vault.boxes import KERNELS, Box, is_sealed

_PARTIAL = ".partial"


@dataclass(frozen=True, slots=True)
class Loading:
    """Where kernels come from and go to. `place` is safe to call from several threads."""

    store: Store
    kernels: Path
    shared: DiskCache
    box: Box
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def place(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request: path and tier ("disk" or "store") of the verified artefact, or
        why there is none, in a sentence.

        `damaged` says that the shared cache had a file that was not what it should be; it has been
        removed, and replaced if the store had the kernel.
        """
        kernel_id, name = request["kernel_id"], f"{request['kernel_id']}.safetensors"
        target, partial = (
            self.kernels / name,
            self.kernels / f"{name}.{os.getpid()}-{next(self._numbers)}{_PARTIAL}",
        )
        answer: dict[str, Any] = {"kernel_id": kernel_id, "damaged": False}
        try:
            address = address_of(kernel_id)
            if self.shared.take(name, partial):
                with suppress(CorruptError):
                    # by its own name: whatever others do to the shared file, this one stays as it
                    # was read
                    content = partial.read_bytes()
                    plain = self.box.opened(address, content)
                    read(plain, kernel_id=kernel_id, sha256=request["sha256"])
                    if not is_sealed(content):  # an older Esper's
                        partial.unlink()
                        write_new(partial, self.box.sealed(address, plain))
                        self.shared.keep(partial, name)
                    return answer | {"tier": "disk", "path": _named(partial, target)}
                answer["damaged"] = True
                self.shared.drop(name)
                partial.unlink()
            content = content_of(self.store, kernel_id=kernel_id, address=request["address"])
            plain = self.box.opened(request["address"], content)
            read(plain, kernel_id=kernel_id, sha256=request["sha256"])
            write_new(
                partial,
                content
                if is_sealed(content) and request["address"] == address
                else self.box.sealed(address, plain),
            )
            path = _named(partial, target)
            self.shared.keep(target, name)
        except (EsperError, OSError) as error:
            partial.unlink(missing_ok=True)
            return answer | {"error": str(error)}
        return answer | {"tier": "store", "path": path}

    def sweep(self) -> None:
        """Remove what a loader of this run that was killed has left."""
        make_folder(self.kernels)
        for left in self.kernels.glob(f"*{_PARTIAL}"):
            left.unlink(missing_ok=True)


def _named(partial: Path, target: Path) -> str:
    partial.replace(target)
    partial.unlink(missing_ok=True)  # a rename between two names of one file does nothing
    return str(target)


class _Answers:
    """Lines on standard output, from two threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def write(self, answer: dict[str, Any]) -> None:
        with self._lock, suppress(BrokenPipeError):  # the trainer has gone: standard input ends too
            # one write a line: the buffer of print could mix lines of both threads
            os.write(sys.stdout.fileno(), json.dumps(answer).encode() + b"\n")


def _prefetch(
    loading: Loading,
    requests: queue.SimpleQueue[dict[str, Any]],
    idle: threading.Event,
    answers: _Answers,
) -> None:
    while True:
        request = requests.get()
        # not while a request that a seed waits for is served
        idle.wait()
        answers.write(loading.place(request))


def main() -> None:
    """Answer requests until standard input ends."""
    location, kernels, shared, limit_bytes, endpoint = sys.argv[1:]
    box = Box(KERNELS, bytes.fromhex(json.loads(sys.stdin.readline())["key"]))
    loading = Loading(
        store_at(location, endpoint), Path(kernels), DiskCache(Path(shared), int(limit_bytes)), box
    )
    loading.sweep()
    answers, later, idle = _Answers(), queue.SimpleQueue[dict[str, Any]](), threading.Event()
    idle.set()
    threading.Thread(
        target=_prefetch, args=(loading, later, idle, answers), name="prefetch", daemon=True
    ).start()
    for line in sys.stdin:
        request = json.loads(line)
        if request["prefetch"]:
            later.put(request)
            continue
        idle.clear()
        answers.write(loading.place(request))
        idle.set()


if __name__ == "__main__":
    main()
