"""Urza's API: kernels by what they fit, ranked by what they were worth, with lineage, checksum and
bytes.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Query, Request, Response

from esper.errors import CorruptError
from esper.events.geometry import parse
from esper.events.records import KernelPublished
from esper.service import ProblemError, requires
from esper.urza.catalogue import compatible, rank
from esper.urza.metadata import KernelMetadata, Page, Score, cursor_of, metadata, score_of
from esper.urza.shelf import KernelShelf
from esper.urza.store import Store

_MOST: Final = 500


def router(shelf: KernelShelf, store: Store) -> APIRouter:
    """The routes under /api/v1/kernels, for viewers; binaries for operators.

    `store` gives them in the clear.
    """
    routes = APIRouter(
        prefix="/api/v1/kernels", tags=["kernels"], dependencies=[requires("viewer")]
    )

    @routes.get("")
    async def kernels(
        tag: Annotated[
            tuple[str, ...],
            Query(description="Only kernels that have each of these", examples=[["family=conv1d"]]),
        ] = (),
        in_features: Annotated[
            int | None,
            Query(
                ge=1,
                description=(
                    "Features of the layer's input; with out_features: only kernels that fit "
                    "such a layer"
                ),
            ),
        ] = None,
        out_features: Annotated[
            int | None, Query(ge=1, description="Width of the chunk that the kernel is for")
        ] = None,
        geometry: Annotated[
            str,
            Query(
                description="The layer's positions, as events write them; empty for features alone",
                examples=["sequence in 16"],
            ),
        ] = "",
        blend: Annotated[
            Literal["RESIDUAL", "LERP"] | None, Query(description="How it is blended")
        ] = None,
        tap: Annotated[
            Literal["LAYER_INPUT", "HOST_CHUNK"] | None, Query(description="What it reads")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=_MOST, description="Kernels on one page")] = 50,
        cursor: Annotated[str, Query(description="`next` of the page before")] = "",
    ) -> Page:
        """Kernels that fit, the best first: by mean reward where runs have shown one,
        then by cost.
        """
        parse(geometry)
        entries = (
            tuple(shelf.catalogue)
            if in_features is None or out_features is None
            else compatible(
                shelf.catalogue,
                in_features=in_features,
                chunk_width=out_features,
                geometry=geometry,
            )
        )
        fitting = [
            entry
            for entry in entries
            if set(tag) <= set(entry.tags)
            and entry.in_features
            == (
                in_features
                if in_features is not None and out_features is None
                else entry.in_features
            )
            and entry.out_features == (out_features or entry.out_features)
            and entry.geometry == (geometry if geometry and in_features is None else entry.geometry)
            and blend in {None, entry.blend}
            and tap in {None, entry.tap}
        ]
        return _page(fitting, shelf, limit, cursor)

    @routes.get("/{kernel_id}")
    async def kernel(kernel_id: str) -> KernelMetadata:
        """What is known of a kernel: shapes, cost, checksum, lineage, performance."""
        return metadata(_known(shelf, kernel_id), shelf)

    @routes.get(
        "/{kernel_id}/artefact",
        response_class=Response,
        responses={200: {"content": {"application/octet-stream": {}}}},
        dependencies=[requires("operator")],
    )
    def artefact(kernel_id: str, request: Request) -> Response:
        """A kernel's bytes in the clear, for operators alone, a safetensors file.

        `X-Content-SHA256` and the ETag are its SHA-256, which holds before they are sent.
        """
        entry = _known(shelf, kernel_id)
        headers = {
            "ETag": f'"{entry.sha256}"',
            "X-Content-SHA256": entry.sha256,
            # RFC 9530
            "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(entry.sha256)).decode()}:",
            "Content-Disposition": f'attachment; filename="{entry.kernel_id}.safetensors"',
            "Cache-Control": "private, immutable, max-age=31536000",
        }
        # the header may list several tags, and weak ones
        if f'"{entry.sha256}"' in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        content = store.get(entry.address)
        if content is None:
            raise ProblemError(
                404,
                (
                    f"The artefact of kernel {kernel_id} is not in the store; the next field "
                    "report that needs it builds it anew."
                ),
            )
        # the headers promise this digest, and a client may keep the bytes for a year
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise CorruptError(
                f"The artefact of kernel {kernel_id} is damaged in the store; the next "
                "field report that needs it builds it anew."
            )
        return Response(content, media_type="application/octet-stream", headers=headers)

    return routes


def _known(shelf: KernelShelf, kernel_id: str) -> KernelPublished:
    entry = shelf.catalogue.kernels.get(kernel_id)
    if entry is None:
        raise ProblemError(
            404,
            (
                f"There is no kernel {kernel_id[:80]!r}; GET /api/v1/kernels lists those that "
                "there are."
            ),
        )
    return entry


def _page(entries: list[KernelPublished], shelf: KernelShelf, limit: int, cursor: str) -> Page:
    """A page of `entries`.

    The cursor is a place in the order, so that kernels published meanwhile neither double nor hide
    others.
    """
    scores = {
        entry.kernel_id: known.score
        for entry in entries
        if (known := shelf.performances.of(entry.kernel_id))
    }
    ranked = rank(entries, scores)

    def place(entry: KernelPublished) -> Score:
        return (-scores.get(entry.kernel_id, 0.0), entry.flops, entry.kernel_id)

    # compared with `place`, which has to be the key of `rank`
    after = score_of(cursor) if cursor else None
    rest = [entry for entry in ranked if after is None or place(entry) > after]
    shown = rest[:limit]
    return Page(
        kernels=tuple(metadata(entry, shelf) for entry in shown),
        total=len(ranked),
        next=cursor_of(place(shown[-1])) if len(rest) > limit else None,
    )
