"""Serves a part's app on 127.0.0.1: inside an event loop that somebody else runs, or in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Final

import uvicorn
from fastapi import FastAPI

from esper.clock import Clock
from esper.config import Settings
from esper.errors import UnavailableError
from esper.service import certificates
from esper.service.app import refuse_unguarded

HOST: Final = "127.0.0.1"
_START_S: Final = 30.0
_GRACE_S: Final = 2
_IDLE_S: Final = 30
_LARGEST_HEAD: Final = 32 * 1024


class Server:
    """One app on one port of this machine; 0 takes a free one, and `port` says which. HTTPS where the settings give a certificate.

    `setting` names what the user sets to choose another port.

    Raises:
        UnavailableError: the port is in use.
        UsageError: a route demands no role, or the certificate cannot be used.
    """

    def __init__(self, app: FastAPI, *, settings: Settings, port: int, clock: Clock, setting: str = "this part's port") -> None:
        refuse_unguarded(app)
        pair = certificates.files(settings)
        self._clock = clock
        self._server = _Uvicorn(
            uvicorn.Config(
                app,
                ssl_certfile=pair[0] if pair else None,
                ssl_keyfile=pair[1] if pair else None,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                lifespan="on",
                ws="none",
                http="h11",
                h11_max_incomplete_event_size=_LARGEST_HEAD,
                timeout_keep_alive=_IDLE_S,
                timeout_graceful_shutdown=_GRACE_S,
            )
        )
        try:
            self._server.config.load()
        except (OSError, ValueError) as error:
            if pair is None:
                raise
            raise certificates.unusable(pair, error) from error
        self._socket = socket.socket(
            socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP
        )  # asyncio sets TCP_NODELAY only where the protocol is named
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((HOST, port))  # it listens only once it is served: until then clients are refused, not left waiting
        except OSError as error:
            self._socket.close()
            raise UnavailableError(
                f"Port {port} on {HOST} is in use: end what holds it, or set {setting} to another one, or to 0 for a free one."
            ) from error
        self.port: int = self._socket.getsockname()[1]
        self.url = f"{settings.scheme}://{HOST}:{self.port}"
        self._thread: threading.Thread | None = None

    async def serve(self) -> None:
        """Answer until `stop` is called, or this is cancelled."""
        try:
            await self._server.serve(sockets=[self._socket])
        except asyncio.CancelledError:
            if self._server.started:
                await self._server.shutdown(sockets=[self._socket])
            raise
        finally:
            self._socket.close()

    def start(self) -> None:
        """Answer in a thread of its own; returns once it does.

        Raises:
            UnavailableError: it does not begin within 30 s.
        """
        self._thread = threading.Thread(target=lambda: asyncio.run(self.serve()), name="http", daemon=True)
        self._thread.start()
        deadline = self._clock.monotonic() + _START_S
        while not self._server.started:
            if not self._thread.is_alive() or self._clock.monotonic() > deadline:
                raise UnavailableError(f"The HTTP server on port {self.port} did not start; its log says why.")
            self._thread.join(0.01)

    def stop(self) -> None:
        """Answer no more; requests under way have 2 s to end. Safe to call from any thread, and twice."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join()


class _Uvicorn(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to the process that this is a part of."""
        yield
