"""The routes of Tolaria's control API."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, Final
from urllib.parse import quote

from fastapi import FastAPI, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from esper.clock import Clock
from esper.errors import UsageError
from esper.service import CurrentCaller, ProblemError, requires
from esper.tolaria.control import requests
from esper.tolaria.control.requests import Action, RequestSender
from esper.tolaria.control.run_ledger import RunLedger
from esper.tolaria.control.run_status import RunStatus
from esper.tolaria.control.trainers import Trainers
from esper.tolaria.recipes.allowed import Allowed
from esper.tolaria.recipes.recipe import load
from esper.tolaria.recipes.run_names import named, require_run_id

_PACKAGES: Final = ("torch", "confluent-kafka", "fastavro", "fastapi", "uvicorn")


class StartBody(BaseModel):
    """A run to be started, or an interrupted one to go on."""

    model_config = ConfigDict(extra="forbid")

    recipe: str = Field(
        default="",
        max_length=1000,
        description="name of a recipe or path of a file; may be left out to resume",
    )
    overrides: list[str] = Field(
        default_factory=list,
        max_length=200,
        description="changes of the recipe, each section.key=value",
    )
    run_id: str = Field(
        default="", max_length=128, description="the run's name; one is made when none is given"
    )
    resume: bool = Field(
        default=False, description="whether an interrupted run goes on, instead of a new one"
    )
    reason: str = Field(
        default="asked for over HTTP", max_length=400, description="why, in a sentence"
    )


class RequestBody(BaseModel):
    """A request to a trainer."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(
        default="asked for over HTTP", max_length=400, description="why, in a sentence"
    )
    expires_s: float = Field(
        default=60.0, gt=0, le=3600, description="seconds after which the request is void"
    )


class RollbackBody(RequestBody):
    """A request to go back."""

    snapshot_id: str = Field(
        default="", max_length=200, description="snapshot to restore; empty for the newest"
    )


@dataclass(frozen=True, slots=True)
class Control:
    """What the routes work with."""

    ledger: RunLedger
    trainers: Trainers
    outbound: RequestSender
    clock: Clock
    allowed: Allowed = field(default_factory=Allowed)

    def entry(self, run: RunStatus) -> dict[str, Any]:
        """A run in a list.

        STOPPED is one whose trainer has ended without saying so: it was killed, or the machine went
        down.
        """
        trainer = self.trainers.find(run.run_id)
        stopped = trainer is not None and not run.ended and not trainer.process.lives()
        return {
            "run_id": run.run_id,
            "status": "STOPPED" if stopped else run.status,
            "reason": run.reason,
            "recipe": run.recipe,
            "timeline": run.timeline,
            "epoch": run.epoch,
            "step": run.step,
            "total_steps": run.total_steps,
            "loss": run.loss,
            "accuracy": run.accuracy,
            "score": run.score,
            "score_name": run.score_name,
            "seeds": run.stages(),
            "started_at": run.started_at,
            "updated_at": run.updated_at,
            **asdict(self.ledger.notes_of(run.run_id)),
        }

    def listed(self) -> list[dict[str, Any]]:
        """Every run in a list, those that were heard of last first, without deleted ones."""
        runs = [
            run for run in self.ledger.runs() if not self.ledger.notes_of(run.run_id).deleted_at
        ]
        return [*self.unborn(), *map(self.entry, runs)]

    def unborn(self) -> list[dict[str, Any]]:
        """Runs whose trainer was started and has not written a journal: on their way, or failed
        before it.
        """
        journalled = {run.run_id for run in self.ledger.runs()}
        return [
            self._unborn(trainer.run_id)
            for trainer in self.trainers.all()
            if trainer.run_id not in journalled
        ]

    def full(self, run_id: str) -> dict[str, Any]:
        """Everything of a run.

        Raises:
            ProblemError: 404, there is none.
        """
        trainer = self.trainers.find(run_id)
        process = (
            trainer.as_json(self.trainers.log(run_id), self.trainers.exit_code(run_id))
            if trainer
            else None
        )
        run = self.ledger.run_of(run_id)
        if run is None:
            if trainer is None:
                raise ProblemError(404, f"There is no run {run_id}: GET /api/v1/runs lists all.")
            return {**self._unborn(run_id), "trainer": process}
        return {
            **self.entry(run),
            "decisions": run.decisions,
            "sequence": run.sequence,
            "incarnation": run.incarnation,
            "parameters": run.parameters,
            "train_loss": run.train_loss,
            "train_accuracy": run.train_accuracy,
            "validation_loss": run.validation_loss,
            "validation_accuracy": run.validation_accuracy,
            "layers": run.seeds,
            "rollbacks": run.rollbacks,
            "instability": run.last_instability or None,
            "checkpoints": [asdict(checkpoint) for checkpoint in reversed(run.checkpoints)],
            "trainer": process,
        }

    def going(self, run_id: str) -> RunStatus:
        """A run to which a request can be sent.

        Raises:
            ProblemError: 404, there is none; 409, it has ended, or its trainer has.
        """
        run, trainer = self.ledger.run_of(run_id), self.trainers.find(run_id)
        if run is None:
            if trainer is not None and trainer.process.lives():
                raise ProblemError(
                    409, f"Run {run_id} is still starting; try again once it has a journal."
                )
            raise ProblemError(404, f"There is no run {run_id}: GET /api/v1/runs lists all.")
        if run.ended:
            raise ProblemError(409, f"Run {run_id} has ended ({run.status}); start another one.")
        if trainer is not None and not trainer.process.lives():
            raise ProblemError(
                409,
                (
                    f"The trainer of run {run_id} has stopped; go on with it by POST "
                    "/api/v1/runs with resume."
                ),
            )
        return run

    def _unborn(self, run_id: str) -> dict[str, Any]:
        trainer = self.trainers.find(run_id)
        alive = trainer is not None and trainer.process.lives()
        return {
            "run_id": run_id,
            "status": "STARTING" if alive else "NOT STARTED",
            "reason": "" if alive else self.trainers.last_words(run_id),
            "started_at": trainer.since_us if trainer else None,
        }


def add_routes(app: FastAPI, control: Control) -> None:
    """Add the routes; `/health` is the foundation's."""
    _add_reading(app, control)
    _add_start(app, control)

    def ask(
        action: Action, run_id: str, body: RequestBody, actor: str, response: Response
    ) -> dict[str, Any]:
        run = control.going(run_id)
        snapshot = body.snapshot_id if isinstance(body, RollbackBody) else ""
        if (
            snapshot
            and run.checkpoints
            and all(checkpoint.snapshot_id != snapshot for checkpoint in run.checkpoints)
        ):
            newest = run.checkpoints[-1].snapshot_id
            raise ProblemError(
                422,
                (
                    f"Run {run_id} has no snapshot {snapshot}; the newest is {newest}, GET "
                    f"/api/v1/runs/{run_id} lists them."
                ),
            )
        event = requests.request(
            action,
            run_id,
            reason=body.reason,
            expires_s=body.expires_s,
            actor=actor,
            clock=control.clock,
            snapshot_id=snapshot,
        )
        control.outbound.send(event)
        # at once: the Location given here must not be a 404 until Kafka is read back
        control.ledger.note(event)
        response.headers["Location"] = (
            f"/api/v1/runs/{quote(run_id, safe='')}/commands/{event.event_id}"
        )
        return requests.told(event, run, control.clock.now_us())

    guarded: dict[str, Any] = {"dependencies": [requires("operator")], "status_code": 202}

    @app.post("/api/v1/runs/{run_id}/pause", **guarded)
    def pause(
        run_id: str, caller: CurrentCaller, response: Response, body: RequestBody | None = None
    ) -> dict[str, Any]:
        """Ask the trainer to stand still between two steps."""
        return ask("pause", run_id, body or RequestBody(), caller.subject, response)

    @app.post("/api/v1/runs/{run_id}/resume", **guarded)
    def resume(
        run_id: str, caller: CurrentCaller, response: Response, body: RequestBody | None = None
    ) -> dict[str, Any]:
        """Ask a trainer that stands still to go on."""
        return ask("resume", run_id, body or RequestBody(), caller.subject, response)

    @app.post("/api/v1/runs/{run_id}/checkpoint", **guarded)
    def checkpoint(
        run_id: str, caller: CurrentCaller, response: Response, body: RequestBody | None = None
    ) -> dict[str, Any]:
        """Ask the trainer for a snapshot."""
        return ask("checkpoint", run_id, body or RequestBody(), caller.subject, response)

    @app.post("/api/v1/runs/{run_id}/rollback", **guarded)
    def rollback(
        run_id: str, caller: CurrentCaller, response: Response, body: RollbackBody | None = None
    ) -> dict[str, Any]:
        """Ask the trainer to go on from an earlier snapshot, in a new timeline."""
        return ask("rollback", run_id, body or RollbackBody(), caller.subject, response)


def _add_reading(app: FastAPI, control: Control) -> None:
    @app.get("/api/v1/status", dependencies=[requires("viewer")])
    def status() -> dict[str, Any]:
        """All runs, and the versions of what runs them."""
        return {
            "version": app.version,
            "python": platform.python_version(),
            "packages": _versions(),
            "caught_up": control.ledger.caught_up,
            "trainers": sum(trainer.process.lives() for trainer in control.trainers.all()),
            "runs": control.listed(),
        }

    @app.get("/api/v1/runs", dependencies=[requires("viewer")])
    def runs(limit: Annotated[int, Query(ge=1, le=10_000)] = 100) -> dict[str, Any]:
        """The runs that were heard of last, newest first, without deleted ones."""
        return {"runs": control.listed()[:limit]}

    @app.get("/api/v1/runs/{run_id}", dependencies=[requires("viewer")])
    def run(run_id: str) -> dict[str, Any]:
        """One run: status, epoch, step, loss, accuracy, seeds, checkpoints, and the trainer that
        this part started for it.
        """
        return control.full(run_id)

    @app.get("/api/v1/runs/{run_id}/commands/{command_id}", dependencies=[requires("viewer")])
    def command(run_id: str, command_id: str) -> dict[str, Any]:
        """A request of the last 7 days, and how the trainer has answered it."""
        requested = control.ledger.request(command_id)
        if requested is None or requested.run_id != run_id:
            raise ProblemError(404, f"Run {run_id} had no request {command_id} in the last 7 days.")
        return requests.told(requested, control.ledger.run_of(run_id), control.clock.now_us())


def _add_start(app: FastAPI, control: Control) -> None:
    @app.post("/api/v1/runs", dependencies=[requires("operator")], status_code=202)
    def start(body: StartBody, caller: CurrentCaller, response: Response) -> dict[str, Any]:
        """Start a run, or go on with one that stopped: the recipe is checked, the request is on
        Kafka, and the trainer is on its way.
        """
        existing = control.ledger.run_of(body.run_id) if body.run_id else None
        if body.resume and existing is None:
            raise ProblemError(
                404,
                (
                    f"There is no run {body.run_id or '(no run_id given)'} to resume: GET "
                    "/api/v1/runs lists all."
                ),
            )
        if existing is not None and (existing.ended or not body.resume):
            remedy = (
                "choose another run_id"
                if existing.ended
                else "send resume to go on with it, or choose another run_id"
            )
            raise ProblemError(
                409, f"Run {body.run_id} has a journal already ({existing.status}); {remedy}."
            )
        # a journal that is still unread may have this very id
        if not control.ledger.caught_up:
            raise ProblemError(
                503, "The journals are still being read; try again.", headers={"Retry-After": "1"}
            )
        run_id, name = _named(body, existing, control)
        living = control.trainers.find(run_id)
        if living is not None and living.process.lives():
            raise ProblemError(
                409,
                (
                    f"Run {run_id} is being trained by process {living.process.pid}; choose "
                    "another run_id."
                ),
            )
        event = requests.start_request(
            run_id,
            name,
            body.overrides,
            resume=body.resume,
            reason=body.reason,
            actor=caller.subject,
            clock=control.clock,
        )
        # on Kafka before the process starts: no trainer without the request that asked for it
        control.outbound.send(event)
        control.ledger.note(event)
        trainer = control.trainers.start(run_id, name, body.overrides, resume=body.resume)
        response.headers["Location"] = f"/api/v1/runs/{run_id}"
        return {
            "run_id": run_id,
            "command_id": event.event_id,
            "status": "STARTING",
            "trainer": trainer.as_json(control.trainers.log(run_id), None),
        }


def _named(body: StartBody, existing: RunStatus | None, control: Control) -> tuple[str, str]:
    """Id and recipe of the run to start or to go on with.

    Raises:
        ProblemError: 422, the recipe, a change of it or the id cannot be taken; 403, it is not for
            operators to choose.
    """
    with _choice():
        chosen = (
            "" if existing is not None and not body.recipe else control.allowed.recipe(body.recipe)
        )
    if existing is not None:
        if body.overrides:
            raise ProblemError(
                422,
                (
                    "A resumed run goes on with the settings that its journal has; leave "
                    "overrides out."
                ),
            )
        with _content():
            require_run_id(existing.run_id)  # a journal says it, and anybody's may
        return existing.run_id, chosen or existing.recipe
    with _content():
        recipe = load(chosen, body.overrides)
        run_id = body.run_id or named(recipe.name, control.clock)
        require_run_id(run_id)
    with _choice():
        control.allowed.require(recipe)
    return run_id, chosen


@contextmanager
def _choice() -> Iterator[None]:
    """What is refused in here is a 403: it may be right, and is not for an operator to choose."""
    try:
        yield
    except UsageError as error:
        raise ProblemError(403, str(error)) from error


@contextmanager
def _content() -> Iterator[None]:
    """What is refused in here is a 422: the request is well formed, its content does not fit."""
    try:
        yield
    except UsageError as error:
        raise ProblemError(422, str(error)) from error


def _versions() -> dict[str, str | None]:
    """Versions of packages, read from their metadata: none of them is imported for it."""
    return {name: _version(name) for name in _PACKAGES}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
