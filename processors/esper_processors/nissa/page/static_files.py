"""The page's own files, which say nothing of any run, and so are given without a token."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Final

from fastapi import FastAPI, Response

_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".svg": "image/svg+xml",
}
_INDEX: Final = "index.html"
_FOLDER: Final = "/page"


@cache
def contents() -> dict[str, tuple[bytes, str]]:
    """Content and media type of each file, by the path at which it is served."""
    found: dict[str, tuple[bytes, str]] = {}
    for file in files(__package__).joinpath("assets").iterdir():
        kind = _TYPES.get(file.name[file.name.rfind(".") :])
        if kind is not None:
            path = "/" if file.name == _INDEX else f"{_FOLDER}/{file.name}"
            found[path] = (file.read_bytes(), kind)
    return found


def add_files(app: FastAPI) -> None:
    """Serve each of them at its path."""
    for path, (content, kind) in contents().items():

        async def file(content: bytes = content, kind: str = kind) -> Response:
            return Response(content, media_type=kind)

        app.add_api_route(path, file, methods=["GET"], include_in_schema=False)
