"""Master keys of an installation: from a file, the environment or a command.

The first is current; others only read what they have wrapped.
"""

from __future__ import annotations

import base64
import binascii
import errno
import fcntl
import hashlib
import os
import secrets
import stat
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from esper.config import Settings
from esper.disk import make_folder, write_file
from esper.errors import CorruptError, KeyMissingError, UnavailableError, UsageError
from esper.vault.sealing import KEY_BYTES

_COMMAND_S: Final = 60.0
_FORM: Final = "a master key is 32 random bytes in base64, as `openssl rand -base64 32` prints them"


@dataclass(frozen=True, slots=True)
class MasterKey:
    """A key that wraps family keys. Its id, from its hash, is no secret."""

    key: bytes = field(repr=False)

    @property
    def id(self) -> str:
        """16 hexadecimal digits."""
        return hashlib.sha256(b"esper master key" + self.key).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Masters:
    """The master keys at hand, the current one first. `source` says where they come from."""

    keys: tuple[MasterKey, ...]
    source: str

    @property
    def current(self) -> MasterKey:
        """The key that wraps."""
        return self.keys[0]

    def by_id(self, key_id: str) -> MasterKey | None:
        """The key of this id, if it is at hand."""
        return next((key for key in self.keys if key.id == key_id), None)


def masters(settings: Settings, *, make: bool = False) -> Masters:
    """The installation's master keys.

    Where nothing says otherwise they lie in a file, which `make` makes if it is missing; hold it
    then.

    Raises:
        KeyMissingError: there is none and none may be made.
        UsageError: what there is is no key, or others may read the file.
        CorruptError: the file is damaged.
        UnavailableError: the file or the command does not work.
    """
    given = settings.checkpoints
    if given.master_key.get_secret_value():
        return Masters(
            _parsed(given.master_key.get_secret_value(), "ESPER_CHECKPOINTS__MASTER_KEY"),
            "the environment",
        )
    if given.master_key_command:
        return Masters(
            _parsed(_printed(given.master_key_command), "The master key's command"), "a command"
        )
    path = settings.master_key_path
    if not path.exists():
        if not make:
            raise KeyMissingError(
                f"There is no master key in {path}: put back the one that was there, or "
                "set ESPER_CHECKPOINTS__MASTER_KEY."
            )
        write(path, (MasterKey(secrets.token_bytes(KEY_BYTES)),))
    return Masters(_read(path), str(path))


def write(path: Path, keys: Sequence[MasterKey]) -> None:
    """Put the keys into the file, all or none, readable by its owner alone.

    Durable before it returns.

    Raises:
        UnavailableError: the folder cannot be written.
        StorageFullError: there is no room.
    """
    lines = "".join(f"{base64.b64encode(key.key).decode()}\n" for key in keys)
    write_file(path, lines.encode())


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Within: no other process of this machine makes or rotates master keys in this file, or wraps
    with them.

    A key in a folder that nobody can write, such as a mounted secret, is neither made nor rotated:
    it needs no lock.
    """
    try:
        make_folder(path.parent)
        descriptor = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        if error.errno in (errno.EROFS, errno.EACCES) and path.is_file():
            yield
            return
        raise UnavailableError(
            f"The master key in {path} cannot be used ({error.strerror}): make its folder writable."
        ) from error
    try:
        # Of the open file, so it ends with the process however that dies.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read(path: Path) -> tuple[MasterKey, ...]:
    try:
        mode, text = stat.S_IMODE(path.stat().st_mode), path.read_text(encoding="ascii")
    except OSError as error:
        raise UnavailableError(
            f"The master key in {path} cannot be read ({error.strerror}): mend its permissions."
        ) from error
    except UnicodeDecodeError:
        raise CorruptError(
            f"{path} holds no master key: put back what was there; {_FORM}."
        ) from None
    if mode & 0o077:
        raise UsageError(
            f"{path} may be read by other users, who could read every snapshot: chmod 600 it."
        )
    try:
        return _parsed(text, str(path))
    except UsageError as error:
        # No setting that its owner can correct: a file that Esper made has changed.
        raise CorruptError(str(error)) from None


def _parsed(text: str, where: str) -> tuple[MasterKey, ...]:
    """Keys between blanks or commas. What is no key is never quoted: it may be most of one."""
    try:
        keys = tuple(
            MasterKey(base64.b64decode(word, validate=True))
            for word in text.replace(",", " ").split()
        )
    except (binascii.Error, ValueError):
        keys = ()
    if not keys or any(len(key.key) != KEY_BYTES for key in keys):
        raise UsageError(
            f"{where} gives no master key: {_FORM}; several stand side by side, the "
            "current one first."
        )
    return keys


def _printed(command: str) -> str:
    try:
        done = subprocess.run(  # noqa: S602  # the user's own
            command, shell=True, capture_output=True, text=True, check=False, timeout=_COMMAND_S
        )
    except (subprocess.TimeoutExpired, OSError) as error:
        raise UnavailableError(
            f"The master key's command ({type(error).__name__}) gives no answer: try it by hand."
        ) from error
    if done.returncode:
        raise UnavailableError(
            f"The master key's command ended with status {done.returncode}: try it by hand."
        )
    return done.stdout
