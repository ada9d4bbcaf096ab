"""The key pair of an installation (Ed25519, RFC 8032): `token.pem` signs tokens, and its owner
alone may read it; `token.pub.pem` checks them.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from esper.disk import make_folder
from esper.errors import CorruptError, UnavailableError, UsageError

PRIVATE: Final = "token.pem"
PUBLIC: Final = "token.pub.pem"


def ensure(folder: Path) -> None:
    """Make the pair where it is missing.

    Several processes may do so at once: all end with the same pair.

    Raises:
        UnavailableError: the folder cannot be written.
        UsageError: the private key may be read by others.
        CorruptError: the private key is damaged.
    """
    try:
        make_folder(folder)
        if not (folder / PRIVATE).exists():
            if (folder / PUBLIC).exists():
                return  # a part that only checks tokens is given the public key alone
            # Before the key is in it.
            folder.chmod(0o700)
            place(folder / PRIVATE, private_pem(Ed25519PrivateKey.generate()), 0o600)
        if not (folder / PUBLIC).exists():
            place(folder / PUBLIC, _public_pem(signing(folder).public_key()), 0o600)
    except OSError as error:
        raise UnavailableError(
            f"The keys of tokens cannot be made in {folder} ({error.strerror}): make it "
            "writable, or set ESPER_SERVICE__KEYS to another folder."
        ) from error


def signing(folder: Path) -> Ed25519PrivateKey:
    """The key that signs.

    Raises:
        UsageError: there is none, or others than its owner may read it.
        CorruptError: it is damaged.
    """
    if not (folder / PRIVATE).exists():
        raise UsageError(
            f"There is no key to sign tokens with in {folder}: `esper up` or the first "
            "`esper run` makes it."
        )
    return read_private(folder / PRIVATE, what="tokens of any role")


def read_private(path: Path, *, what: str) -> Ed25519PrivateKey:
    """The private key in a file that its owner alone may read.

    `what` it makes is named in sentences.

    Raises:
        UsageError: it cannot be read, or others than its owner may read it.
        CorruptError: it is damaged.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        pem = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read ({error.strerror}): only the user who started this "
            f"installation can make {what}."
        ) from error
    if mode & 0o077:
        raise UsageError(
            f"{path} may be read by other users, who could make {what}: chmod 600 it, or "
            f"delete {path.parent} for new keys."
        )
    try:
        key = load_pem_private_key(pem, password=None)
    except ValueError as error:
        raise _damaged(path) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _damaged(path)
    return key


def checking(folder: Path) -> Ed25519PublicKey:
    """The key that checks signatures.

    Raises:
        UsageError: there is none.
        CorruptError: it is damaged.
    """
    path = folder / PUBLIC
    try:
        pem = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read ({error.strerror}): `esper up` makes the keys of tokens."
        ) from error
    try:
        key = load_pem_public_key(pem)
    except ValueError as error:
        raise _damaged(path) from error
    if not isinstance(key, Ed25519PublicKey):
        raise _damaged(path)
    return key


def _damaged(path: Path) -> CorruptError:
    return CorruptError(
        f"{path} holds no Ed25519 key: restore it, or delete it and its public key and run "
        "`esper up`; what it made is void then."
    )


def place(path: Path, content: bytes, mode: int) -> None:
    """Put a whole file at `path` unless there is one: readers see all of it or none, and of two
    writers the first wins.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            # before the key is in it: nobody else can open it in between
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            # Not a rename, which would replace the key that the other of two processes has just
            # made and signs with.
            os.link(name, path)
    finally:
        Path(name).unlink()


def private_pem(key: Ed25519PrivateKey) -> bytes:
    """A private key as a file."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _public_pem(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
