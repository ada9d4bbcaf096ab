"""Where a part listens: TCP on 127.0.0.1 for everybody of this machine who has a token, and a Unix
socket for Esper's own programs.

The Unix socket lies in a folder that only its owner can enter. So no other user can fill its queue,
and nobody else can answer there: what Esper's programs send to a part, tokens above all, reaches
that part or nobody. TCP ports give neither.

Under a supervisor both sockets are the supervisor's: it binds them once, and each life of the part
inherits them. The port is never free while the stack lives, and connections that come between two
lives wait for the next one.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import stat
import struct
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from esper.config import Settings
from esper.disk import make_folder
from esper.errors import UnavailableError, UsageError

HOST: Final = "127.0.0.1"
INHERITED: Final = "ESPER_LISTEN_FDS"
"""The variable by which a supervisor tells a part its sockets: descriptors of the TCP and of the
Unix socket.
"""

BACKLOG: Final = 1024
_LONGEST: Final = 100
"""Bytes of a path that fit everywhere: the kernel takes 108 on Linux, 104 on macOS, with the zero
at the end.
"""
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True, slots=True)
class Listening:
    """The two sockets of one part; both listen."""

    port: int
    tcp: socket.socket
    own: socket.socket
    """For Esper's programs alone."""

    @property
    def descriptors(self) -> tuple[int, int]:
        """What a child has to inherit to serve them."""
        return self.tcp.fileno(), self.own.fileno()

    def handed(self) -> dict[str, str]:
        """The variable by which a child finds what it inherits."""
        return {INHERITED: ",".join(map(str, self.descriptors))}

    def close(self) -> None:
        """Give both back."""
        self.own.close()
        self.tcp.close()


def listening(settings: Settings, port: int, *, setting: str) -> Listening:
    """The sockets of a part: those that the supervisor hands over for `port`, else new ones.

    0 takes a free port.

    Raises:
        UnavailableError: the port is in use, or the folder of the Unix sockets cannot be used;
            `setting` is what the user sets for another port.
        UsageError: others may enter that folder.
    """
    if (given := _inherited(port, os.environ)) is not None:
        # A supervisor holds the port while a part is restarted, so that no other program takes it.
        return given
    tcp = tcp_socket()
    try:
        tcp.bind((settings.service.bind, port))
        tcp.listen(BACKLOG)
    except OSError as error:
        tcp.close()
        raise UnavailableError(
            f"Port {port} on {settings.service.bind} is in use: end what holds it, or set "
            f"{setting} to another one, or to 0 for a free one."
        ) from error
    bound: int = tcp.getsockname()[1]
    try:
        return Listening(bound, tcp, own_socket(settings.sockets_dir, bound))
    except BaseException:
        tcp.close()
        raise


def tcp_socket() -> socket.socket:
    """A TCP socket for a server. The protocol is named because asyncio sets TCP_NODELAY
    only then.
    """
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    # A restarted part need not wait for its old connections' TIME_WAIT.
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return made


def own_socket(folder: Path, port: int) -> socket.socket:
    """The Unix socket beside `port`, which the caller holds: that makes whatever lies at its name a
    leftover.

    Raises:
        UnavailableError: the folder cannot be made or holds no sockets.
        UsageError: others may enter the folder.
    """
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        make_folder(folder)
        _require_private(folder)
        # Bound by a part that was killed: binding needs a name that is free.
        (folder / _name(port)).unlink(missing_ok=True)
        with _address(folder, port) as address:
            made.bind(address)
        made.listen(BACKLOG)
    except OSError as error:
        made.close()
        raise UnavailableError(
            f"No Unix socket can be made in {folder} ({error.strerror}): set "
            "ESPER_SERVICE__SOCKETS to a folder of yours on a local disk."
        ) from error
    except BaseException:
        made.close()
        raise
    return made


def connect(folder: Path, port: int, timeout: float) -> socket.socket:
    """A connection to the part of this installation that serves `port`.

    Raises:
        OSError: no part does.
        UsageError: others may enter the folder, so whoever answers may not be the part.
    """
    _require_private(folder)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.settimeout(timeout)
    try:
        with _address(folder, port) as address:
            made.connect(address)
        # The folder alone does not prove it: it may have been open when the socket was put there.
        if (peer := _peer(made)) not in {None, folder.stat().st_uid}:
            raise UsageError(
                f"A process of user {peer} answers in {folder}: run `esper down`, delete "
                "that folder, then run `esper up`."
            )
    except BaseException:
        made.close()
        raise
    return made


class LocalConnection(http.client.HTTPConnection):
    """An HTTP connection to the part that serves `port`, by its Unix socket in `folder`.

    It never goes to the port itself.
    """

    def __init__(self, folder: Path, port: int, *, timeout: float) -> None:
        super().__init__(HOST, port, timeout=timeout)
        self._folder = folder
        self._patience = timeout

    def connect(self) -> None:
        """As the base class says; raises as this module's `connect` does."""
        self.sock: socket.socket = connect(self._folder, self.port, self._patience)


def _inherited(port: int, environment: MutableMapping[str, str]) -> Listening | None:
    """What the supervisor has handed over, once.

    None where there is nothing, or nothing for `port`.
    """
    try:
        tcp, own = (int(number) for number in environment.get(INHERITED, "").split(","))
        if not (_listens(tcp) and _listens(own)):
            return None
    except (ValueError, OSError):
        return None
    taken = socket.socket(fileno=tcp)
    if taken.family != socket.AF_INET or taken.getsockname() != (HOST, port):
        taken.detach()
        return None
    del environment[INHERITED]  # the part's own children get neither the sockets nor their numbers
    for descriptor in (tcp, own):
        os.set_inheritable(descriptor, False)  # noqa: FBT003 -- the standard library's own signature
    return Listening(port, taken, socket.socket(fileno=own))


def _listens(descriptor: int) -> bool:
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        return False
    look = socket.socket(fileno=descriptor)
    try:
        return bool(look.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    finally:
        look.detach()


def _require_private(folder: Path) -> None:
    """Make sure that only its owner enters `folder`, and that this is who asks.

    Root may look at everybody's.

    Raises:
        OSError: it cannot be looked at.
        UsageError: it is another's, or open to others.
    """
    status = os.lstat(folder)
    if (
        not stat.S_ISDIR(status.st_mode)
        or status.st_mode & _OTHERS
        or os.geteuid() not in {status.st_uid, 0}
    ):
        raise UsageError(
            f"{folder} has to be a folder that its owner alone can enter, because tokens "
            "are sent there: delete it, or `chmod 700` it."
        )


def _peer(connection: socket.socket) -> int | None:
    """The uid of the process that listens at the other end.

    None where the system does not tell (only Linux has SO_PEERCRED).
    """
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    _, uid, _ = struct.unpack(
        "3i", connection.getsockopt(socket.SOL_SOCKET, option, struct.calcsize("3i"))
    )
    return int(uid)


def _name(port: int) -> str:
    return f"{port}.sock"


@contextlib.contextmanager
def _address(folder: Path, port: int) -> Iterator[str]:
    """The address of a Unix socket: its path, or, where that is too long, a shorter way to the same
    folder.

    Raises:
        UsageError: it is too long, and this system has no shorter way.
    """
    path = folder / _name(port)
    if len(os.fsencode(path)) <= _LONGEST:
        yield str(path)
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # The kernel takes 108 bytes for the path; through the open folder any path fits.
        short = Path(f"/proc/self/fd/{descriptor}")
        if not short.exists():
            raise UsageError(
                f"{path} is too long for the address of a socket: set "
                "ESPER_SERVICE__SOCKETS to a shorter folder of yours."
            )
        yield str(short / _name(port))
    finally:
        os.close(descriptor)
