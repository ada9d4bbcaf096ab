"""The trainer's end of the loader process: ask for kernels, take what is ready between steps, never wait."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open

from esper.clock import Clock
from esper.errors import CorruptError
from esper.events.records import KernelPublished
from esper.karn.ir import BlueprintIR, parse
from esper.kasmina.slots import Slot
from esper.tezzeret.build import KernelModule

TIMEOUT_S = 10.0  # a load that takes longer has failed


@dataclass(frozen=True, slots=True)
class Loaded:
    """A kernel that is ready: its verified artefact on the local disk, or why it failed."""

    kernel_id: str
    path: Path | None
    error: str = ""


@dataclass(slots=True)
class KernelLoader:
    """Asks a child process for kernels. A child that died is started again and asked again."""

    store: Path
    cache: Path
    clock: Clock
    _child: subprocess.Popen[bytes] | None = None
    _pending: dict[str, tuple[str, float]] = field(default_factory=dict)
    _buffer: bytes = b""

    def start(self) -> None:
        """Start the child, in place of one that died."""
        self._close()
        command = [sys.executable, "-m", "esper.urza.loading", str(self.store), str(self.cache)]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, start_new_session=True)
        assert self._child.stdout is not None  # noqa: S101  # it is a pipe
        os.set_blocking(self._child.stdout.fileno(), False)
        self._buffer = b""

    def request(self, kernel: KernelPublished) -> None:
        """Ask for a kernel; `ready` will give it."""
        line = json.dumps({"kernel_id": kernel.kernel_id, "address": kernel.address, "sha256": kernel.sha256})
        self._pending[kernel.kernel_id] = (line, self.clock.monotonic() + TIMEOUT_S)
        self._send(line)

    def _send(self, line: str) -> None:
        if self._child is None or self._child.poll() is not None:
            self.start()
        assert self._child is not None  # noqa: S101  # just started
        assert self._child.stdin is not None  # noqa: S101  # it is a pipe
        with contextlib.suppress(BrokenPipeError):  # it died just now: `ready` notices
            self._child.stdin.write(line.encode() + b"\n")

    def ready(self) -> list[Loaded]:
        """What has been loaded, or has failed, since the last call. Never waits."""
        if not self._pending or self._child is None:
            return []
        assert self._child.stdout is not None  # noqa: S101  # it is a pipe
        found = []
        self._buffer += self._child.stdout.read() or b""
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            answer = json.loads(line)
            if self._pending.pop(answer["kernel_id"], None):
                path = Path(answer["path"]) if "path" in answer else None
                found.append(Loaded(answer["kernel_id"], path, answer.get("error", "")))
        now = self.clock.monotonic()
        for kernel_id, (_, deadline) in list(self._pending.items()):
            if now > deadline:
                del self._pending[kernel_id]
                found.append(
                    Loaded(kernel_id, None, f"Kernel {kernel_id} was not loaded within {TIMEOUT_S:g} s; see whether the store answers.")
                )
        if self._pending and self._child.poll() is not None:
            self.start()
            for line_again, _ in list(self._pending.values()):
                self._send(line_again)
        return found

    def stop(self) -> None:
        """End the child."""
        self._close()
        self._child = None

    def _close(self) -> None:
        if self._child is None:
            return
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe:
                pipe.close()
        try:
            self._child.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


def open_kernel(path: Path, kernel_id: str) -> tuple[BlueprintIR, KernelModule]:
    """The module of a verified artefact: built from its blueprint, weights copied from the mapped file.

    Raises:
        CorruptError: the file is gone or is not an artefact.
    """
    try:
        with safe_open(path, framework="pt") as file:
            ir = parse(json.loads(file.metadata()["esper"])["ir"])
            module = KernelModule(ir, "meta")
            module.to_empty(device="cpu")
            with torch.no_grad():
                for name, parameter in module.named_parameters():
                    parameter.copy_(file.get_tensor(name))
    except (OSError, KeyError, ValueError) as error:
        raise CorruptError(f"The unpacked kernel {kernel_id} cannot be read: {error}. Start the run again; it is fetched anew.") from error
    return ir, module


def slot_of(path: Path, kernel_id: str) -> Slot:
    """A slot with the kernel of a verified artefact.

    Raises:
        CorruptError: as `open_kernel`.
    """
    ir, module = open_kernel(path, kernel_id)
    return Slot(kernel_id, ir.family, module, ir.blend, ir.tap, ir.alpha_target)
