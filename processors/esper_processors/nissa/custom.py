"""Custom metrics: what somebody declares and sends.

Definitions, validation of samples, and the newest value of each series. Pure.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal

from pydantic import TypeAdapter

from esper.errors import RejectedError, UsageError
from esper.events import Event
from esper.events.records import MetricRecorded

OWN_PREFIX = "esper_"
"""Names that begin so are Nissa's own, today's and tomorrow's."""
SERIES_LIMIT = 100
"""Combinations of label values that one metric may have: each is a series that Prometheus keeps for
as long as it keeps anything.
"""
LABELS_LIMIT = 8
NAME_CHARACTERS = 200
HELP_CHARACTERS = 400
UNIT_CHARACTERS = 40
VALUE_CHARACTERS = 128
DEFINITIONS_LIMIT = 500
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")  # Prometheus, "Data model": metric names and labels
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
# a gauge x_total beside a counter x would be one name twice on the page
_SUFFIXES = ("_total", "_bucket", "_count", "_sum", "_created", "_info")

Kind = Literal["gauge", "counter"]
Labels = tuple[tuple[str, str], ...]
"""Names and values of labels, sorted by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A metric that may be sent.

    The value of a counter is its total so far, which only falls when its sender began anew.
    """

    name: str
    kind: Kind
    help: str
    unit: str = ""
    labels: tuple[str, ...] = ()

    @property
    def exposed(self) -> str:
        """The name under which Prometheus sees it."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


@dataclass(frozen=True, slots=True)
class Sample:
    """One value that was sent for a metric."""

    name: str
    labels: Labels
    value: float


@dataclass(frozen=True, slots=True)
class Series:
    """The newest value of one combination of label values, and when it was sent, microseconds since
    1970.
    """

    name: str
    labels: Labels
    value: float
    at: int


def encode(definition: Definition) -> bytes:
    """The definition's bytes for its topic."""
    return json.dumps(asdict(definition), separators=(",", ":"), sort_keys=True).encode()


def decode(data: bytes) -> Definition:
    """The definition in `data`.

    Raises:
        ValidationError: there is none.
    """
    return _adapter().validate_json(data)


@cache
def _adapter() -> TypeAdapter[Definition]:
    return TypeAdapter(Definition)


def declare(definition: Definition, known: Mapping[str, Definition]) -> bool:
    """Whether a definition is new; False when the same one stands already.

    Raises:
        UsageError: a name that Prometheus does not take, or too many labels.
        RejectedError: the name is Nissa's own, or another definition has it.
    """
    if (
        len(definition.name) > NAME_CHARACTERS
        or len(definition.help) > HELP_CHARACTERS
        or len(definition.unit) > UNIT_CHARACTERS
    ):
        raise UsageError(
            f"The name of a metric has at most {NAME_CHARACTERS} characters, its help "
            f"{HELP_CHARACTERS}, its unit {UNIT_CHARACTERS}; "
            f"shorten those of {definition.name[:NAME_CHARACTERS]!r}."
        )
    if not _NAME.fullmatch(definition.name):
        raise UsageError(
            f"{definition.name!r} is no metric name; take letters, digits, underscores and "
            "colons, the first no digit."
        )
    if definition.name.endswith(_SUFFIXES):
        raise UsageError(
            f"{definition.name} ends in a suffix that Prometheus gives itself "
            f"({', '.join(_SUFFIXES)}); leave it out."
        )
    for label in definition.labels:
        if not _LABEL.fullmatch(label) or label.startswith("__"):
            raise UsageError(
                f"{label!r} is no label name; take letters, digits and underscores, the "
                "first no digit, no two underscores first."
            )
    if len(set(definition.labels)) < len(definition.labels):
        raise UsageError(f"The labels of {definition.name} name one twice; leave the second out.")
    if len(definition.labels) > LABELS_LIMIT:
        raise UsageError(
            f"{definition.name} has {len(definition.labels)} labels; the most is {LABELS_LIMIT}."
        )
    if definition.name.startswith(OWN_PREFIX):
        raise RejectedError(
            f"Names that begin with {OWN_PREFIX} are Nissa's own; take another prefix than "
            f"{definition.name} has."
        )
    if (standing := known.get(definition.name)) is not None:
        if standing == definition:
            return False
        raise RejectedError(
            f"{definition.name} is defined already, as another {standing.kind}; take another name."
        )
    # after the look at the same name: what is declared already may be declared again
    if len(known) >= DEFINITIONS_LIMIT:
        raise RejectedError(
            f"There are {DEFINITIONS_LIMIT} definitions, which is the most; send to one of them."
        )
    return True


def validate(
    name: str,
    value: Any,
    labels: Mapping[str, Any],
    known: Mapping[str, Definition],
    present: Collection[Labels],
) -> Sample:
    """The sample that was sent, held against its definition and against the combinations of label
    values that are `present` already.

    Raises:
        UsageError: no such metric, other labels than defined, no finite number, a falling counter's
            sign, or one series too many.
    """
    definition = known.get(name)
    if definition is None:
        raise UsageError(
            f"There is no metric {name!r}; define it with POST /api/v1/metrics/definitions."
        )
    # true is an int in Python, and no measurement
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"The value of {name} is {json.dumps(value)}; send a number.")
    if not math.isfinite(value):
        raise UsageError(f"The value of {name} is {value}; send a finite number, or nothing.")
    if definition.kind == "counter" and value < 0:
        raise UsageError(
            f"{name} is a counter and cannot be {value}; send its total so far, or define a gauge."
        )
    if unknown := sorted(set(labels) - set(definition.labels)):
        raise UsageError(
            f"{name} has no label {unknown[0]!r}; it has {_listed(definition.labels)}."
        )
    if missing := sorted(set(definition.labels) - set(labels)):
        raise UsageError(
            f"The sample of {name} lacks the label {missing[0]!r}; send every label that "
            "the definition has."
        )
    for label, text in labels.items():
        if not isinstance(text, str) or len(text) > VALUE_CHARACTERS:
            raise UsageError(
                f"The value of the label {label} is no text of at most {VALUE_CHARACTERS} "
                "characters; send one."
            )
    combination: Labels = tuple(sorted(labels.items()))
    # one that is there already may always go on
    if combination not in present and len(present) >= SERIES_LIMIT:
        raise UsageError(
            f"{name} has {SERIES_LIMIT} combinations of label values, which is the most; "
            "take labels with fewer values."
        )
    return Sample(name, combination, float(value))


def series_of(event: Event) -> Series | None:
    """What a recorded metric says; None for other events."""
    if not isinstance(event, MetricRecorded):
        return None
    return Series(
        event.name,
        tuple(sorted((label.name, label.value) for label in event.labels)),
        event.value,
        event.occurred_at,
    )


def newest(series: Iterable[Series]) -> dict[str, dict[Labels, Series]]:
    """The newest of each combination, by name and label values."""
    latest: dict[str, dict[Labels, Series]] = {}
    for entry in series:
        standing = latest.setdefault(entry.name, {}).get(entry.labels)
        # the same series may stand in two partitions, which have no common order
        if standing is None or entry.at >= standing.at:
            latest[entry.name][entry.labels] = entry
    return latest


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(labels) or "none"
