"""What a part was asked to change, and the chain of hashes that shows when somebody has altered the
record of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from esper.events.envelope import event_id
from esper.events.records import AuditRecorded
from esper.service.checks.bodies import is_json, parsed
from esper.service.checks.problems import ProblemError

PENDING: Final = 0
"""Status of a request that has no answer yet.

In a record, of one whose part ended before it answered.
"""

_SECRET: Final = ("password", "passwd", "secret", "token", "key", "authorization", "credential")
_HIDDEN: Final = "(hidden)"
_MOST_CHARACTERS: Final = 4096
_NOT_HASHED: Final = frozenset({"hash", "signer", "signature"})


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One request that would change something.

    Fields as in schemas/AuditRecorded.avsc; `status` is `PENDING` before it is handled.

    `id` names the request among all that its part was ever sent.
    """

    id: str
    actor: str
    role: str
    action: str
    resource: str
    status: int
    detail: str
    run_id: str
    trace_id: str


def detail_of(
    query: Mapping[str, str], content_type: str, body: bytes, more: Mapping[str, object]
) -> str:
    """What was asked for, as JSON without the values of secrets; what is too long is cut.

    Empty when nothing was.
    """
    asked: dict[str, Any] = {**more}
    if query:
        asked["query"] = hidden(dict(query))
    if body:
        asked["body"] = _body(content_type, body)
    text = (
        json.dumps(asked, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        if asked
        else ""
    )
    return (
        text
        if len(text) <= _MOST_CHARACTERS
        else json.dumps({"cut": text[:_MOST_CHARACTERS]}, ensure_ascii=False)
    )


def hidden(value: Any, name: str = "") -> Any:
    """The same JSON value with everything hidden whose name sounds like a secret."""
    # By its name, because a value does not say that it is secret.
    if any(word in name.lower() for word in _SECRET):
        return _HIDDEN
    if isinstance(value, dict):
        return {key: hidden(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, list):
        return [hidden(inner) for inner in value]
    return value


def record_id(sender_id: str, entry: AuditEntry) -> str:
    """The event id of the record of `entry`."""
    return event_id("", 0, f"audit/{sender_id}/{entry.id}")


def chained(entry: AuditEntry, link: Link, *, sender_id: str, occurred_at: int) -> AuditRecorded:
    """The record of `entry`, asked for at `occurred_at` (microseconds since 1970), as the next of
    the sender's chain.
    """
    record = AuditRecorded(
        event_id=record_id(sender_id, entry),
        occurred_at=occurred_at,
        run_id=entry.run_id,
        sender_id=sender_id,
        trace_id=entry.trace_id,
        chain=link.chain + 1,
        previous=link.hash,
        hash="",
        actor=entry.actor,
        role=entry.role,
        action=entry.action,
        resource=entry.resource,
        status=entry.status,
        detail=entry.detail,
    )
    return replace(record, hash=hash_of(record))


def hash_of(record: AuditRecorded) -> str:
    """SHA-256, hexadecimal, over the previous hash and the canonical JSON (sorted keys, no spaces,
    UTF-8) of all fields but `hash` and the seal.

    Signer and signature came later than the first records; the signature covers the hash with all
    else.
    """
    fields = {name: value for name, value in asdict(record).items() if name not in _NOT_HASHED}
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(record.previous.encode() + canonical.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Link:
    """Where a chain has come to: the number and hash of its last record.

    -1 and nothing before the first.
    """

    chain: int = -1
    hash: str = ""

    def fault(self, record: AuditRecorded) -> str:
        """What is wrong with `record` as the next of this chain, in a sentence.

        Empty when nothing is.
        """
        if record.chain > self.chain + 1:
            return f"record {self.chain + 1} is missing before record {record.chain}"
        if record.chain < self.chain + 1:
            return f"record {record.chain} stands where record {self.chain + 1} should"
        if record.previous != self.hash:
            return (
                f"record {record.chain} does not follow the record before it: that one was "
                "changed or replaced"
            )
        if record.hash != hash_of(record):
            return f"record {record.chain} was changed: its hash does not fit what it says"
        return ""

    def after(self, record: AuditRecorded) -> Link:
        """The chain with `record` as its last."""
        return Link(record.chain, record.hash)


def _body(content_type: str, body: bytes) -> Any:
    if is_json(content_type):
        with suppress(ProblemError):  # a part's own protocol may call something JSON that is none
            return hidden(parsed(body))
    # The length alone: a body that cannot be read cannot be searched for secrets.
    return f"{len(body)} bytes of {content_type or 'no type'}"
