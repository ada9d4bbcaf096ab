"""What the foundry knows: the fold of `innovation.blueprints` and `compilation.kernels`."""

from __future__ import annotations

from esper.events import Event
from esper.events.records import (
    BlueprintFailed,
    BlueprintProposed,
    FieldReport,
    FieldReportAnswered,
    KernelCompiled,
    KernelPublished,
)
from esper.urza.catalogue import Catalogue

TOPICS = ("innovation.blueprints", "compilation.kernels")


class ReportLedger:
    """Reports that wait for an answer, what has been done about them, every published kernel and
    how long it compiled. Events may come twice.
    """

    def __init__(self) -> None:
        self.catalogue = Catalogue()
        self.compile_ms: dict[str, float] = {}
        self.answered: set[str] = set()
        self._waiting: dict[str, FieldReport] = {}
        self._proposed: set[tuple[str, str]] = set()
        self._failed: set[tuple[str, str]] = set()

    def apply(self, event: Event) -> None:
        """Fold one event; those of other kinds change nothing."""
        match event:
            # read twice, a report would wait again and be answered again
            case FieldReport() if event.event_id not in self.answered:
                self._waiting[event.event_id] = event
            case FieldReportAnswered():
                self.answered.add(event.report_id)
                self._waiting.pop(event.report_id, None)
                # of no use any more: kept, they would grow with the topic
                self._proposed = {entry for entry in self._proposed if entry[0] != event.report_id}
                self._failed = {entry for entry in self._failed if entry[0] != event.report_id}
            case BlueprintProposed() if event.report_id not in self.answered:
                self._proposed.add((event.report_id, event.blueprint_id))
            case BlueprintFailed() if event.report_id not in self.answered:
                self._failed.add((event.report_id, event.blueprint_id))
            case KernelCompiled():
                self.compile_ms[event.kernel_id] = event.compile_ms
            case KernelPublished():
                self.catalogue = self.catalogue.evolve((event,))
            case _:
                pass

    def waiting(self) -> tuple[FieldReport, ...]:
        """Unanswered reports in the order in which they were read."""
        return tuple(self._waiting.values())

    def proposed(self, report_id: str, blueprint_id: str) -> bool:
        """Whether an unanswered report's blueprint has been announced."""
        return (report_id, blueprint_id) in self._proposed

    def failed(self, report_id: str, blueprint_id: str) -> bool:
        """Whether an unanswered report's blueprint is known to have failed."""
        return (report_id, blueprint_id) in self._failed
