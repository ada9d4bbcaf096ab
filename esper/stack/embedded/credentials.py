"""Passwords of the embedded broker's principals: one file each in ESPER_HOME/keys/kafka, that the
owner of the installation alone may read.

Each is 256 random bits, made where it is missing. A file that is deleted gets another password,
which the broker learns at the stack's next start.
"""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from pathlib import Path

from esper.disk import make_folder
from esper.errors import UnavailableError, UsageError
from esper.oona.bus.access import password_file
from esper.oona.bus.rights import OWNER, PRINCIPALS


def ensure(folder: Path) -> dict[str, str]:
    """The password of every principal, the super user's included.

    Several processes may ask at once and get the same.

    Raises:
        UnavailableError: the folder cannot be written.
        UsageError: other users may read a password.
    """
    try:
        make_folder(folder)
        # a folder that was there keeps its mode otherwise
        folder.chmod(0o700)
        return {
            principal: _password(password_file(folder, principal))
            for principal in (OWNER, *PRINCIPALS)
        }
    except OSError as error:
        raise UnavailableError(
            f"Kafka's passwords cannot be kept in {folder} ({error.strerror}): make it "
            "writable for this user."
        ) from error


def _password(path: Path) -> str:
    if not path.exists():
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
        try:
            os.link(name, path)  # the first of several processes wins
        except FileExistsError:
            pass
        finally:
            Path(name).unlink()
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise UsageError(
            f"{path} may be read by other users, who could act as {path.stem}: chmod 600 "
            "it, or delete it for a new password."
        )
    if password := path.read_text(encoding="utf-8").strip():
        return password
    raise UsageError(f"{path} is empty: delete it for a new password.")
