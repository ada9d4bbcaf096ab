"""What a part was asked to change, and the chain of hashes that shows when somebody has altered the record of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

PENDING: Final = 0
"""Status of a request that has no answer yet."""

_SECRET: Final = ("password", "passwd", "secret", "token", "key", "authorization", "credential")
_HIDDEN: Final = "(hidden)"
_MOST_CHARACTERS: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One request that would change something. Fields as in schemas/AuditRecorded.avsc; `status` is `PENDING` before it is handled."""

    actor: str
    role: str
    action: str
    resource: str
    status: int
    detail: str
    run_id: str
    trace_id: str


def detail_of(query: Mapping[str, str], content_type: str, body: bytes, more: Mapping[str, object]) -> str:
    """What was asked for, as JSON without the values of secrets; what is too long is cut; empty when nothing was."""
    asked: dict[str, Any] = {**more}
    if query:
        asked["query"] = hidden(dict(query))
    if body:
        asked["body"] = _body(content_type, body)
    text = json.dumps(asked, sort_keys=True, separators=(",", ":"), ensure_ascii=False) if asked else ""
    return text if len(text) <= _MOST_CHARACTERS else json.dumps({"cut": text[:_MOST_CHARACTERS]}, ensure_ascii=False)


def hidden(value: Any, name: str = "") -> Any:
    """The same JSON value with everything hidden whose name sounds like a secret."""
    if any(word in name.lower() for word in _SECRET):
        return _HIDDEN
    if isinstance(value, dict):
        return {key: hidden(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, list):
        return [hidden(inner) for inner in value]
    return value


def _body(content_type: str, body: bytes) -> Any:
    if content_type.partition(";")[0].strip().lower().endswith("json"):
        try:
            return hidden(json.loads(body))
        except ValueError:
            pass
    return f"{len(body)} bytes of {content_type or 'no type'}"
