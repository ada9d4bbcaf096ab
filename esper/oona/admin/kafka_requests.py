"""Kafka requests that librdkafka's Python client lacks: quotas of principals.

Sent by aiokafka, which has the connection and the encoding.

Source: https://kafka.apache.org/protocol, DescribeClientQuotas (48) and AlterClientQuotas (49),
version 0 of each.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError, for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Boolean, Float64, Int8, Int16, Int32, Schema, String

from esper.errors import UsageError
from esper.oona.bus.access import Access

_TEXT: Final = String("utf-8")
logging.getLogger("aiokafka.conn").setLevel(
    logging.ERROR
)  # warns of a password in the clear at each connection, that on the loopback too
_ENTITY: Final = Array(("entity_type", _TEXT), ("entity_name", _TEXT))
_ANY: Final = 2
"""Match type: every name of an entity type, but not the default."""


class DescribeClientQuotasResponse_v0(Response):  # type: ignore[misc]  # noqa: N801 - aiokafka has no types, and its own way to name a version
    """Quotas by entity."""

    API_KEY = 48
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("error_message", _TEXT),
        (
            "entries",
            Array(("entity", _ENTITY), ("values", Array(("key", _TEXT), ("value", Float64)))),
        ),
    )


class DescribeClientQuotasRequest_v0(RequestStruct):  # type: ignore[misc]  # noqa: N801 - the same
    """Which quotas entities have."""

    API_KEY = 48
    API_VERSION = 0
    RESPONSE_TYPE = DescribeClientQuotasResponse_v0
    SCHEMA = Schema(
        ("components", Array(("entity_type", _TEXT), ("match_type", Int8), ("match", _TEXT))),
        ("strict", Boolean),
    )


class AlterClientQuotasResponse_v0(Response):  # type: ignore[misc]  # noqa: N801 - aiokafka has no types, and its own way to name a version
    """An error code for each entity."""

    API_KEY = 49
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("entries", Array(("error_code", Int16), ("error_message", _TEXT), ("entity", _ENTITY))),
    )


class AlterClientQuotasRequest_v0(RequestStruct):  # type: ignore[misc]  # noqa: N801 - the same
    """Quotas to set or to remove."""

    API_KEY = 49
    API_VERSION = 0
    RESPONSE_TYPE = AlterClientQuotasResponse_v0
    SCHEMA = Schema(
        (
            "entries",
            Array(
                ("entity", _ENTITY),
                ("ops", Array(("key", _TEXT), ("value", Float64), ("remove", Boolean))),
            ),
        ),
        ("validate_only", Boolean),
    )


class Sent(Request[RequestStruct]):  # type: ignore[misc]  # the same
    """A request of one version."""

    API_KEY: ClassVar[int] = -1

    def __init__(self, kind: type[RequestStruct], *values: Any) -> None:
        self._kind, self._values = kind, values

    def build(self, request_struct_class: type[RequestStruct]) -> RequestStruct:
        """The bytes' structure."""
        return request_struct_class(*self._values)

    def prepare(self, versions: dict[int, tuple[int, int]]) -> RequestStruct:
        """The same, whatever else the broker would take: version 0 is understood by every Kafka
        since 2.6.
        """
        del versions
        return self.build(self._kind)


def ask(
    connection: Mapping[str, Any], kind: type[RequestStruct], *values: Any, timeout_s: float
) -> Any:
    """The answer of one broker to one request; `connection` are arguments of aiokafka's client.

    Raises:
        KafkaError: no broker answers, or it refuses the connection.
    """

    async def asked() -> Any:
        client = AIOKafkaClient(**connection, request_timeout_ms=round(timeout_s * 1000))
        try:
            await client.bootstrap()
            return await client.send(client.get_random_node(), Sent(kind, *values))
        finally:
            await client.close()

    return asyncio.run(asked())


def connection(access: Access) -> dict[str, Any]:
    """The arguments of aiokafka's client for a principal's way to its cluster.

    Raises:
        UsageError: a file that the settings name cannot be read, or the principal comes by
            OAUTHBEARER.
    """
    kafka = access.kafka
    if kafka.sasl_mechanism == "OAUTHBEARER":
        raise UsageError(
            "Quotas cannot be read over OAUTHBEARER: leave them out with --no-quotas, or "
            "authenticate by SCRAM, PLAIN or a certificate."
        )
    arguments = {
        "bootstrap_servers": access.bootstrap,
        "security_protocol": kafka.security_protocol,
        "ssl_context": access.ssl_context(),
    }
    if not kafka.authenticated:
        return arguments
    return arguments | {
        "sasl_mechanism": kafka.sasl_mechanism,
        "sasl_plain_username": access.user,
        "sasl_plain_password": access.password(),
    }


def quotas(connection: Mapping[str, Any], *, timeout_s: float) -> dict[str, dict[str, float]]:
    """What each principal may do, by the quota's name. Raises KafkaError."""
    answer = ask(
        connection,
        DescribeClientQuotasRequest_v0,
        [("user", _ANY, None)],
        True,  # noqa: FBT003 - a field of the protocol
        timeout_s=timeout_s,
    )
    _checked(answer.error_code, answer.error_message)
    return {entity[0][1]: dict(values) for entity, values in answer.entries}


def set_quotas(
    connection: Mapping[str, Any],
    wanted: Mapping[str, Mapping[str, float | None]],
    *,
    timeout_s: float,
) -> None:
    """Give principals these quotas; None takes one away. Raises KafkaError."""
    entries = [
        # the protocol has a value beside `remove` as well; the broker ignores it then
        ([("user", name)], [(key, value or 0.0, value is None) for key, value in values.items()])
        for name, values in wanted.items()
    ]
    answer = ask(connection, AlterClientQuotasRequest_v0, entries, False, timeout_s=timeout_s)  # noqa: FBT003 - the same
    for code, message, _ in answer.entries:
        _checked(code, message)


def _checked(code: int, message: str | None) -> None:
    if code:
        kind: type[KafkaError] = for_code(code)
        raise kind(message or "")
