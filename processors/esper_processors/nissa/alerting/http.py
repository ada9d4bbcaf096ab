"""Routes of alerts and silences."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Query
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from esper.errors import RejectedError, UsageError
from esper.service import CurrentCaller, ProblemError, requires
from esper_processors.nissa.alerting.desk import AlertDesk
from esper_processors.nissa.alerting.instants import microseconds_of
from esper_processors.nissa.alerting.silences import PATTERN_CHARACTERS, REASON_CHARACTERS

_Pattern = Annotated[str, Field(max_length=PATTERN_CHARACTERS)]


class SilenceBody(BaseModel):
    """A silence that is asked for; who asks is in the token."""

    model_config = ConfigDict(extra="forbid")

    until: AwareDatetime = Field(description="when it ends, ISO 8601 with a time zone")
    reason: str = Field(min_length=1, max_length=REASON_CHARACTERS, description="why")
    run: _Pattern = Field(default="*", description="pattern of run ids, with * and ?")
    detector: _Pattern = Field(default="*", description="pattern of detectors")
    layer: _Pattern = Field(default="*", description="pattern of layers")


def add_alert_routes(app: FastAPI, desk: AlertDesk) -> None:
    """Add the routes of alerts and silences."""

    @app.get("/api/v1/alerts", dependencies=[requires("viewer")])
    async def alerts(
        run: str = "",
        open: Annotated[bool | None, Query()] = None,  # noqa: A002  # the parameter's name in the API
    ) -> dict[str, Any]:
        """Alerts of a run, or of all runs and the stack, the latest first; with `open` only those
        that hold, or only those that are over.
        """
        return {"alerts": desk.alerts_of(run, open_only=open)}

    @app.get("/api/v1/alerts/silences", dependencies=[requires("viewer")])
    async def silences() -> dict[str, Any]:
        """Silences that hold, the first to end first."""
        return {"silences": [rule.as_json() for rule in desk.silences()]}

    @app.post("/api/v1/alerts/silences", dependencies=[requires("operator")], status_code=201)
    async def silence(body: SilenceBody, caller: CurrentCaller) -> dict[str, Any]:
        """Withhold alerts until a time; once it answers, the silence holds and is kept."""
        try:
            rule = await desk.silence(
                caller.subject,
                body.reason,
                microseconds_of(body.until),
                run=body.run,
                detector=body.detector,
                layer=body.layer,
            )
        except UsageError as error:
            raise ProblemError(422, str(error)) from error
        except RejectedError as error:
            raise ProblemError(409, str(error)) from error
        return rule.as_json()

    @app.delete("/api/v1/alerts/silences/{silence_id}", dependencies=[requires("operator")])
    async def end_silence(silence_id: str) -> dict[str, str]:
        """End a silence before its time."""
        if not await desk.end_silence(silence_id):
            raise ProblemError(
                404, "There is no such silence; GET /api/v1/alerts/silences lists them."
            )
        return {"ended": silence_id}
