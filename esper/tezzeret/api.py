"""What the foundry serves on its port: Urza's kernels, the schema registry's paths, its own status
and health.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from fastapi import FastAPI

from esper.clock import Clock
from esper.config import Settings
from esper.service import AuditEntry, create_app, registry_paths, requires
from esper.tezzeret.answer import SENDER
from esper.tezzeret.service import Foundry
from esper.urza import api


def build(
    foundry: Foundry, *, settings: Settings, clock: Clock, audit: Callable[[AuditEntry], None]
) -> FastAPI:
    """The app of a foundry; raises as `create_app` does."""
    app = create_app(
        title="Urza",
        part=SENDER,
        settings=settings,
        clock=clock,
        ready=lambda: {"topics_read": foundry.status.ready, "progress": foundry.progress.well()},
        details=lambda: {**foundry.progress.details(), "dead_letters": foundry.refusals.total},
        audit=audit,
        reading=registry_paths.READING,
    )

    @app.get("/api/v1/status", dependencies=[requires("viewer")], tags=["status"])
    async def status() -> dict[str, bool | int | str]:
        """What the foundry knows, what waits for it, and its problem if it has one."""
        return asdict(foundry.status)

    app.include_router(api.router(foundry.shelf, foundry.store))
    app.include_router(registry_paths.router())
    return app
