"""Tamiyo's answers over HTTP: what it knows of runs, what it decided, and commands of people for
seeds.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import FastAPI, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from esper.clock import Clock
from esper.events.records import Command, SeedCommand
from esper.service import CurrentCaller, ProblemError, requires
from esper_processors.tamiyo import run_views
from esper_processors.tamiyo.command_log import Commands, Order
from esper_processors.tamiyo.deciding.performance import Performance
from esper_processors.tamiyo.row import Row


class DecisionBody(BaseModel):
    """A decision of a person or a service for one seed."""

    model_config = ConfigDict(extra="forbid")

    command: Command
    layer: str = Field(min_length=1, max_length=200)
    seed: int = Field(ge=0)
    kernel_id: str = Field(
        default="",
        max_length=128,
        description="kernel to graft; needed for GERMINATE and for nothing else",
    )
    alpha: float = Field(
        default=-1.0,
        ge=-1,
        le=1,
        allow_inf_nan=False,
        description="blending weight to ramp to; negative means what the blueprint says",
    )
    reason: str = Field(min_length=1, max_length=400, description="why, in a sentence")
    expires_s: float = Field(
        default=60.0, gt=0, le=3600, description="seconds after which the command is void"
    )


@dataclass(frozen=True, slots=True)
class Tamiyo:
    """What the routes ask of the worker.

    `followed` says whether every command and answer of the last days was read.
    """

    rows: Callable[[], Mapping[str, Row]]
    performance: Callable[[str], Performance]
    commands: Commands
    followed: Callable[[], bool]
    give: Callable[[str, Order, str], Awaitable[SeedCommand]]
    clock: Clock


def add_routes(app: FastAPI, tamiyo: Tamiyo) -> None:
    """Add Tamiyo's routes; `/health` is the foundation's."""

    def row_of(run_id: str) -> Row:
        row = tamiyo.rows().get(run_id)
        if row is None:
            raise ProblemError(
                404,
                (
                    f"Tamiyo knows no run {run_id}: GET /api/v1/runs lists those that have "
                    "sent it a packet."
                ),
            )
        return row

    @app.get("/api/v1/runs", dependencies=[requires("viewer")])
    async def runs() -> dict[str, Any]:
        """Every run that has sent a packet to this worker."""
        return {
            "runs": [run_views.brief(run_id, row) for run_id, row in sorted(tamiyo.rows().items())]
        }

    @app.get("/api/v1/runs/{run_id}", dependencies=[requires("viewer")])
    async def run(run_id: str) -> dict[str, Any]:
        """What decisions on a run rest on: arms with their posterior, trials on the way.

        And the performance tracker.
        """
        return run_views.full(run_id, row_of(run_id), tamiyo.performance(run_id))

    @app.get("/api/v1/decisions", dependencies=[requires("viewer")])
    async def decisions(
        run: str = "", limit: Annotated[int, Query(ge=1, le=500)] = 50
    ) -> dict[str, Any]:
        """The newest answers to packets of a run, or of all, newest first.

        At most the last 32 of a run, the others are in the history.
        """
        rows = {run: row_of(run)} if run else tamiyo.rows()
        return {"decisions": run_views.decisions(rows, limit=limit)}

    @app.post(
        "/api/v1/runs/{run_id}/decisions", dependencies=[requires("operator")], status_code=202
    )
    async def decide(
        run_id: str, body: DecisionBody, caller: CurrentCaller, response: Response
    ) -> dict[str, Any]:
        """Send a command for a seed to the run's trainer, whose guardrails apply to it as to every
        other; Location tells of its answer.
        """
        row_of(run_id)
        if (body.command == "GERMINATE") != bool(body.kernel_id):
            raise ProblemError(
                422,
                (
                    "kernel_id goes with GERMINATE and with nothing else: name the kernel to "
                    "graft, or leave it out."
                ),
            )
        if body.command == "SET_ALPHA" and body.alpha < 0:
            raise ProblemError(422, "SET_ALPHA needs an alpha between 0 and 1.")
        command = await tamiyo.give(run_id, Order(**body.model_dump()), caller.subject)
        response.headers["Location"] = f"/api/v1/commands/{command.event_id}"
        return {
            "command_id": command.event_id,
            "run_id": run_id,
            "expires_at": command.expires_at,
            "status": "PENDING",
        }

    @app.get("/api/v1/commands/{command_id}", dependencies=[requires("viewer")])
    async def command(command_id: str) -> dict[str, Any]:
        """A command of the last 7 days, and how the trainer has answered it: PENDING, APPLIED,
        REJECTED or, unanswered in time, EXPIRED.
        """
        record = tamiyo.commands.find(command_id, tamiyo.clock.now_us())
        if record is None and not tamiyo.followed():
            raise ProblemError(
                503,
                "Tamiyo is still reading the commands of the last days; try again.",
                headers={"Retry-After": "1"},
            )
        if record is None:
            raise ProblemError(404, f"There was no command {command_id} in the last 7 days.")
        return dict(record)
