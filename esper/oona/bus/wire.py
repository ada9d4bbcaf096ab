"""Frames as they stand on Kafka: with the schema ids of the installation's registry, where it has
one.

Inside Esper (outbox, journal, signatures, exports, history) a frame carries Esper's own id, which
is a hash of the schema: it means the same on every machine, with and without a registry. Only what
goes to Kafka and comes from it is translated, four bytes a message.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from esper.config import Settings
from esper.disk import write_file
from esper.errors import CorruptError, EsperError, UnavailableError
from esper.events.schemas import WireSchema, wire_schemas
from esper.oona.bus.registry_client import Registry

_log = logging.getLogger(__name__)
_HEAD: Final = 5
_MOST_ASKED: Final = 64
"""Unknown ids that a process asks the registry for.

Further ones are unknown without asking, so that no sender makes readers wait.
"""
_OF_SILENCE: Final = 16
"""How many of these a question counts for that the registry does not answer: it takes a time-out.
"""
_SIDE_BY_SIDE: Final = 8


class FrameCodec:
    """Translates frames.

    `ids` are the registry's ids by Esper's own; `ask` gives the fingerprint of a schema that the
    registry has under an id.
    """

    def __init__(self, ids: Mapping[int, int], *, ask: Callable[[int], str] | None = None) -> None:
        self._out = {_head(own): _head(theirs) for own, theirs in ids.items()}
        self._in = {theirs: own for own, theirs in self._out.items()}
        self._own = frozenset(_head(own) for own in wire_schemas()) if ask else frozenset()
        self._ask = ask
        self._asked: set[bytes] = set()
        self._left = _MOST_ASKED

    def outgoing(self, value: bytes) -> bytes:
        """A frame as it goes to Kafka."""
        theirs = self._out.get(value[:_HEAD])
        return value if theirs is None else theirs + value[_HEAD:]

    def incoming(self, value: bytes) -> bytes:
        """A frame as Esper reads it.

        One with Esper's own id, or an id that nobody knows, stays as it is: decoding says what is
        wrong with it.
        """
        head = value[:_HEAD]
        own = self._in.get(head)
        if own is None:
            own = self._resolved(head)
        return value if own is None else own + value[_HEAD:]

    def _resolved(self, head: bytes) -> bytes | None:
        """The own id of a schema that the registry has under another id than the one we write:
        registered again, with other documentation.
        """
        if (
            self._ask is None
            or head in self._own
            or head in self._asked
            or len(head) < _HEAD
            or head[0]
            or self._left <= 0
        ):
            return None
        # before the question: a registry that does not answer is not asked about the same id again
        self._asked.add(head)
        self._left -= 1
        try:
            fingerprint = self._ask(int.from_bytes(head[1:], "big"))
        except EsperError as error:
            self._left -= _OF_SILENCE
            _log.warning(
                "schema id %d could not be looked up: %s", int.from_bytes(head[1:], "big"), error
            )
            return None
        own = next(
            (_head(wire.id) for wire in wire_schemas().values() if wire.fingerprint == fingerprint),
            None,
        )
        if own is not None:
            self._in[head] = own
        return own


class _Same(FrameCodec):
    """Without a registry: frames stand on Kafka as they are."""

    def outgoing(self, value: bytes) -> bytes:
        """The frame itself."""
        return value

    def incoming(self, value: bytes) -> bytes:
        """The same."""
        return value


SAME: Final[FrameCodec] = _Same({})


def frames_of(settings: Settings) -> FrameCodec:
    """How frames stand on this installation's Kafka.

    Asks the registry only where no earlier process of this ESPER_HOME has.

    Raises:
        UnavailableError: the registry does not answer, or lacks schemas.
        UsageError: it refuses the credentials.
        CorruptError: it gives ids that cannot be told apart from Esper's own.
    """
    if not settings.registry.url:
        return SAME
    registry = Registry(settings.registry)
    ids = _remembered(settings.schema_ids_path, registry.url) or resolve(settings, register=False)
    return FrameCodec(ids, ask=registry.fingerprint)


def resolve(settings: Settings, *, register: bool) -> dict[int, int]:
    """The registry's id of each of Esper's schemas, by Esper's own, asked anew and kept for later
    processes. `register` gives it those that it lacks.

    Raises:
        as `frames_of`; CorruptError too where the registry gives other ids than before.
    """
    registry = Registry(settings.registry)
    wires = list(wire_schemas().values())
    with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
        numbers = list(pool.map(registry.id_of, wires))
    missing = [wire for wire, number in zip(wires, numbers, strict=True) if number is None]
    if missing and not register:
        names = ", ".join(sorted({wire.record.NAME for wire in missing})[:3])
        raise UnavailableError(
            f"The schema registry at {registry.url} lacks {len(missing)} of Esper's "
            f"{len(wires)} schemas ({names}, ...): "
            "register them with `esper topics apply`."
        )
    # one after another: the versions of a subject have an order
    ids = {
        wire.id: registry.register(wire) if number is None else number
        for wire, number in zip(wires, numbers, strict=True)
    }
    _told_apart(ids, registry.url)
    # before the file is replaced: it is the only memory of what the ids on Kafka meant
    _unchanged(settings.schema_ids_path, registry.url, ids)
    text = {"registry": registry.url, "ids": {str(own): theirs for own, theirs in ids.items()}}
    write_file(settings.schema_ids_path, json.dumps(text).encode())
    return ids


def subjects(settings: Settings) -> frozenset[str]:
    """The subjects that the registry of the settings has to have; none without one."""
    return (
        frozenset(schema.subject for schema in wire_schemas().values())
        if settings.registry.url
        else frozenset()
    )


def lacking(settings: Settings) -> list[WireSchema]:
    """Those of Esper's schemas that the registry does not have. Raises as `frames_of`."""
    registry = Registry(settings.registry)
    wires = list(wire_schemas().values())
    with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
        return [
            wire
            for wire, number in zip(wires, pool.map(registry.id_of, wires), strict=True)
            if number is None
        ]


def _remembered(path: Path, url: str) -> dict[int, int]:
    """What `resolve` has kept, if it is of this registry and of every schema of this version of
    Esper; else empty.
    """
    try:
        text = json.loads(path.read_text(encoding="utf-8"))
        ids = (
            {int(own): int(theirs) for own, theirs in text["ids"].items()}
            if text["registry"] == url
            else {}
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    # a newer Esper has schemas that the file lacks, so the registry is asked again
    return ids if ids.keys() >= wire_schemas().keys() else {}


def _told_apart(ids: Mapping[int, int], url: str) -> None:
    """Refuse a registry whose id for one schema is Esper's own of another, or that gives one id to
    two schemas: a frame would mean two things.
    """
    for own, theirs in ids.items():
        # frames from before the registry carry Esper's own ids, and stay on Kafka
        if theirs in wire_schemas() and theirs != own:
            name = wire_schemas()[own].record.NAME
            raise CorruptError(
                f"The schema registry at {url} gives {name} the id {theirs}, which is "
                f"Esper's own id of {wire_schemas()[theirs].record.NAME}: "
                "delete that subject for good, and register it again."
            )
    if len(set(ids.values())) < len(ids):
        raise CorruptError(
            f"The schema registry at {url} gives one id to several of Esper's schemas: Esper "
            "cannot use it."
        )


def _unchanged(path: Path, url: str, ids: Mapping[int, int]) -> None:
    before = _remembered(path, url)
    moved = sorted(
        wire_schemas()[own].record.NAME
        for own, theirs in ids.items()
        if before.get(own, theirs) != theirs
    )
    if moved:
        raise CorruptError(
            f"The schema registry at {url} gives {', '.join(moved[:3])} other ids than "
            f"before: restore its data, or delete {path} if no message "
            "on Kafka was written with the old ones."
        )


def _head(schema_id: int) -> bytes:
    return b"\0" + schema_id.to_bytes(4, "big")
