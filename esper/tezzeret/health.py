"""`GET /health` of the foundry: 200 once it consumes, 503 before."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from esper.errors import UnavailableError


@contextmanager
def health_endpoint(port: int, status: Callable[[], Mapping[str, object]]) -> Iterator[int]:
    """Serve `status()` on 127.0.0.1 as JSON; its "ready" decides between 200 and 503. Gives the port taken; 0 takes a free one.

    Raises:
        UnavailableError: the port is in use.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answer."""
            found = dict(status()) if self.path == "/health" else {"error": "There is only /health here."}
            code = HTTPStatus.NOT_FOUND if "error" in found else HTTPStatus.OK if found["ready"] else HTTPStatus.SERVICE_UNAVAILABLE
            body = json.dumps(found).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- http.server's name
            """Health checks are not worth a line."""

    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except OSError as error:
        raise UnavailableError(f"Port {port} on 127.0.0.1 is in use; set ESPER_URZA__PORT to another one.") from error
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="health", daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
