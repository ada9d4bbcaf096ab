"""`ESPER_HOME/stack/state.json`: what the supervisor says about itself and its parts.

Only the supervisor writes it, atomically.

Who the supervisor is stands in `lock` too, the file that it holds: so a state file that was damaged
hides no stack. The supervisor writes it again within a tick.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

from esper.disk import write_file
from esper.identity import Identity

LOCK: Final = "lock"
Signature = tuple[int, int, int]
Phase = Literal["starting", "running", "stopping", "down", "failed", "silent"]
"""silent: a supervisor lives, and does not mend its state file. Reported, never written."""
PartPhase = Literal[
    "on demand", "waiting", "starting", "ready", "unready", "backing off", "stopped"
]
"""on demand: it starts when somebody first connects to its port."""


@dataclass(frozen=True, slots=True)
class PartState:
    """One process of the stack.

    `since_us` is when it was last started, in µs since 1970; `reason` says why it last ended.
    """

    name: str
    phase: PartPhase
    process: Identity | None
    port: int
    restarts: int
    since_us: int
    log: str
    reason: str


@dataclass(frozen=True, slots=True)
class StackState:
    """The whole stack.

    `ports` stay in the file when it is down, so that the next start takes the same ones.
    """

    phase: Phase
    supervisor: Identity
    embedded: bool
    """Whether the broker is ours; else it is the cluster of ESPER_KAFKA__BOOTSTRAP."""
    bootstrap: str
    started_at_us: int
    ports: dict[str, int] = field(default_factory=dict)
    parts: tuple[PartState, ...] = ()
    scheme: str = "http"
    """How the parts are spoken to: http or https."""
    error: tuple[str, str] | None = None
    """Class name and sentence of the `EsperError` that ended the start."""

    def part(self, name: str) -> PartState | None:
        """The part of this name."""
        return next((part for part in self.parts if part.name == name), None)


def path_of(stack_dir: Path) -> Path:
    """The state file of a stack."""
    return stack_dir / "state.json"


def write(stack_dir: Path, state: StackState) -> Signature | None:
    """Replace the file; a reader sees the old state or the new one.

    Gives what `signature` says of it now.
    """
    write_file(path_of(stack_dir), (json.dumps(asdict(state), indent=1) + "\n").encode())
    return signature(stack_dir)


def signature(stack_dir: Path) -> Signature | None:
    """What changes whenever anybody writes the file: inode, size, and nanoseconds of its last
    change; None where there is none.
    """
    try:
        status = path_of(stack_dir).stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def sign(lock: BinaryIO, supervisor: Identity) -> None:
    """Put into the lock file who holds it."""
    # in place, not by a rename: the lock is on this very file
    lock.truncate(0)
    lock.write(json.dumps(asdict(supervisor)).encode() + b"\n")
    lock.flush()


def holder(stack_dir: Path) -> Identity | None:
    """The living supervisor that holds the lock file.

    None where none does, or the file does not say.
    """
    try:
        identity = Identity(**json.loads((stack_dir / LOCK).read_text(encoding="utf-8")))
        return identity if identity.lives() else None
    except (OSError, ValueError, TypeError):
        return None


def read(stack_dir: Path) -> StackState | None:
    """What the last supervisor wrote, whether it lives or not.

    None when there is nothing or nothing readable.
    """
    try:
        return _state(json.loads(path_of(stack_dir).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _state(raw: dict[str, Any]) -> StackState:
    error = raw["error"]
    return StackState(
        **{
            **raw,
            "supervisor": Identity(**raw["supervisor"]),
            "parts": tuple(
                PartState(
                    **{
                        **part,
                        "process": None if part["process"] is None else Identity(**part["process"]),
                    }
                )
                for part in raw["parts"]
            ),
            "error": None if error is None else (str(error[0]), str(error[1])),
        }
    )
