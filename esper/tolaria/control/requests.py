"""Requests to trainers as events on Kafka: made, sent, and told of."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final, Literal

from esper.clock import Clock
from esper.errors import UnavailableError
from esper.events import Event, Origin
from esper.events.envelope import trace_id
from esper.events.records import (
    CheckpointRequested,
    PauseRequested,
    ResumeRequested,
    RollbackRequested,
    RunRequested,
)
from esper.oona.bus.port import Producer
from esper.tolaria.control.run_status import RunStatus

SENDER: Final = "tolaria"
START_EXPIRES_S: Final = 60.0
_SEND_S: Final = 5.0

Action = Literal["pause", "resume", "checkpoint", "rollback"]
_PLAIN: Final[Mapping[Action, type[PauseRequested | ResumeRequested | CheckpointRequested]]] = {
    "pause": PauseRequested,
    "resume": ResumeRequested,
    "checkpoint": CheckpointRequested,
}


class RequestSender:
    """Sends events, and returns once the broker has them. Safe to use from several threads."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._guard = threading.Lock()

    def send(self, event: Event) -> None:
        """Send one event.

        Raises:
            UnavailableError: the broker has not taken it within 5 s.
        """
        # one at a time: `flush` counts whatever is under way, another thread's request too
        with self._guard:
            self._producer.send(event)
            if self._producer.flush(_SEND_S):
                raise UnavailableError(
                    "The broker has not taken the request; it may still be carried out. "
                    "Look at the run, then try again."
                )


def start_request(
    run_id: str,
    recipe: str,
    overrides: Sequence[str],
    *,
    resume: bool,
    reason: str,
    actor: str,
    clock: Clock,
) -> RunRequested:
    """A request for a run to be started."""
    now = clock.now_us()
    return RunRequested(
        **_origin(run_id, actor, clock).envelope(f"start/{now}/{actor}"),
        recipe=recipe,
        overrides=tuple(overrides),
        resume=resume,
        reason=reason,
        expires_at=now + round(START_EXPIRES_S * 1e6),
    )


def request(
    action: Action,
    run_id: str,
    *,
    reason: str,
    expires_s: float,
    actor: str,
    clock: Clock,
    snapshot_id: str = "",
) -> PauseRequested | ResumeRequested | CheckpointRequested | RollbackRequested:
    """A request to a run's trainer, void after `expires_s` seconds.

    `snapshot_id` is what to roll back to; empty means the newest.
    """
    now = clock.now_us()
    envelope = _origin(run_id, actor, clock).envelope(f"{action}/{now}/{actor}")
    expires_at = now + round(expires_s * 1e6)
    if action == "rollback":
        return RollbackRequested(
            **envelope, snapshot_id=snapshot_id, reason=reason, expires_at=expires_at
        )
    return _PLAIN[action](**envelope, reason=reason, expires_at=expires_at)


def told(asked: Event, run: RunStatus | None, now_us: int) -> dict[str, Any]:
    """A request and its answer as JSON.

    What changes nothing, such as a pause of a run that stands still, is never answered and expires.
    """
    answer = run.answers.get(asked.event_id) if run else None
    expires_at: int = getattr(asked, "expires_at", 0)
    return {
        "command_id": asked.event_id,
        "run_id": asked.run_id,
        "request": asked.NAME,
        "reason": getattr(asked, "reason", ""),
        "asked_at": asked.occurred_at,
        "expires_at": expires_at,
        "status": "ANSWERED" if answer else "EXPIRED" if expires_at < now_us else "PENDING",
        "answer": asdict(answer) if answer else None,
    }


def _origin(run_id: str, actor: str, clock: Clock) -> Origin:
    return Origin(run_id, SENDER, trace_id("request", run_id, actor), clock)
