"""Who may do what on Kafka: the access control list of a cluster, made of `schemas/topics.toml`.

Pure.

A principal is a part, or a role of a person. Whatever is not granted here is refused by a broker
that has an authorizer and no `allow.everyone.if.no.acl.found`. READ and WRITE imply DESCRIBE
(Kafka's StandardAuthorizer), and WRITE on any topic allows idempotence (KIP-679).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from esper.events.topics import TOPICS

Resource = Literal["TOPIC", "GROUP", "TRANSACTIONAL_ID"]
Operation = Literal["READ", "WRITE", "CREATE", "DESCRIBE", "ALL"]

OWNER: Final = "esper"
"""The super user: the owner of the installation, and the supervisor for it."""
OPERATOR: Final = "operator"
"""Who sends commands and keeps house by the command line, or by a service of one's own."""
VIEWER: Final = "viewer"
"""Who reads every topic and writes nothing."""
PRINCIPALS: Final = (
    "trainer",
    "tamiyo",
    "nissa",
    "foundry",
    "history",
    "tolaria",
    OPERATOR,
    VIEWER,
)
"""Everybody but the super user."""
READER_GROUP: Final = "esper-reader"
"""The group that a reader names, because librdkafka asks for one, and never joins."""
AUDIT: Final = "audit.events"
_PROCESSORS: Final = ("tamiyo", "nissa")
"""Parts on Faust: each has a consumer group, and topics of its own for its tables, that begin with
esper- and its name.
"""
_AUDIT_SENDERS: Final = {OPERATOR: "cli"}
"""By which name a principal signs in the audit trail, where that is not its own."""


@dataclass(frozen=True, slots=True, order=True)
class Right:
    """One line of the list: `principal` may, or if `denied` may never, do `operation` on the
    resource, or on all whose names begin so.
    """

    principal: str
    resource: Resource
    name: str
    operation: Operation
    prefixed: bool = False
    denied: bool = False


def rights() -> tuple[Right, ...]:
    """Everything that Esper's principals may do, in order."""
    return tuple(sorted({*_topics(), *_transactions(), *_groups()}))


def _topics() -> Iterator[Right]:
    for topic in TOPICS.values():
        yield from (Right(principal, "TOPIC", topic.name, "WRITE") for principal in topic.writers)
        yield from (
            Right(principal, "TOPIC", topic.name, "READ")
            for principal in (*topic.readers, OPERATOR, VIEWER)
        )
    yield from (
        Right("trainer", "TOPIC", name, "DESCRIBE") for name in TOPICS
    )  # it waits at its end until the history has come as far
    for part in _PROCESSORS:
        yield from (
            Right(part, "TOPIC", f"esper-{part}-", operation, prefixed=True)
            for operation in ("CREATE", "READ", "WRITE")
        )
        yield from (
            Right(principal, "TOPIC", f"esper-{part}-", "READ", prefixed=True)
            for principal in (OPERATOR, VIEWER)
        )


def _transactions() -> Iterator[Right]:
    """A run's id is the transactional id of its journal.

    Audit trails have ids that no run may take, the trainer's neither.
    """
    yield Right("trainer", "TRANSACTIONAL_ID", "*", "WRITE")
    # Kafka lets a denial win over every grant: a run named audit-* could fence an audit trail
    yield Right("trainer", "TRANSACTIONAL_ID", "audit-", "ALL", prefixed=True, denied=True)
    for principal in TOPICS[AUDIT].writers:
        yield Right(
            principal,
            "TRANSACTIONAL_ID",
            f"audit-{_AUDIT_SENDERS.get(principal, principal)}",
            "WRITE",
        )


def _groups() -> Iterator[Right]:
    yield from (Right(principal, "GROUP", READER_GROUP, "DESCRIBE") for principal in PRINCIPALS)
    yield from (Right(part, "GROUP", f"esper-{part}", "READ") for part in _PROCESSORS)
    for role in (OPERATOR, VIEWER):
        yield Right(role, "GROUP", f"{role}-", "READ", prefixed=True)
