"""Serves a part's app on 127.0.0.1: inside an event loop that somebody else runs, or in a thread of
its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import threading
from collections.abc import Iterator
from typing import Final

import uvicorn
from fastapi import FastAPI

from esper.clock import Clock
from esper.config import Settings
from esper.errors import UnavailableError
from esper.service.app import refuse_unguarded
from esper.service.checks.gate import LARGEST_HEAD
from esper.service.transport import certificates, sockets
from esper.service.transport.connections import IDLE_S, ConnectionLimiter, Protocol

_START_S: Final = 30.0
_GRACE_S: Final = 2
_DESCRIPTORS: Final = 65_536


class Server:
    """One app on one port of this machine; 0 takes a free one, and `port` says which.

    HTTPS where the settings give a certificate.

    Esper's own programs reach it by the Unix socket beside the port (see
    `esper.service.transport.sockets`), by plain HTTP. Under a supervisor both sockets are the
    supervisor's. From here on both listen: whoever comes before `start` waits. `setting` names what
    the user sets to choose another port.

    Raises:
        UnavailableError: the port is in use.
        UsageError: a route demands no role, or the certificate cannot be used.
    """

    def __init__(
        self,
        app: FastAPI,
        *,
        settings: Settings,
        port: int,
        clock: Clock,
        setting: str = "this part's port",
    ) -> None:
        # Before anything listens.
        refuse_unguarded(app)
        pair = certificates.files(settings)
        self._clock = clock
        self._server = _Uvicorn(
            uvicorn.Config(
                app,
                ssl_certfile=pair[0] if pair else None,
                ssl_keyfile=pair[1] if pair else None,
                log_config=None,
                # A query string may hold a password (ClickHouse's clients send it so).
                access_log=False,
                server_header=False,
                # No proxy stands before a part, so X-Forwarded-For is only what a caller claims.
                proxy_headers=False,
                lifespan="on",
                ws="none",
                http=Protocol,
                h11_max_incomplete_event_size=LARGEST_HEAD,
                timeout_keep_alive=round(IDLE_S),
                timeout_graceful_shutdown=_GRACE_S,
            ),
            most=settings.service.connections,
        )
        try:
            # now, not in the thread: a certificate that does not fit ends in a sentence here
            self._server.config.load()
        except (OSError, ValueError) as error:
            if pair is None:
                raise
            raise certificates.unusable(pair, error) from error
        _raise_descriptors()
        self._listening = sockets.listening(settings, port, setting=setting)
        self.port: int = self._listening.port
        self.url = f"{settings.scheme}://{sockets.HOST}:{self.port}"
        self._thread: threading.Thread | None = None

    async def serve(self) -> None:
        """Answer until `stop` is called, or this is cancelled."""
        try:
            await self._server.serve(sockets=[self._listening.tcp, self._listening.own])
        except asyncio.CancelledError:
            if self._server.started:
                await self._server.shutdown(sockets=[])
            raise
        finally:
            self._listening.close()

    def start(self) -> None:
        """Answer in a thread of its own; returns once it does.

        Raises:
            UnavailableError: it does not begin within 30 s.
        """
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self.serve()), name="http", daemon=True
        )
        self._thread.start()
        deadline = self._clock.monotonic() + _START_S
        while not self._server.started:
            if not self._thread.is_alive() or self._clock.monotonic() > deadline:
                raise UnavailableError(
                    f"The HTTP server on port {self.port} did not start; its log says why."
                )
            self._thread.join(0.01)

    def stop(self) -> None:
        """Answer no more; requests under way have 2 s to end.

        Safe to call from any thread, and twice.
        """
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join()


class _Uvicorn(uvicorn.Server):
    """Uvicorn's server behind doors of ours, which hold `most` connections each."""

    def __init__(self, config: uvicorn.Config, *, most: int) -> None:
        super().__init__(config)
        self._most = most

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept.

        `sockets` are the TCP one, behind TLS where there is a certificate, and the Unix one, which
        needs none.
        """
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            raise UnavailableError("The part's own start failed; its log says why.")
        tcp, own = sockets or []
        doors = (
            ConnectionLimiter(tcp, self._protocol, context=self.config.ssl, most=self._most),
            ConnectionLimiter(own, self._protocol, context=None, most=self._most),
        )
        self.servers = list(doors)  # type: ignore[arg-type]  # of asyncio's servers it uses close and wait_closed alone
        self.started = True

    def _protocol(self) -> Protocol:
        return Protocol(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to the process that this is a part of."""
        yield


def _raise_descriptors() -> None:
    """Let this process open as many files as it may: connections and data both need descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(OSError, ValueError):  # macOS has a limit below its hard limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
