"""The trainer's end of the kernel cache: kernels out of memory at once, others from the loader
process, and never a wait.

Tiers: L1 is here, in memory (`esper.urza.memory_tier`); L2, the disk that all runs share, and L3,
the store, are the loader process's (`esper.urza.loading`). What any tier finds goes up into those
above it.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from esper.clock import Clock
from esper.errors import CorruptError
from esper.events.records import KernelPublished
from esper.kasmina.seeded.slots import Slot
from esper.kasmina.unpacked import Unpacked, unpack
from esper.urza.memory_tier import MIB, CacheFigures, CacheLimits, KernelCache
from esper.vault.boxes import Box

TIMEOUT_S = 10.0  # a load that takes longer has failed
# more for a child that has not answered yet: a busy machine may take this long to start a process
START_S = 20.0
_RESTART_S = 0.2  # a child that ends sooner is not started again at once


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """Limits of the tiers, and how many kernels are fetched ahead at a time."""

    memory: CacheLimits = field(default_factory=CacheLimits)
    disk_bytes: int = 2048 * MIB
    prefetch: int = 32


@dataclass(frozen=True, slots=True)
class LoaderFigures:
    """Counts since the loader was made; meanings as in CacheSampled.

    `damaged` counts files of the shared disk that had to be replaced.
    """

    hits_memory: int
    hits_disk: int
    hits_store: int
    misses: int
    evictions: int
    prefetched: int
    entries: int
    bytes: int
    limit_entries: int
    limit_bytes: int
    latency_us: float
    damaged: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """A kernel that is ready, or why it failed, in a sentence."""

    kernel_id: str
    unpacked: Unpacked | None
    error: str = ""

    def slot(self) -> Slot:
        """A new slot with the kernel.

        Raises:
            CorruptError: it could not be loaded.
        """
        if self.unpacked is None:
            raise CorruptError(self.error)
        return self.unpacked.slot(self.kernel_id)


@dataclass(slots=True)
class _Request:
    """A kernel that the child has to load: `wanted` by a seed of `layer`, or only
    fetched ahead.
    """

    line: bytes
    layer: str
    wanted: bool
    begun: float
    patience_s: float


@dataclass(slots=True)
class KernelLoader:
    """Finds kernels in memory, and asks a child process for others.

    A child that died or hangs is replaced, and its successor asked again.

    `store` is a folder or s3://bucket/prefix at `endpoint`; `kernels` the run's own folder, which
    keeps every artefact that the run used; `shared` the disk tier of all runs. Files lie sealed in
    `box`, whose key the child gets by its pipe.
    """

    store: Path | str
    kernels: Path
    shared: Path
    clock: Clock
    box: Box
    settings: CacheSettings = field(default_factory=CacheSettings)
    endpoint: str = ""
    _cache: KernelCache[Unpacked] = field(init=False)
    _child: subprocess.Popen[bytes] | None = None
    _left: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _pending: dict[str, _Request] = field(default_factory=dict)
    _later: deque[KernelPublished] = field(default_factory=deque)
    _finished: list[Loaded] = field(default_factory=list)
    _unsent: bytes = b""
    _unread: bytes = b""
    _heard: bool = False
    _began: float = 0.0
    _spent_s: float = 0.0
    _hits_disk: int = 0
    _hits_store: int = 0
    _misses: int = 0
    _prefetched: int = 0
    _damaged: int = 0

    def __post_init__(self) -> None:
        """Begin with an empty cache."""
        self._cache = KernelCache(self.settings.memory)

    def start(self) -> None:
        """Start the child."""
        module = ("-m", "esper.urza.loading")
        places = (
            str(self.store),
            str(self.kernels),
            str(self.shared),
            str(self.settings.disk_bytes),
            self.endpoint,
        )
        command = [sys.executable, *module, *places]
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            # Ctrl-C reaches a whole group: this child ends by its pipe, after the file in hand
            start_new_session=True,
        )
        for pipe in (self._child.stdin, self._child.stdout):
            assert pipe is not None  # noqa: S101  # both are pipes
            # a full or empty pipe gives None at once: a training step never waits for the child
            os.set_blocking(pipe.fileno(), False)
        # by the pipe: arguments show in the process list, and children inherit an environment
        self._unsent, self._unread = json.dumps({"key": self.box.key.hex()}).encode() + b"\n", b""
        self._write()
        self._heard = False
        self._began = self.clock.monotonic()

    def request(self, kernel: KernelPublished, *, layer: str = "") -> None:
        """Ask for a kernel for a seed of `layer`.

        `ready` will give it, at its next call if it is in memory.
        """
        begin = self.clock.monotonic()
        unpacked = self._cache.get(kernel.kernel_id, layer)
        if unpacked is not None:
            self._finished.append(Loaded(kernel.kernel_id, unpacked))
            self._spent_s += self.clock.monotonic() - begin
            return
        self._ask(kernel, layer=layer, wanted=True)

    def prefetch(self, kernels: Iterable[KernelPublished]) -> None:
        """Have kernels fetched that may be asked for soon: the first `settings.prefetch` that are
        not in memory, one after the other.

        They take the place of those that an earlier call asked for and that have not had their
        turn.
        """
        lacking = (kernel for kernel in kernels if kernel.kernel_id not in self._cache)
        self._later = deque(itertools.islice(lacking, self.settings.prefetch))

    def ready(self) -> list[Loaded]:
        """What was asked for and has been loaded, or has failed, since the last call.
        Never waits.
        """
        finished, self._finished = self._finished, []
        # poll also reaps: a child that was let go of would stay a zombie
        self._left = [child for child in self._left if child.poll() is None]
        # one at a time: what a seed asks for next must not queue behind 32 guesses
        if self._later and all(request.wanted for request in self._pending.values()):
            self._ask(self._later.popleft(), layer="", wanted=False)
        if not self._pending:
            return finished
        self._write()
        for answer in self._read():
            request = self._pending.pop(str(answer["kernel_id"]), None)
            if request is not None:
                loaded = self._take(answer, request)
                if request.wanted:
                    finished.append(loaded)
        return finished + self._overdue()

    def figures(self) -> LoaderFigures:
        """Figures of the whole cache."""
        memory = self._cache.figures()
        return LoaderFigures(
            hits_memory=memory.hits,
            hits_disk=self._hits_disk,
            hits_store=self._hits_store,
            misses=self._misses,
            evictions=memory.evictions,
            prefetched=self._prefetched,
            entries=memory.entries,
            bytes=memory.bytes,
            limit_entries=self.settings.memory.entries,
            limit_bytes=self.settings.memory.bytes,
            latency_us=self._spent_s / memory.hits * 1e6 if memory.hits else 0.0,
            damaged=self._damaged,
        )

    def layer_figures(self, layer: str) -> CacheFigures:
        """Figures of the memory tier for one layer: what its seeds asked for, and the kernels that
        count towards its limit.
        """
        return self._cache.figures(layer)

    def stop(self) -> None:
        """End the child, and those that it replaced."""
        if self._child is not None:
            _close(self._child)
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(timeout=2)
            self._abandon()
        for child in self._left:
            with suppress(
                subprocess.TimeoutExpired
            ):  # a child that the kernel does not let go of ends with its file system's answer
                child.wait(timeout=2)
        self._left = []

    def _ask(self, kernel: KernelPublished, *, layer: str, wanted: bool) -> None:
        pending = self._pending.get(kernel.kernel_id)
        if pending is not None and (pending.wanted or not wanted):
            return
        request = {
            "kernel_id": kernel.kernel_id,
            "address": kernel.address,
            "sha256": kernel.sha256,
            "prefetch": not wanted,
        }
        line = json.dumps(request).encode() + b"\n"
        self._pending[kernel.kernel_id] = _Request(
            line, layer, wanted, self.clock.monotonic(), self._patience_s()
        )
        self._unsent += line
        if self._child is None:
            self.start()
            # `start` has sent the key: an empty pipe takes that line at once
            self._unsent = line
        self._write()

    def _patience_s(self) -> float:
        return TIMEOUT_S if self._heard else START_S + TIMEOUT_S

    def _take(self, answer: dict[str, str | bool], request: _Request) -> Loaded:
        """Note an answer, and keep its kernel in memory."""
        kernel_id, error = str(answer["kernel_id"]), str(answer.get("error", ""))
        self._damaged += bool(answer["damaged"])
        if not error:
            try:
                unpacked = unpack(Path(str(answer["path"])), kernel_id, self.box)
            except CorruptError as reason:
                error = str(reason)
        if error:
            self._misses += request.wanted
            return Loaded(kernel_id, None, error)
        if request.wanted:
            self._hits_disk += answer["tier"] == "disk"
            self._hits_store += answer["tier"] == "store"
        else:
            self._prefetched += 1
        self._cache.put(kernel_id, unpacked, unpacked.size_bytes, request.layer)
        return Loaded(kernel_id, unpacked)

    def _overdue(self) -> list[Loaded]:
        """What has taken too long has failed, and the child that hangs with it is replaced, as is
        one that died.
        """
        now, failed = self.clock.monotonic(), []
        overdue = {
            kernel_id: request
            for kernel_id, request in self._pending.items()
            if now > request.begun + request.patience_s
        }
        for kernel_id, request in overdue.items():
            del self._pending[kernel_id]
            if request.wanted:
                self._misses += 1
                error = (
                    f"Kernel {kernel_id} was not loaded within {request.patience_s:g} s; see "
                    "whether the store answers."
                )
                failed.append(Loaded(kernel_id, None, error))
            else:
                # the store hangs: further guesses would only hang the next child
                self._later.clear()
        died = (
            self._child is not None
            and self._child.poll() is not None
            and now - self._began > _RESTART_S
        )
        if overdue or (died and self._pending):
            self._abandon()
            if self._pending:
                self.start()
                for request in self._pending.values():
                    request.begun = (
                        now if overdue else request.begun
                    )  # a kernel whose load ends its child each time fails in the end
                    request.patience_s = self._patience_s()
                self._unsent += b"".join(request.line for request in self._pending.values())
                self._write()
        return failed

    def _write(self) -> None:
        """Send as much as the child's pipe takes; `ready` sends the rest."""
        assert self._child is not None  # noqa: S101  # there are requests only with a child
        assert self._child.stdin is not None  # noqa: S101  # it is a pipe
        with suppress(BrokenPipeError):  # it died just now: `ready` notices
            while self._unsent:
                sent = self._child.stdin.write(self._unsent)
                if not sent:
                    return
                self._unsent = self._unsent[sent:]

    def _read(self) -> list[dict[str, str | bool]]:
        assert self._child is not None  # noqa: S101  # there are requests only with a child
        assert self._child.stdout is not None  # noqa: S101  # it is a pipe
        self._unread += self._child.stdout.read() or b""
        *lines, self._unread = self._unread.split(b"\n")
        self._heard = self._heard or bool(lines)
        return [json.loads(line) for line in lines]

    def _abandon(self) -> None:
        """Let go of the child without waiting for its end: one that hangs in a file system may take
        long to die.
        """
        assert self._child is not None  # noqa: S101  # the caller has looked
        _close(self._child)
        self._child.kill()
        self._left.append(self._child)
        self._child = None


def _close(child: subprocess.Popen[bytes]) -> None:
    for pipe in (child.stdin, child.stdout):
        if pipe:
            pipe.close()
