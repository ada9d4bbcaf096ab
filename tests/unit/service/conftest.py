"""A part with a few routes, served for real."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from pydantic import BaseModel

from esper.clock import ManualClock
from esper.config import ServiceSettings, Settings
from esper.errors import RejectedError, StorageFullError, UnavailableError, UsageError
from esper.service import CurrentCaller, create_app, requires
from tests.servicefixtures import Recorder, client_of, served


class Order(BaseModel):
    """A body."""

    count: int
    password: str = ""


@dataclass
class Part:
    """What the tests ask, and what they turn."""

    client: httpx.Client
    settings: Settings
    clock: ManualClock
    audit: Recorder
    checks: dict[str, bool]
    done: list[str] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)


ERRORS = {
    "usage": UsageError("No such thing; name another."),
    "rejected": RejectedError("Not now; wait."),
    "unavailable": UnavailableError("Kafka is away; wait."),
    "full": StorageFullError("No room; make some."),
    "fault": ValueError("a secret of the inside"),
}


def build(part: Part) -> FastAPI:
    """The part's app."""
    app = create_app(
        title="Test",
        part="test",
        settings=part.settings,
        clock=part.clock,
        ready=lambda: part.checks,
        audit=part.audit,
        reading=[("POST", "/api/v1/look")],
    )
    runs = APIRouter(prefix="/api/v1/runs", dependencies=[requires("viewer")])

    @app.get("/api/v1/status", dependencies=[requires("viewer")])
    async def status(caller: CurrentCaller) -> dict[str, str]:
        return {"subject": caller.subject, "role": caller.role}

    @app.get("/api/v1/errors/{name}", dependencies=[requires("viewer")])
    async def fail(name: str) -> None:
        raise ERRORS[name]

    @app.get("/api/v1/slow", dependencies=[requires("viewer")])
    def slow() -> None:
        part.gate.wait(10)

    @app.post("/api/v1/look", dependencies=[requires("viewer")])
    async def look() -> dict[str, bool]:
        return {"changed": False}

    @runs.post("/{run_id}/orders", dependencies=[requires("operator")])
    async def order(run_id: str, order: Order) -> dict[str, int]:
        if order.count == 7:
            raise ERRORS["fault"]
        part.done.append(run_id)
        return {"count": order.count}

    @runs.delete("/{run_id}", dependencies=[requires("admin")])
    async def remove(run_id: str) -> None:
        part.done.append(f"removed {run_id}")

    app.include_router(runs)
    return app


@pytest.fixture
def part(tmp_path: Path) -> Iterator[Part]:
    """One served part with a clock of its own."""
    limits = ServiceSettings(body_bytes=1_000, burst=1_000, in_flight=3, timeout_s=10.0)
    clock, settings = ManualClock(), Settings(home=tmp_path, service=limits)
    made = Part(client_of(""), settings, clock, Recorder(), {"consumes": True})
    with served(build(made), settings) as client:
        made.client = client
        yield made
        made.gate.set()
