"""Real servers that alerts are sent to in tests: a webhook, an Alertmanager, a mail server."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Posted:
    """A request that was posted."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """Its body."""
        return json.loads(self.body)


@dataclass
class Listener:
    """What a server was sent, and with which statuses it answers next; then with 200."""

    url: str = ""
    posted: list[Posted] = field(default_factory=list)
    mails: list[Message] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)


@contextmanager
def listening() -> Iterator[Listener]:
    """A server that takes whatever is posted to it."""
    listener = Listener()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # its name there
            body = self.rfile.read(int(self.headers["Content-Length"]))
            listener.posted.append(Posted(self.path, dict(self.headers.items()), body))
            self.send_response(listener.statuses.pop(0) if listener.statuses else 200)
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, _served(server):
        listener.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield listener


@contextmanager
def taking_mail() -> Iterator[Listener]:
    """A mail server: as much of RFC 5321 as a client without options asks for."""
    listener = Listener()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 test ESMTP\r\n")
            for line in self.rfile:
                command = line.split(None, 1)[0].upper() if line.strip() else b""
                if command == b"DATA":
                    self.wfile.write(b"354 go on\r\n")
                    lines = iter(self.rfile.readline, b".\r\n")
                    text = b"".join(one.removeprefix(b".") for one in lines)
                    listener.mails.append(message_from_bytes(text, policy=default))
                self.wfile.write(b"221 bye\r\n" if command == b"QUIT" else b"250 fine\r\n")
                if command == b"QUIT":
                    return

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server, _served(server):
        server.daemon_threads = True
        listener.url = f"127.0.0.1:{server.server_address[1]}"
        yield listener


@contextmanager
def _served(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join(30)
