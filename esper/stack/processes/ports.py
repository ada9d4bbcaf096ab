"""TCP ports of one stack: the well-known ones where they are free, the same ones again after a
restart.

A port is claimed by binding the UDP port of the same number for as long as the supervisor lives:
the kernel makes that exclusive on the whole machine and ends it with the process, so two stacks
that start at once never pick the same port, and nothing has to be cleaned up. A port whose server
inherits its socket is also listened on from the claim to the end: a claim by UDP keeps out other
stacks, a listening socket keeps out everybody. Ports come from below the ephemeral range, where no
outgoing connection can sit on them while a part is being restarted.
"""

from __future__ import annotations

import socket
import zlib
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import psutil

from esper.errors import UnavailableError
from esper.service.transport.sockets import BACKLOG, HOST, tcp_socket

__all__ = ["HOST", "PortClaims", "in_use", "is_free"]

_FIRST, _COUNT = 20_000, 10_000


class PortClaims:
    """The ports that this process holds for its parts, until `close` or its end."""

    def __init__(self) -> None:
        self._claims: dict[int, socket.socket] = {}
        self._listening: dict[int, socket.socket] = {}

    def choose(self, *, salt: str, preferred: tuple[int, ...], listen: bool = False) -> int:
        """Claim a free port, and `listen` on it: the first of `preferred` that is free, else one
        that `salt` spreads over the range.

        Raises:
            UnavailableError: none is free.
        """
        for port in (*preferred, *_spread(salt)):
            if port and self._claim(port, listen=listen):
                return port
        raise UnavailableError(
            f"no port between {_FIRST} and {_FIRST + _COUNT} is free on {HOST}: end what "
            "holds them and start again"
        )

    def require(self, port: int, *, name: str, setting: str, listen: bool = False) -> int:
        """Claim exactly `port`, which the user asked for by `setting`, and `listen` on it.

        Raises:
            UnavailableError: another program listens there.
        """
        if not self._claim(port, listen=listen):
            raise in_use(
                port,
                name=name,
                remedy=f"end that program, or set {setting} to another port or to 0 for a free one",
            )
        return port

    def listening(self, port: int) -> socket.socket:
        """The TCP socket of a port that was claimed with `listen`; it is closed with the claims."""
        return self._listening[port]

    def close(self) -> None:
        """Give all of them back."""
        for claim in (*self._listening.values(), *self._claims.values()):
            claim.close()
        self._listening.clear()
        self._claims.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _claim(self, port: int, *, listen: bool) -> bool:
        if port in self._claims:
            return False
        # Claimed by UDP: the mark lasts while TCP is free for a broker to listen on, and another
        # supervisor that claims the same port sees it.
        claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listening = tcp_socket()
        try:
            claim.bind((HOST, port))
            listening.bind((HOST, port))
            if listen:
                listening.listen(BACKLOG)
        except OSError:
            claim.close()
            listening.close()
            return False
        self._claims[port] = claim
        if listen:
            self._listening[port] = listening
        else:
            listening.close()
        return True


def is_free(port: int) -> bool:
    """Whether a server could listen on `port` of 127.0.0.1 now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # as a server will: without it, old connections in TIME_WAIT make a port look taken
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def in_use(port: int, *, name: str, remedy: str) -> UnavailableError:
    """The sentence for a port that another program holds."""
    return UnavailableError(f"port {port} for {name} is in use{_holder(port)}: {remedy}")


def _holder(port: int) -> str:
    try:
        for connection in psutil.net_connections(kind="tcp"):
            if (
                connection.laddr
                and connection.laddr.port == port
                and connection.status == psutil.CONN_LISTEN
                and connection.pid
            ):
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    # other users' processes cannot be looked at
    except psutil.Error:
        return ""
    return ""


def _spread(salt: str) -> Iterator[int]:
    # Each installation begins elsewhere, so that two rarely try the same port at once; and the same
    # one finds its own again.
    start = zlib.crc32(salt.encode())
    return (_FIRST + (start + offset) % _COUNT for offset in range(_COUNT))
