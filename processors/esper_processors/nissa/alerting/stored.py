"""What is known of a run as bytes for Nissa's compacted topic, and back: JSON, since whoever may
write to a topic must not choose what is executed here, as a pickle would. Pure.
"""

from __future__ import annotations

import base64
import json
from array import array
from collections.abc import Mapping
from functools import cache
from typing import Any, get_type_hints

from pydantic import TypeAdapter

from esper.anomalies import DETECTORS, Alert, AlertBook, ObserverState, Subject
from esper.errors import PoisonError
from esper.events import decode as decode_event
from esper.events import encode as encode_event
from esper.events.records import AlertRaised, AlertResolved, AnomalyDetected
from esper_processors.nissa.alerting.run_alerts import KnownAlerts, Unsent

_FORM = 1


def encode(kept: KnownAlerts) -> bytes:
    """The bytes of what is known of a run."""
    book = kept.book
    return json.dumps(
        {
            "form": _FORM,
            "run": kept.run_id,
            "memories": _plain(kept.state.memories),
            "held": [[_plain_dataclass(one), clean] for one, clean in kept.state.held.items()],
            "placed": _plain(kept.state.placed),
            "alerts": [_plain_dataclass(alert) for alert in book.held.values()],
            "raised": _plain(book.raised_us),
            "limited": _plain(book.limited),
            "places": _plain(kept.places),
            # packed: as numbers they would be most of the row
            "seen": base64.b64encode(array("Q", kept.seen).tobytes()).decode(),
            "ended": kept.ended,
            "newest_us": kept.newest_us,
            "routed": [_plain_dataclass(one) for one in kept.routed],
            "unsent": [
                [base64.b64encode(encode_event(one.event).value).decode(), one.routed]
                for one in kept.unsent
            ],
        },
        separators=(",", ":"),
    ).encode()


def decode(data: bytes) -> KnownAlerts:
    """What was known of a run.

    Raises:
        PoisonError: the bytes are of another form.
        Exception: whatever else says that they are none.
    """
    row = json.loads(data)
    if row["form"] != _FORM:
        raise PoisonError("A row of Nissa's alerts has a form that this version does not know.")
    state = ObserverState(
        {
            key: _memory(key[0]).validate_python(memory)
            for key, memory in _as(dict[tuple[str, str, str], Any], row["memories"]).items()
            # a detector that is no longer there has no memory either
            if key[0] in _memories()
        },
        {_as(Subject, one): _as(int, clean) for one, clean in row["held"]},
        _as(dict[str, tuple[int, int]], row["placed"]),
    )
    alerts = [_as(Alert, one) for one in row["alerts"]]
    book = AlertBook(
        {alert.subject: alert for alert in alerts},
        _as(dict[tuple[str, str], tuple[int, ...]], row["raised"]),
        _as(dict[tuple[str, str], int], row["limited"]),
    )
    return KnownAlerts(
        _as(str, row["run"]),
        state,
        book,
        _as(dict[tuple[str, int], int], row["places"]),
        tuple(array("Q", base64.b64decode(row["seen"], validate=True))),
        _as(bool, row["ended"]),
        _as(int, row["newest_us"]),
        frozenset(_as(Subject, one) for one in row["routed"]),
        tuple(_unsent(*one) for one in row["unsent"]),
    )


def _unsent(text: str, routed: Any) -> Unsent:
    event = decode_event(base64.b64decode(text, validate=True))
    if not isinstance(event, AnomalyDetected | AlertRaised | AlertResolved):
        raise PoisonError(f"A row of Nissa's alerts holds a {event.NAME}, which is none.")
    return Unsent(event, _as(bool, routed))


def _plain(value: Any) -> Any:
    """The same of lists and texts; a mapping becomes its pairs, since its keys may be tuples."""
    if isinstance(value, Mapping):
        return {"pairs": [[_plain(key), _plain(item)] for key, item in value.items()]}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _plain_dataclass(value: Subject | Alert) -> Any:
    kind: Any = type(value)
    return _adapter(kind).dump_python(value)


def _rich(value: Any) -> Any:
    """Lists as tuples, pairs as mappings."""
    if isinstance(value, dict) and value.keys() == {"pairs"}:
        return {_rich(key): _rich(item) for key, item in value["pairs"]}
    if isinstance(value, list):
        return tuple(_rich(item) for item in value)
    return value


def _as(kind: Any, value: Any) -> Any:
    return _adapter(kind).validate_python(_rich(value))


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


@cache
def _memories() -> Mapping[str, Any]:
    """The type of each detector's memory, as the function says that gives it."""
    return {one.name: get_type_hints(one.see)["memory"] for one in DETECTORS}


def _memory(detector: str) -> TypeAdapter[Any]:
    return _adapter(_memories()[detector])
