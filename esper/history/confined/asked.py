"""What a request asks: its parameters, its body unpacked, and what of both is the query, its
settings and the values of its parameters.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl

from starlette.datastructures import Headers

from esper.history.confined.guard import check
from esper.history.confined.refusal import BAD_ARGUMENTS, SYNTAX, read_only, refused

_LISTED: Final = """
query database default_format session_id session_timeout session_check close_session query_id
quota_key user password role compress decompress wait_end_of_query buffer_size
client_protocol_version stacktrace readonly enable_http_compression network_compression_method
http_zlib_compression_level send_progress_in_http_headers http_headers_progress_interval_ms
cancel_http_readonly_queries_on_client_close http_response_buffer_size http_wait_end_of_query
"""
TRANSPORT: Final = frozenset(_LISTED.split())
"""Parameters of a request that are no settings of its query."""

_PARAMETER: Final = "param_"
_MOST_PARAMETERS: Final = 1_000
_INSERT: Final = re.compile(r"\s*insert\b", re.IGNORECASE)
_QUERY_ID: Final = re.compile(r"[A-Za-z0-9._:/+@=-]{0,256}")
_REVISION: Final = re.compile(r"[0-9]{1,9}")
_BOUNDARY: Final = re.compile(r'boundary="?([^\s";,]{1,100})(?![^\s";,])', re.IGNORECASE)
_FIELD: Final = re.compile(
    rb'content-disposition:[^\r\n]{0,200}?[;\s]name="?([A-Za-z0-9_]{1,200})"?', re.IGNORECASE
)
_WINDOWS: Final = {"gzip": 31, "deflate": 15}


@dataclass(frozen=True, slots=True)
class Asked:
    """One request.

    `compress` and `frames` say how the answer may go, `revision` which Native the client reads.
    """

    sql: str
    default_format: str
    settings: Mapping[str, str]
    parameters: Mapping[str, str]
    query_id: str
    revision: int
    frames: bool
    compress: bool


def asked(query_string: bytes, headers: Headers, body: bytes, *, most: int) -> Asked:
    """The request in an address, its headers and its body, which may unpack to `most` bytes.

    Raises:
        QueryError: it cannot be read, or a parameter has a value that it does not take.
    """
    given = _parameters(query_string)
    if given.get("decompress") == "1":
        raise read_only("a compressed body is taken for an insert")
    if _INSERT.match(given.get("query", "")):
        check(given["query"])  # refused for what it is, before its body is looked at
    text = _text(headers, body, given, most)
    query_id, revision = given.get("query_id", ""), given.get("client_protocol_version") or "0"
    if not _QUERY_ID.fullmatch(query_id):
        raise refused(
            BAD_ARGUMENTS,
            "A query_id is at most 256 letters, digits and signs among . _ : / + @ = -",
        )
    if not _REVISION.fullmatch(revision):
        raise refused(BAD_ARGUMENTS, "client_protocol_version is a number.")
    return Asked(
        sql="\n".join(part for part in (given.get("query", ""), text) if part),
        default_format=given.get("default_format")
        or headers.get("x-clickhouse-format")
        or "TabSeparated",
        settings={
            name: value
            for name, value in given.items()
            if name not in TRANSPORT and not name.startswith(_PARAMETER)
        },
        parameters={
            name.removeprefix(_PARAMETER): value
            for name, value in given.items()
            if name.startswith(_PARAMETER)
        },
        query_id=query_id,
        revision=int(revision),
        frames=given.get("compress") == "1",
        compress=given.get("enable_http_compression") == "1",
    )


def _parameters(query_string: bytes) -> dict[str, str]:
    try:
        return dict(
            parse_qsl(
                # latin-1 takes any byte; what is escaped, parse_qsl decodes as UTF-8
                query_string.decode("latin-1"),
                keep_blank_values=True,
                max_num_fields=_MOST_PARAMETERS,
            )
        )
    except ValueError:
        raise refused(
            BAD_ARGUMENTS, f"A request has at most {_MOST_PARAMETERS} parameters."
        ) from None


def _text(headers: Headers, body: bytes, given: dict[str, str], most: int) -> str:
    """The query in the body.

    The fields of a form, as clickhouse-connect sends long parameters, join `given`.
    """
    unpacked = _unpacked(headers.get("content-encoding", ""), body, most)
    kind = headers.get("content-type", "")
    try:
        if kind.lower().startswith("multipart/form-data"):
            given.update(_form(kind, unpacked))
            return ""
        return unpacked.decode()
    except UnicodeDecodeError:
        raise refused(SYNTAX, "The body is not UTF-8.") from None


def _unpacked(encoding: str, body: bytes, most: int) -> bytes:
    """The body without its compression, which is undone no further than to `most` bytes."""
    if encoding in {"", "identity"}:
        return body
    if (
        window := _WINDOWS.get(encoding)
    ) is None:  # clients compress so what they insert; queries come plain or by gzip
        shown = "".join(character for character in encoding[:20] if character.isalnum())
        raise read_only(f"a body in {shown} is taken for an insert")
    unpacking = zlib.decompressobj(window)
    try:
        # one byte beyond the limit tells too much from just enough, and no bomb is unpacked
        content = unpacking.decompress(body, most + 1)
    except zlib.error as error:
        raise refused(SYNTAX, f"The body cannot be read: {error}.") from None
    if len(content) > most:
        raise refused(SYNTAX, f"The body is larger than {most} bytes when it is unpacked.")
    # bytes behind the stream would be a second body that only some readers see
    if not unpacking.eof or unpacking.unused_data:
        raise refused(SYNTAX, "The body ends before or after its compression does.")
    return content


def _form(kind: str, body: bytes) -> dict[str, str]:
    """The fields of a multipart form (RFC 7578), which is flat."""
    if (match := _BOUNDARY.search(kind)) is None:
        raise refused(SYNTAX, "The form has no boundary.")
    parts = body.split(b"--" + match.group(1).encode("latin-1"))
    if len(parts) > _MOST_PARAMETERS:
        raise refused(BAD_ARGUMENTS, f"A form has at most {_MOST_PARAMETERS} fields.")
    fields: dict[str, str] = {}
    for part in parts[1:]:
        head, separator, content = part.partition(b"\r\n\r\n")
        name = _FIELD.search(head[:2_000])
        if separator and name is not None:
            fields[name.group(1).decode()] = content.removesuffix(b"\r\n").decode()
    return fields
