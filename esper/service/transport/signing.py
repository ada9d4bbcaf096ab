"""The signing keys of an installation (Ed25519, RFC 8032), one pair a writer, in
ESPER_HOME/keys/signing.

`<writer>.pem` signs, and its owner alone may read it; `<writer>.pub.pem` and
`<writer>.<anything>.pub.pem` are believed: earlier keys, and those of other installations on the
same Kafka. `<writer>.since` says when the writer's first key was made here, microseconds since
1970: what is older may be unsigned. `runs/` has what is believed of imported runs.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from esper.clock import Clock
from esper.disk import make_folder
from esper.errors import CorruptError, UnavailableError, UsageError
from esper.events.seals import OPERATOR, TAMIYO, TRAINER, OfRun, Signer, Trust, text_of
from esper.service.transport.token_keys import place, private_pem, read_private

FOLDER: Final = "signing"
WRITERS: Final = (TRAINER, TAMIYO, "tolaria", "nissa", "foundry", OPERATOR)
"""Who signs: the trainer its journals, Tamiyo its decisions, the command line its notes on runs,
and every part that answers requests its audit trail.
"""
_PUBLIC: Final = ".pub.pem"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_RUNS: Final = "runs"


def ensure(keys: Path, writer: str, clock: Clock) -> Signer:
    """The signer of a writer, in the folder of the installation's keys.

    Its pair is made where it is missing, once of however many processes.

    Raises:
        UnavailableError: the folder cannot be written.
        UsageError: the private key may be read by others, or only the public one is here.
        CorruptError: the key is damaged.
    """
    folder = keys / FOLDER
    if not _NAME.fullmatch(writer):
        raise UsageError(f"{writer!r} is no name of a writer: it names files in {folder}.")
    private, public, since = (
        folder / f"{writer}.pem",
        folder / f"{writer}{_PUBLIC}",
        folder / f"{writer}.since",
    )
    try:
        make_folder(folder)
        # looked for before the private one, which another process makes first: seen in the other
        # order, a pair that is being made looks as if its private key were missing
        published = public.exists()
        if not private.exists():
            # A new key here would make every event that the other one signed look forged.
            if published:
                raise UsageError(
                    f"{folder} has the public key of {writer} alone, so nothing can be "
                    f"signed here: put {private.name} beside it, or rename "
                    f"{public.name} to {writer}.other{_PUBLIC} to have a key made here and "
                    "believe both."
                )
            # Before the key: events are never signed while nothing says since when they have to be.
            place(since, f"{clock.now_us()}\n".encode(), 0o600)
            place(private, private_pem(Ed25519PrivateKey.generate()), 0o600)
        key = read_private(private, what="events that everybody here believes")
        if not public.exists():
            place(public, pem_of(key.public_key()), 0o600)
    except OSError as error:
        raise UnavailableError(
            f"The keys that sign events cannot be made in {folder} ({error.strerror}): "
            "make it writable, or set ESPER_SERVICE__KEYS."
        ) from error
    return Signer(key)


def ensure_all(keys: Path, clock: Clock) -> None:
    """Make what is missing of every writer's pair. Raises as `ensure` does."""
    for writer in WRITERS:
        if not (keys / FOLDER / f"{writer}{_PUBLIC}").exists():
            ensure(keys, writer, clock)


def trust(keys: Path) -> Trust:
    """What this installation believes; where it has no key, everything.

    Raises:
        CorruptError: a public key or a note of an import is damaged.
        UsageError: one cannot be read.
    """
    folder = keys / FOLDER
    writers: dict[str, set[str]] = {}
    since: dict[str, int] = {}
    runs: dict[str, OfRun] = {}
    try:
        for path in sorted(folder.glob(f"*{_PUBLIC}")):
            writers.setdefault(path.name.partition(".")[0], set()).add(
                public_text(path.read_bytes(), path)
            )
        for path in folder.glob("*.since"):
            since[path.stem] = int(path.read_text())
        for path in (folder / _RUNS).glob("*.json"):
            raw = json.loads(path.read_text())
            runs[str(raw["run_id"])] = OfRun(
                frozenset(map(str, raw["keys"])), int(raw["unsigned_until_us"])
            )
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be read ({error.strerror}): it has the public keys that "
            "events are held against."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptError(
            f"{folder} has a damaged file ({error}): restore it, or events cannot be held "
            "against it."
        ) from error
    return Trust(
        {writer: frozenset(public_keys) for writer, public_keys in writers.items()}, since, runs
    )


def believe_run(
    keys: Path, run_id: str, signers: Iterable[str], *, unsigned_until_us: int = 0
) -> None:
    """Believe these keys, and unsigned events that the broker has before a time, for one run: it
    was imported.

    Raises:
        UnavailableError: the folder cannot be written.
    """
    folder = keys / FOLDER / _RUNS
    path = folder / f"{hashlib.sha256(run_id.encode()).hexdigest()[:32]}.json"
    note = {"run_id": run_id, "keys": sorted(signers), "unsigned_until_us": unsigned_until_us}
    try:
        make_folder(folder)
        # `place` never replaces: what an interrupted import noted has to go first
        path.unlink(missing_ok=True)
        place(path, (json.dumps(note, sort_keys=True) + "\n").encode(), 0o600)
    except OSError as error:
        raise UnavailableError(
            f"{path} cannot be written ({error.strerror}); nothing was imported."
        ) from error


class Keyring:
    """The trust of a part that lives for long: read again when the folder has changed.

    Safe to use from several threads.
    """

    def __init__(self, keys: Path) -> None:
        self._keys = keys
        self._guard = threading.Lock()
        self._seen: tuple[int, int] | None = None
        self._trust = Trust()

    def trust(self) -> Trust:
        """As `trust` gives and raises."""
        folder = self._keys / FOLDER
        # Taken before the folder is read: what changes meanwhile is seen at the next call.
        seen = (_changed_ns(folder), _changed_ns(folder / _RUNS))
        with self._guard:
            if seen != self._seen:
                self._trust, self._seen = trust(self._keys), seen
            return self._trust


def pem_of(key: Ed25519PublicKey) -> bytes:
    """A public key as a file."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def public_text(pem: bytes, path: Path | str) -> str:
    """The public key in the PEM file at `path`, as events name it.

    Raises:
        CorruptError: it is none.
    """
    try:
        key = load_pem_public_key(pem)
    except ValueError as error:
        raise CorruptError(
            f"{path} holds no public key: restore it, or remove it to believe nothing that "
            "it signed."
        ) from error
    if not isinstance(key, Ed25519PublicKey):
        raise CorruptError(f"{path} holds no Ed25519 key: restore it, or remove it.")
    return text_of(key)


def _changed_ns(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0
