"""Which fields of the EU AI Act a report answers. Pure.

Source: Regulation (EU) 2024/1689, Article 12 (record-keeping) and Annex XI (technical documentation
of general-purpose models). It only says where information stands, never that a duty is met.
"""

from __future__ import annotations

from dataclasses import dataclass

from esper.reports.content import RunReport

_LOGS = "Article 12"
_GENERAL = "Annex XI, section 1, point 1"
_PROCESS = "Annex XI, section 1, point 2"
_SYSTEMIC = "Annex XI, section 2"


@dataclass(frozen=True, slots=True)
class DutyField:
    """A field, and where the report has it; empty where the provider has to add it."""

    provision: str
    asked: str
    answer: str


def duties(report: RunReport) -> tuple[DutyField, ...]:
    """Every field that is asked for; an answer stands only where the report has the information."""
    training, run = report.training, report.run
    journal = report.integrity.events > 0
    given = {
        (_LOGS, "automatic recording of events"): _if(journal, "Integrity: the journal"),
        (_LOGS, "period of each use: begin and end of the training"): _if(
            run.ended is not None, "The run: began, ended"
        ),
        (_LOGS, "situations of risk and substantial changes"): _if(
            journal, "The run: faults and rollbacks; Who decided what"
        ),
        (_LOGS, "human oversight: who asked for what"): _if(
            bool(report.requests), "Human requests"
        ),
        (_GENERAL, "intended tasks and integration"): "",
        (_GENERAL, "acceptable use policies"): "",
        (_GENERAL, "release date and distribution"): "",
        (_GENERAL, "number of parameters"): _if(
            training.parameters_at_end is not None, "Training: parameters at the end"
        ),
        (_GENERAL, "architecture of the host model"): "",
        (_GENERAL, "architecture of grown parts"): _if(
            any(kernel.blueprint is not None for kernel in report.kernels), "Kernels: blueprints"
        ),
        (_GENERAL, "modality and format of inputs and outputs"): "",
        (_GENERAL, "licence"): "",
        (_PROCESS, "training process: settings and methods"): _if(
            bool(report.settings), "Settings"
        ),
        (_PROCESS, "key design choices: rationale and assumptions"): "",
        (_PROCESS, "what the training optimizes for"): _if(
            run.task is not None, "The run: task; Settings"
        ),
        (_PROCESS, "decisions during training and their reasons"): _if(
            any(one.reason is not None for one in report.decisions), "Who decided what"
        ),
        (_PROCESS, "identity of the training data"): _if(
            report.data_sha256 is not None, "Data and environment: SHA-256 of the data"
        ),
        (_PROCESS, "data provenance: origin, rights, selection, curation, biases"): "",
        (_PROCESS, "number of data points"): "",
        (_PROCESS, "compute used for training"): _if(
            training.compute.total_flops is not None, "Training: compute used (estimate)"
        ),
        (_PROCESS, "training time"): _if(
            run.seconds is not None, "The run: seconds from beginning to end"
        ),
        (_PROCESS, "energy consumption"): "",
        (_SYSTEMIC, "evaluation: metrics and results"): _if(
            training.score is not None, "Training: test loss, score and metrics"
        ),
        (_SYSTEMIC, "evaluation strategy, adversarial testing, risks"): "",
    }
    return tuple(
        DutyField(provision, asked, answer) for (provision, asked), answer in given.items()
    )


def _if(known: bool, answer: str) -> str:  # noqa: FBT001 - what is asked is in its name
    return answer if known else ""
