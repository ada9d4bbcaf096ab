"""The schemas are the contract: nothing generated is stale, nothing that was ever written becomes
unreadable.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import io
import json
import shutil
import struct
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import fastavro
import pytest
from fastavro.schema import parse_schema, to_parsing_canonical_form

from esper.events import TOPICS, JournalEvent, decode, encode
from esper.events.compatibility import breaks, breaks_transitively, check, versions
from esper.events.schemas import BY_NAME, current, wire_schemas

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = ROOT / "schemas"
EXAMPLES = sorted((SCHEMAS / "examples").glob("*.avro"))
RECORDS = sorted(path.stem for path in SCHEMAS.glob("*.avsc"))
ENVELOPE = ["event_id", "occurred_at", "run_id", "sender_id", "trace_id", "causation_id"]


def avsc(record: str) -> dict[str, Any]:
    """The present schema of a record."""
    found: dict[str, Any] = json.loads((SCHEMAS / f"{record}.avsc").read_text())
    return found


def golden(path: Path) -> tuple[dict[str, Any], bytes]:
    """The writer schema and the datum of a golden example, as the bytes that are in the file."""
    content = path.read_bytes()
    (block,) = fastavro.block_reader(io.BytesIO(content))
    (datum,) = fastavro.reader(io.BytesIO(content))
    schema = json.loads(fastavro.reader(io.BytesIO(content)).metadata["avro.schema"])
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, parse_schema(copy.deepcopy(schema)), datum)
    assert block.num_records == 1
    assert buffer.getvalue() in content
    return schema, buffer.getvalue()


def fingerprint(schema: dict[str, Any]) -> str:
    """SHA-256 of the parsing canonical form."""
    return hashlib.sha256(
        to_parsing_canonical_form(parse_schema(copy.deepcopy(schema))).encode()
    ).hexdigest()


def generator(schemas: Path) -> ModuleType:
    """The generator, looking at another folder of schemas."""
    spec = importlib.util.spec_from_file_location(
        "generate_events", ROOT / "tools" / "generate_events.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    vars(module)["SCHEMAS"] = schemas
    return module


def test_nothing_generated_is_stale() -> None:
    """Records, topics, wire schemas, ids and examples are what the generator makes of
    schemas/ now.
    """
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "generate_events.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr


def test_a_changed_schema_is_noticed_and_gets_its_own_example(tmp_path: Path) -> None:
    """A new field makes records, wire schemas and ids differ from the committed ones, keeps the old
    example and adds another.
    """
    shutil.copytree(SCHEMAS, tmp_path / "schemas")
    path = tmp_path / "schemas" / "RunPaused.avsc"
    schema = json.loads(path.read_text())
    schema["fields"].insert(
        -3, {"name": "mood", "type": ["null", "string"], "default": None, "doc": "How it felt"}
    )
    path.write_text(json.dumps(schema))
    made = generator(tmp_path / "schemas").outputs()
    differing = {
        one.name for one, content in made.items() if not one.exists() or one.read_bytes() != content
    }
    version = len(list((SCHEMAS / "examples").glob("RunPaused-*.avro"))) + 1
    assert differing == {"records.py", "wire.json", "ids.lock", f"RunPaused-{version}.avro"}
    wire = json.loads(made[ROOT / "esper" / "events" / "wire.json"])["RunPaused"]
    assert wire["earlier"][-1]["id"] == BY_NAME["RunPaused"].SCHEMA_ID


def test_a_field_behind_the_signature_is_refused(tmp_path: Path) -> None:
    """The signature covers the bytes before it, so a field behind it could be changed by anyone."""
    shutil.copytree(SCHEMAS, tmp_path / "schemas")
    path = tmp_path / "schemas" / "RunPaused.avsc"
    schema = json.loads(path.read_text())
    schema["fields"].append(
        {"name": "mood", "type": ["null", "string"], "default": None, "doc": "How it felt"}
    )
    path.write_text(json.dumps(schema))
    with pytest.raises(SystemExit, match="put new fields before `signer`"):
        generator(tmp_path / "schemas").outputs()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_payload_ever_written_is_readable(path: Path) -> None:
    """The golden payload of each version decodes with the present codec.

    One of the present version comes out byte for byte again.
    """
    schema, datum = golden(path)
    wire = next(one for one in wire_schemas().values() if one.fingerprint == fingerprint(schema))
    event = decode(b"\0" + wire.id.to_bytes(4, "big") + datum)
    assert event.NAME == path.stem.rpartition("-")[0] == wire.record.NAME
    if wire is current(wire.record):
        assert encode(event).value[5:] == datum


@pytest.mark.parametrize("record", RECORDS)
def test_every_record_has_its_payload(record: str) -> None:
    """The present version of each record has a golden example."""
    present = fingerprint(avsc(record))
    assert present in {
        fingerprint(golden(path)[0]) for path in EXAMPLES if path.stem.rpartition("-")[0] == record
    }


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_frames_are_confluents(path: Path) -> None:
    """Whoever has the schema reads a message with plain fastavro: magic 0, id in 4 bytes big
    endian, datum, nothing after it.
    """
    schema, datum = golden(path)
    wire = next(one for one in wire_schemas().values() if one.fingerprint == fingerprint(schema))
    value = encode(decode(b"\0" + wire.id.to_bytes(4, "big") + datum)).value
    magic, schema_id = struct.unpack(">bI", value[:5])
    assert magic == 0
    assert schema_id == wire.record.SCHEMA_ID
    buffer = io.BytesIO(value[5:])
    read: Any = fastavro.schemaless_reader(buffer, parse_schema(avsc(wire.record.NAME)), None)
    assert buffer.read() == b""
    assert str(read["event_id"]).count("-") == 4
    assert read["occurred_at"].tzinfo is not None


def test_ids_do_not_collide_and_are_locked() -> None:
    """ids.lock lists every version once, its id made of its fingerprint, no id twice, and it agrees
    with what the codec uses.
    """
    lines = [
        line.split()
        for line in (SCHEMAS / "ids.lock").read_text().splitlines()
        if not line.startswith("#")
    ]
    ids = [int(line[0]) for line in lines]
    assert len(set(ids)) == len(ids) == len(wire_schemas())
    for number, digest, record in lines:
        assert int(number) == int(digest[:8], 16) & 0x7FFFFFFF
        assert wire_schemas()[int(number)].fingerprint == digest
        assert record == wire_schemas()[int(number)].record.NAME


def test_no_orphans() -> None:
    """Each schema belongs to exactly one topic, each record of a topic has a schema, each key is a
    text field of its records.
    """
    topics = tomllib.loads((SCHEMAS / "topics.toml").read_text())
    listed = [record for topic in topics.values() for record in topic["records"]]
    assert sorted(listed) == RECORDS == sorted(BY_NAME)
    assert {name: topic.records for name, topic in TOPICS.items()} == {
        name: tuple(topic["records"]) for name, topic in topics.items()
    }
    for name, topic in topics.items():
        for record in topic["records"]:
            fields = {field["name"]: field["type"] for field in avsc(record)["fields"]}
            kind = fields[topic["key"]]
            assert (kind["type"] if isinstance(kind, dict) else kind) == "string"
            assert (name, topic["key"]) == (BY_NAME[record].TOPIC, BY_NAME[record].KEY)


@pytest.mark.parametrize("record", RECORDS)
def test_every_record_begins_with_the_envelope_and_is_documented(record: str) -> None:
    """The envelope comes first, in the same order.

    In the journal timeline, sequence, epoch and step follow; every field says what it means.
    """
    schema = avsc(record)
    names = [field["name"] for field in schema["fields"]]
    assert names[:6] == ENVELOPE
    journal = BY_NAME[record].TOPIC == "system.events.run"
    assert journal == issubclass(BY_NAME[record], JournalEvent)
    assert (names[6:10] == ["timeline", "sequence", "epoch", "step"]) == journal
    assert all(field.get("doc") for field in schema["fields"])
    assert schema["doc"]


def test_every_change_so_far_was_full_transitive() -> None:
    """All versions of all records read each other."""
    assert check(SCHEMAS) == ()


def without(schema: dict[str, Any]) -> None:
    schema["fields"] = [field for field in schema["fields"] if field["name"] != "reason"]


def added(schema: dict[str, Any]) -> None:
    schema["fields"].append({"name": "mood", "type": "string", "doc": "d"})


def retyped(schema: dict[str, Any]) -> None:
    next(field for field in schema["fields"] if field["name"] == "epoch")["type"] = "string"


def widened(schema: dict[str, Any]) -> None:
    next(field for field in schema["fields"] if field["name"] == "step")["type"] = "double"


def made_nullable(schema: dict[str, Any]) -> None:
    next(field for field in schema["fields"] if field["name"] == "reason")["type"] = [
        "null",
        "string",
    ]


def renamed(schema: dict[str, Any]) -> None:
    schema["name"] = "RunHalted"


def another_unit(schema: dict[str, Any]) -> None:
    next(field for field in schema["fields"] if field["name"] == "occurred_at")["type"] = {
        "type": "long",
        "logicalType": "timestamp-millis",
    }


@pytest.mark.parametrize(
    "change", [without, added, retyped, widened, made_nullable, renamed, another_unit]
)
def test_a_breaking_change_is_caught(
    tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    """A change after which some version cannot read another, or reads another meaning, is reported
    with the record's name.
    """
    shutil.copytree(SCHEMAS, tmp_path / "schemas")
    path = tmp_path / "schemas" / "RunPaused.avsc"
    schema = json.loads(path.read_text())
    change(schema)
    path.write_text(json.dumps(schema))
    (first, *_) = check(tmp_path / "schemas")
    last = len(list((SCHEMAS / "examples").glob("RunPaused-*.avro"))) + 1
    assert first.startswith(f"RunPaused, versions 1 and {last}: ")


def test_another_symbol_of_an_enum_is_a_breaking_change() -> None:
    """A reader of the old version would not know it."""
    old = avsc("SeedTransitioned")
    text = json.dumps(old).replace('"symbols": ["DORMANT",', '"symbols": ["HYBRID", "DORMANT",')
    assert text != json.dumps(old)
    assert breaks(old, json.loads(text))


def test_a_field_with_a_default_may_come_and_go() -> None:
    """Nullable fields with a default of null may be added and removed, documentation may
    improve.
    """
    old = avsc("RunPaused")
    new = copy.deepcopy(old)
    new["fields"].append({"name": "mood", "type": ["null", "string"], "default": None, "doc": "d"})
    new["doc"] = "Better words."
    assert breaks_transitively([old, new, old]) == ()


def test_every_pair_of_versions_counts() -> None:
    """Transitively: a field that comes, goes and comes back with another type breaks, though each
    step alone does not.
    """
    first = avsc("RunPaused")
    text, number = copy.deepcopy(first), copy.deepcopy(first)
    text["fields"].append({"name": "mood", "type": "string", "default": "", "doc": "d"})
    number["fields"].append({"name": "mood", "type": "long", "default": 0, "doc": "d"})
    assert breaks_transitively([text, first]) == ()
    assert breaks_transitively([first, number]) == ()
    assert breaks_transitively([text, first, number])


def test_versions_come_from_the_headers_of_the_examples(tmp_path: Path) -> None:
    """Versions are in the order of their numbers, the tenth after the second, then the
    present one.
    """
    (tmp_path / "examples").mkdir()
    for number in (10, 2, 1):
        schema = {"type": "record", "name": "R", "fields": [], "doc": str(number)}
        with (tmp_path / "examples" / f"R-{number}.avro").open("wb") as file:
            fastavro.writer(file, parse_schema(schema), [{}])
    (tmp_path / "R.avsc").write_text(
        json.dumps({"type": "record", "name": "R", "fields": [], "doc": "now"})
    )
    assert [version["doc"] for version in versions(tmp_path, "R")] == ["1", "2", "10", "now"]
