"""What a program that knows nothing of Esper does with a schema registry: Confluent's own client
and deserializer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import fastavro
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

from esper.events.schemas import WireSchema, wire_schemas

EXAMPLES: Final = Path(__file__).parents[1] / "schemas" / "examples"


@contextmanager
def client(url: str, token: str = "") -> Iterator[SchemaRegistryClient]:
    """A client as its documentation configures one."""
    config: dict[str, Any] = {
        "url": url,
        "max.retries": 2,
        "timeout": 30,
    }  # without a time-out it waits for ever
    if token:
        config["basic.auth.user.info"] = f"esper:{token}"
    with SchemaRegistryClient(config) as made:
        yield made


def decode(registry: SchemaRegistryClient, topic: str, value: bytes, **config: Any) -> Any:
    """What the deserializer makes of a message's value, with its defaults or with `config`."""
    return AvroDeserializer(registry, conf=config or None)(
        value, SerializationContext(topic, MessageField.VALUE)
    )


def golden() -> list[tuple[WireSchema, bytes, Any]]:
    """The golden payload of every version of every record: its schema, the Avro datum, and what it
    says.
    """
    found = []
    for path in sorted(EXAMPLES.glob("*.avro")):
        with path.open("rb") as file:
            block: Any = next(iter(fastavro.block_reader(file)))
            datum = block.bytes_.read()
        with path.open("rb") as file:
            said = next(iter(fastavro.reader(file)))
        name, _, version = path.stem.rpartition("-")
        wire = [one for one in wire_schemas().values() if name == one.record.NAME][int(version) - 1]
        found.append((wire, datum, said))
    return found


def framed(schema_id: int, datum: bytes) -> bytes:
    """A datum as a message's value."""
    return b"\0" + schema_id.to_bytes(4, "big") + datum
