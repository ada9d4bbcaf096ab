"""The ClickHouse HTTP interface over the history, read only and for this machine alone: clickhouse-connect, Grafana and curl work unchanged.

Source: ClickHouse documentation, "HTTP interface".
"""

from __future__ import annotations

import gzip
import json
import re
import socket
import ssl
import threading
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from email import message_from_bytes
from email.message import Message as Mail
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import structlog

from esper.errors import UnavailableError
from esper.history.engine import Engine, QueryError
from esper.history.frames import framed
from esper.history.guard import check
from esper.history.native import FIRST_REVISION, at_revision
from esper.service.limits import names_this_machine
from esper.service.problems import ProblemError
from esper.service.tokens import Gatekeeper

_TRANSPORT: Final = frozenset(
    {
        "query",
        "database",
        "default_format",
        "session_id",
        "session_timeout",
        "session_check",
        "close_session",
        "query_id",
        "quota_key",
        "user",
    }
    | {
        "password",
        "role",
        "compress",
        "decompress",
        "wait_end_of_query",
        "buffer_size",
        "client_protocol_version",
        "stacktrace",
        "readonly",
    }
    | {
        "enable_http_compression",
        "network_compression_method",
        "http_zlib_compression_level",
        "send_progress_in_http_headers",
        "http_headers_progress_interval_ms",
    }
    | {"cancel_http_readonly_queries_on_client_close", "http_response_buffer_size", "http_wait_end_of_query"}
)
"""Parameters of a request that are no settings of its query."""

_CONTENT_TYPES: Final = {
    "json": "application/json; charset=UTF-8",
    "csv": "text/csv; charset=UTF-8; header=absent",
    "csvwithnames": "text/csv; charset=UTF-8; header=present",
    "tabseparated": "text/tab-separated-values; charset=UTF-8",
    "tsv": "text/tab-separated-values; charset=UTF-8",
    "tabseparatedwithnames": "text/tab-separated-values; charset=UTF-8",
    "jsoneachrow": "application/x-ndjson; charset=UTF-8",
    "xml": "application/xml; charset=UTF-8",
    "pretty": "text/plain; charset=UTF-8",
    "vertical": "text/plain; charset=UTF-8",
}
_AUTHENTICATION_FAILED: Final = 516
_STATUS: Final = {
    _AUTHENTICATION_FAILED: 401,
    62: 400,
    36: 400,
    47: 404,
    46: 404,
    60: 404,
    81: 404,
    115: 404,
    164: 403,
    48: 501,
    159: 504,
    241: 507,
}
_INSERT: Final = re.compile(r"\s*insert\b", re.IGNORECASE)
_MAX_BODY: Final = 16 << 20
_QUERIES_AT_ONCE: Final = 4

_log = structlog.get_logger("esper.history")


@dataclass(frozen=True, slots=True)
class Response:
    """What goes back to the client."""

    status: int
    body: bytes
    headers: Mapping[str, str]


class HistoryServer:
    """Serves `engine` on 127.0.0.1:`port` (0: a free one) in threads of its own, over TLS with a context.

    `health` gives readiness and the rest of /health, which is open as /ping is; every query needs a token, of whatever role.
    """

    def __init__(
        self,
        engine: Engine,
        port: int,
        health: Callable[[], tuple[bool, dict[str, Any]]],
        *,
        gatekeeper: Gatekeeper,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._gatekeeper = gatekeeper
        self._engine = engine
        self._health = health
        self._turns = threading.BoundedSemaphore(_QUERIES_AT_ONCE)
        try:
            self._server = _Server(("127.0.0.1", port), _handler(self), tls)
        except OSError as error:
            raise UnavailableError(
                f"Port {port} of 127.0.0.1 is in use; set ESPER_HISTORY__PORT to another, or to 0 for a free one."
            ) from error
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="history-http", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no more; queries under way end by themselves."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def get(self, path: str) -> Response | None:
        """What stands at a path of its own; None where a query is meant."""
        if path in {"/ping", "/replicas_status"}:
            return Response(200, b"Ok.\n", {"Content-Type": "text/html; charset=UTF-8"})
        if path == "/health":
            ready, more = self._health()
            body = json.dumps({"ready": ready, **more}).encode()
            return Response(200 if ready else 503, body, {"Content-Type": "application/json"})
        return None

    def refusal(self, headers: Mail, parameters: Mapping[str, str]) -> Response | None:
        """ClickHouse's answer to a request without a valid token; None where it has one, in any of the ways in which ClickHouse takes a password."""
        try:
            if authorization := headers.get("Authorization"):
                self._gatekeeper.of_authorization(authorization)
            else:
                self._gatekeeper.caller(headers.get("X-ClickHouse-Key") or parameters.get("password", ""))
        except ProblemError as problem:
            user = headers.get("X-ClickHouse-User") or parameters.get("user") or "default"
            error = QueryError(
                _AUTHENTICATION_FAILED,
                f"Code: 516. DB::Exception: {user[:80]}: Authentication failed: {problem.detail} (AUTHENTICATION_FAILED)",
            )
            failed = _failure(error)
            return replace(failed, headers={**failed.headers, "WWW-Authenticate": 'Basic realm="ClickHouse server HTTP API"'})
        return None

    def query(self, parameters: Mapping[str, str], text: str) -> Response:
        """Answer a query: the parameter `query`, then the body."""
        sql = "\n".join(part for part in (parameters.get("query", ""), text) if part)
        if not sql:
            return Response(200, b"Ok.\n", {"Content-Type": "text/html; charset=UTF-8"})
        try:
            if parameters.get("decompress") == "1":
                raise QueryError(
                    164,
                    "Code: 164. DB::Exception: Cannot execute query in readonly mode: a compressed body is taken for an insert. (READONLY)",
                )
            checked = check(sql)
            default = parameters.get("default_format") or "TabSeparated"
            settings = {name: value for name, value in parameters.items() if name not in _TRANSPORT and not name.startswith("param_")}
            values = {name.removeprefix("param_"): value for name, value in parameters.items() if name.startswith("param_")}
            with self._turns:
                answer = self._engine.answer(checked.sql, default_format=default, settings=settings, parameters=values)
            name = checked.format or default
            body = answer.body
            if name.lower() == "native" and (revision := int(parameters.get("client_protocol_version") or 0)) >= FIRST_REVISION:
                body = at_revision(body, revision)
            if parameters.get("compress") == "1":
                body = framed(body)
        except QueryError as error:
            return _failure(error)
        summary = {
            "read_rows": str(answer.read_rows),
            "read_bytes": str(answer.read_bytes),
            "written_rows": "0",
            "written_bytes": "0",
            "total_rows_to_read": "0",
            "result_rows": "0",
            "result_bytes": str(len(body)),
            "elapsed_ns": str(answer.elapsed_ns),
        }
        headers = {
            "Content-Type": _content_type(name),
            "X-ClickHouse-Format": name,
            "X-ClickHouse-Summary": json.dumps(summary),
            "X-ClickHouse-Query-Id": parameters.get("query_id", ""),
            "X-ClickHouse-Timezone": "UTC",
        }
        return Response(200, body, headers)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None) -> None:
        self._tls = tls
        super().__init__(address, handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        """A connection; its TLS handshake is left to its own thread."""
        connection, address = super().get_request()
        if self._tls is not None:
            connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the base class's signature
        """A client that went away is no error of ours."""
        _log.debug("request ended early", exc_info=True)


def _content_type(name: str) -> str:
    lower = name.lower()
    if lower.startswith("pretty"):
        lower = "pretty"
    if lower.startswith("json") and lower not in _CONTENT_TYPES:
        lower = "json"
    return _CONTENT_TYPES.get(lower, "application/octet-stream")


def _failure(error: QueryError) -> Response:
    headers = {
        "Content-Type": "text/plain; charset=UTF-8",
        "X-ClickHouse-Exception-Code": str(error.code),
        "X-ClickHouse-Format": "TabSeparated",
    }
    return Response(_STATUS.get(error.code, 400 if error.code < 100 else 500), f"{error}\n".encode(), headers)


def _form(content_type: str, body: bytes) -> dict[str, str]:
    """The fields of a multipart form, as clickhouse-connect sends long parameters."""
    mail: Mail = message_from_bytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    fields: dict[str, str] = {}
    for part in mail.walk():
        name = part.get_param("name", header="content-disposition")
        payload = part.get_payload(decode=True)
        if isinstance(name, str) and isinstance(payload, bytes):
            fields[name] = payload.decode()
    return fields


def _decoded(encoding: str, body: bytes) -> bytes:
    if encoding == "gzip":
        return gzip.decompress(body)
    if encoding == "deflate":
        return zlib.decompress(body)
    if encoding in {"", "identity"}:
        return body
    raise QueryError(  # clients compress so what they insert; queries come plain or by gzip
        164, f"Code: 164. DB::Exception: Cannot execute query in readonly mode: a body in {encoding} is taken for an insert. (READONLY)"
    )


def _handler(history: HistoryServer) -> type[BaseHTTPRequestHandler]:
    """The request handler of one server."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        server_version = "Esper-history"
        timeout = 60

        def do_GET(self) -> None:
            """A query in the address, or a path of its own."""
            self._respond(b"")

        def do_HEAD(self) -> None:
            """As GET, without the body."""
            self._respond(b"")

        def do_POST(self) -> None:
            """A query in the body."""
            length = int(self.headers.get("Content-Length") or 0)
            if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
                self._respond(self._chunks())
            elif length > _MAX_BODY:
                self.close_connection = True
                self._send(_failure(QueryError(62, "Code: 62. DB::Exception: The query is larger than 16 MiB. (SYNTAX_ERROR)")))
            else:
                self._respond(self.rfile.read(length))

        def _chunks(self) -> bytes:
            out = b""
            while (size := int(self.rfile.readline().partition(b";")[0], 16)) > 0 and len(out) + size <= _MAX_BODY:
                out += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return out

        def _respond(self, body: bytes) -> None:
            if not names_this_machine(self.headers.get("Host", "")):
                self._send(Response(403, b"The history answers this machine only.\n", {"Content-Type": "text/plain"}))
                return
            address = urlsplit(self.path)
            if (found := history.get(address.path)) is not None:
                self._send(found)
                return
            parameters = dict(parse_qsl(address.query, keep_blank_values=True))
            if (refused := history.refusal(self.headers, parameters)) is not None:
                self._send(refused)
                return
            try:
                if _INSERT.match(parameters.get("query", "")):
                    check(parameters["query"])  # refused for what it is, before its body is looked at
                text = self._text(_decoded(self.headers.get("Content-Encoding", ""), body), parameters)
            except QueryError as error:
                self._send(_failure(error))
                return
            except (UnicodeDecodeError, OSError, zlib.error) as error:
                self._send(_failure(QueryError(62, f"Code: 62. DB::Exception: The body cannot be read: {error}. (SYNTAX_ERROR)")))
                return
            if default := self.headers.get("X-ClickHouse-Format"):
                parameters.setdefault("default_format", default)
            self._send(history.query(parameters, text), compress=parameters.get("enable_http_compression") == "1")

        def _text(self, body: bytes, parameters: dict[str, str]) -> str:
            """The query in the body; the fields of a form join `parameters`."""
            kind = self.headers.get("Content-Type", "")
            if kind.startswith("multipart/form-data"):
                parameters.update(_form(kind, body))
                return ""
            return body.decode()

        def _send(self, response: Response, *, compress: bool = False) -> None:
            body = response.body
            self.send_response(response.status)
            for name, value in response.headers.items():
                self.send_header(name, value)
            accepted = self.headers.get("Accept-Encoding", "")
            if compress and "gzip" in accepted:
                body = gzip.compress(body, compresslevel=3)
                self.send_header("Content-Encoding", "gzip")
            elif compress and "deflate" in accepted:
                body = zlib.compress(body, 3)
                self.send_header("Content-Encoding", "deflate")
            self.send_header("X-ClickHouse-Server-Display-Name", "esper")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's signature
            """Requests are not logged."""

    return Handler
