"""Commands that people and services gave to runs, and how the trainers answered them. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from esper.events import Event, Origin
from esper.events.records import AdaptationApplied, AdaptationRejected, Command, SeedCommand

TOPICS = (SeedCommand.TOPIC, AdaptationApplied.TOPIC)
"""Where commands and answers stand."""
RECORDS = (SeedCommand, AdaptationApplied, AdaptationRejected)
"""Of these topics only such messages are of interest here."""
HORIZON_US = 7 * 86_400_000_000
"""As long as commands are kept by their topic."""
_KEPT = 10_000

Status = Literal["PENDING", "APPLIED", "REJECTED", "EXPIRED"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What somebody asks of a seed. `alpha` below 0 means what the blueprint says."""

    command: Command
    layer: str
    seed: int
    kernel_id: str = ""
    alpha: float = -1.0
    reason: str
    expires_s: float

    def event(self, origin: Origin, actor: str) -> SeedCommand:
        """The command for the run of `origin`, asked for by `actor` now."""
        now = origin.clock.now_us()
        return SeedCommand(
            # with the time: the same order given twice is two commands
            **origin.envelope(f"command/{now}/{actor}/{self.command}/{self.layer}/{self.seed}"),
            command=self.command,
            layer=self.layer,
            seed=self.seed,
            kernel_id=self.kernel_id,
            alpha=self.alpha,
            reason=self.reason,
            expires_at=now + round(self.expires_s * 1e6),
        )


class Commands:
    """The newest commands and answers, by the command's id.

    They may come in any order and any number of times.
    """

    def __init__(self) -> None:
        self._asked: OrderedDict[str, SeedCommand] = OrderedDict()
        self._answered: OrderedDict[str, AdaptationApplied | AdaptationRejected] = OrderedDict()

    def take(self, event: Event) -> None:
        """Note a command or an answer.

        Answers to Tamiyo's own decisions are no answers to commands.
        """
        if isinstance(event, SeedCommand):
            _put(self._asked, event.event_id, event)
        elif (
            isinstance(event, AdaptationApplied | AdaptationRejected)
            and event.source_topic == SeedCommand.TOPIC
        ):
            _put(self._answered, event.command_id, event)

    def find(self, command_id: str, now_us: int) -> Mapping[str, Any] | None:
        """A command and its answer as JSON; None when there is none of this id, or none
        any more.
        """
        command, answer = self._asked.get(command_id), self._answered.get(command_id)
        source = command or answer
        if source is None:
            return None
        return {
            "command_id": command_id,
            "run_id": source.run_id,
            "command": source.command,
            "layer": source.layer,
            "seed": source.seed,
            "kernel_id": source.kernel_id,
            "reason": command.reason if command else None,
            "asked_at": command.occurred_at if command else None,
            "expires_at": command.expires_at if command else None,
            "status": _status(command, answer, now_us),
            "answer": _answer(answer) if answer else None,
        }


def _status(
    command: SeedCommand | None, answer: AdaptationApplied | AdaptationRejected | None, now_us: int
) -> Status:
    if answer is not None:
        return "APPLIED" if isinstance(answer, AdaptationApplied) else "REJECTED"
    return "EXPIRED" if command is not None and command.expires_at < now_us else "PENDING"


def _answer(answer: AdaptationApplied | AdaptationRejected) -> dict[str, Any]:
    return {
        "event": answer.NAME,
        "event_id": answer.event_id,
        "at": answer.occurred_at,
        "epoch": answer.epoch,
        "step": answer.step,
        "sequence": answer.sequence,
        "reason": answer.reason if isinstance(answer, AdaptationRejected) else None,
    }


def _put(kept: OrderedDict[str, Any], key: str, event: Event) -> None:
    kept[key] = event
    if len(kept) > _KEPT:
        # bounded: anybody with the right to write commands could fill the memory
        kept.popitem(last=False)
