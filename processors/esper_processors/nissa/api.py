"""Nissa's answers over HTTP: metrics, status, adaptations, and the way in for custom metrics."""

from __future__ import annotations

import base64
import binascii
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from fastapi import FastAPI, Query, Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from pydantic import BaseModel, ConfigDict, Field

from esper.errors import UsageError
from esper.service import ProblemError, requires
from esper_processors.nissa import custom
from esper_processors.nissa.alerting.desk import AlertDesk
from esper_processors.nissa.alerting.http import add_alert_routes
from esper_processors.nissa.attempts import Attempt, page
from esper_processors.nissa.collectors import Collectors
from esper_processors.nissa.custom import Definition, Kind, Labels, Sample
from esper_processors.nissa.live import SAMPLES
from esper_processors.nissa.scene import Scene
from esper_processors.nissa.status import status

MOST_SAMPLES = 1000
"""Samples that one request may bring."""


class DefinitionBody(BaseModel):
    """A metric that is declared."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(
        max_length=200,
        description="name, as Prometheus takes it; a counter's is exposed with _total behind it",
    )
    kind: Kind = Field(
        description="gauge: a value that goes up and down; counter: a total that only grows"
    )
    help: str = Field(min_length=1, max_length=400, description="what it means, in a sentence")
    unit: str = Field(default="", max_length=40, description="unit; empty for a plain number")
    labels: tuple[str, ...] = Field(default=(), description="labels that every sample has to have")

    def definition(self) -> Definition:
        """As the core knows it."""
        return Definition(**self.model_dump())


class SampleBody(BaseModel):
    """One value."""

    model_config = ConfigDict(extra="forbid")

    name: str
    value: Any = Field(description="a finite number; for a counter its total so far")
    labels: dict[str, Any] = Field(default_factory=dict)


class SamplesBody(BaseModel):
    """Values of one or more metrics; either all are taken or none."""

    model_config = ConfigDict(extra="forbid")

    samples: list[SampleBody] = Field(min_length=1, max_length=MOST_SAMPLES)


@dataclass(frozen=True, slots=True)
class Nissa:
    """What the routes ask of the worker."""

    scene: Callable[[], Scene]
    collectors: Collectors
    attempts: Callable[[str], list[Attempt]]
    declare: Callable[[Definition], Awaitable[None]]
    record: Callable[[Sequence[Sample]], Awaitable[None]]
    alerting: AlertDesk


def add_routes(app: FastAPI, nissa: Nissa) -> None:
    """Add Nissa's routes; `/health` is the foundation's."""
    accepted: defaultdict[str, set[Labels]] = defaultdict(
        set
    )  # what was taken and may not have been read yet

    add_alert_routes(app, nissa.alerting)

    @app.get("/metrics", dependencies=[requires("viewer")], response_class=Response)
    async def metrics() -> Response:
        """Everything that is measured, in Prometheus' text format."""
        return Response(
            nissa.collectors.exposition(nissa.scene()), media_type=CONTENT_TYPE_PLAIN_0_0_4
        )

    @app.get("/api/v1/status", dependencies=[requires("viewer")])
    async def overview(samples: Annotated[int, Query(ge=0, le=SAMPLES)] = 0) -> dict[str, Any]:
        """Runs, compilations, resources and lag.

        The last `samples` aggregated samples, one every 15 s.
        """
        return status(nissa.scene(), samples=samples)

    @app.get("/api/v1/adaptations", dependencies=[requires("viewer")])
    async def adaptations(
        run: str = "", limit: Annotated[int, Query(ge=1, le=500)] = 50, cursor: str = ""
    ) -> dict[str, Any]:
        """Attempts to adapt a run, or all runs, newest first.

        `cursor` of an answer gives the next page.
        """
        shown, following = page(
            nissa.attempts(run), limit=limit, before=_place(cursor) if cursor else None
        )
        return {
            "adaptations": [attempt.as_json() for attempt in shown],
            "cursor": _cursor(*following) if following else None,
        }

    @app.get("/api/v1/metrics/definitions", dependencies=[requires("viewer")])
    async def definitions() -> dict[str, Any]:
        """Every custom metric that is declared."""
        return {
            "definitions": [
                asdict(definition) for _, definition in sorted(nissa.scene().definitions.items())
            ]
        }

    @app.post("/api/v1/metrics/definitions", dependencies=[requires("operator")], status_code=201)
    async def define(body: DefinitionBody, response: Response) -> dict[str, Any]:
        """Declare a custom metric: 201 for a new one, 200 for one that stands already
        exactly so.
        """
        definition = body.definition()
        with _content():
            new = nissa.collectors.declare(definition, nissa.scene().definitions)
        if new:
            await nissa.declare(definition)
        else:
            response.status_code = 200
        return {**asdict(definition), "exposed": definition.exposed}

    @app.post("/api/v1/metrics", dependencies=[requires("operator")], status_code=202)
    async def record(body: SamplesBody) -> dict[str, int]:
        """Record samples of declared metrics; once it answers, they are on telemetry.custom."""
        scene = nissa.scene()
        present = custom.newest(scene.series)
        samples: list[Sample] = []
        for sent in body.samples:
            combinations = (
                accepted[sent.name]
                | set(present.get(sent.name, ()))
                | {sample.labels for sample in samples if sample.name == sent.name}
            )
            with _content():
                sample = custom.validate(
                    sent.name, sent.value, sent.labels, scene.definitions, combinations
                )
            samples.append(sample)
        # all are checked before the first is sent: a request is taken whole or not at all
        for sample in samples:
            accepted[sample.name].add(sample.labels)
        await nissa.record(samples)
        return {"recorded": len(samples)}


@contextmanager
def _content() -> Iterator[None]:
    """What is refused in here is a 422: the request is well formed, its content does not fit."""
    try:
        yield
    except UsageError as error:
        raise ProblemError(422, str(error)) from error


def _cursor(at: int, decision_id: str) -> str:
    return base64.urlsafe_b64encode(f"{at}/{decision_id}".encode()).decode()


def _place(cursor: str) -> tuple[int, str]:
    try:
        at, _, decision_id = base64.urlsafe_b64decode(cursor.encode()).decode().partition("/")
        return int(at), decision_id
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise ProblemError(
            422, "This address did not give that cursor; leave it out to begin with the newest."
        ) from None
