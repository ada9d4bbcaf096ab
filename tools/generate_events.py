"""Generate `esper/events/{records.py,topics.py,wire.json}`, `schemas/ids.lock` and missing golden
examples from `schemas/`.

Run it after a change of a schema: `.venv/bin/python tools/generate_events.py`. With `--check` it
writes nothing and exits with 1 when the committed files differ from what it would write: CI runs
that. A changed schema gets a new golden example beside the old one; the old one, an Avro container
that carries its own schema, stays forever, because messages of that version do.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import itertools
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import fastavro
from fastavro.schema import parse_schema, to_parsing_canonical_form

ROOT = Path(__file__).resolve().parent.parent
SCHEMAS = ROOT / "schemas"
PACKAGE = ROOT / "esper" / "events"
PLAIN = {
    "string": "str",
    "long": "int",
    "int": "int",
    "double": "float",
    "float": "float",
    "boolean": "bool",
    "bytes": "bytes",
}
READ = {
    "string": "read_utf8",
    "long": "read_long",
    "int": "read_long",
    "double": "read_double",
    "boolean": "read_boolean",
    "bytes": "read_bytes",
}
_MOST = {"int": 2**31 - 1, "long": 2**53 - 1}
"""Largest whole numbers: Avro's int, and what JSON and doubles hold exactly."""
_UNPACKS = "# unpacks"
SIDE_BY_SIDE = 3
"""So many doubles in a row are read at once."""
_LARGEST = sys.float_info.max
FORMATS = {"name": "NAMES", "json": 'TEXTS["json"]', "geometry": 'TEXTS["geometry"]'}
BOUNDS = ("minimum", "maximum", "finite", "format", "maxLength", "maxItems", "maxBytes")
"""What schemas say of values beside Avro's types; `esper.events.ranges` tells what each means."""
CALLED = (
    "NAMED",
    "OPTIONS",
    "read_array",
    "read_doubles",
    "read_enum",
    "no_branch",
    "write_data",
    "write_doubles",
)
ENVELOPE = ("event_id", "occurred_at", "run_id", "sender_id", "trace_id", "causation_id")
JOURNAL = ("timeline", "sequence", "epoch", "step", "previous")
SIGNED = ("signer", "signature")
SEAL = ("signer", "previous", "signature")
JOURNAL_TOPIC = "system.events.run"


def fingerprint(schema: dict[str, Any]) -> str:
    """SHA-256 of the Avro parsing canonical form: documentation may be improved without
    a new id.
    """
    return hashlib.sha256(to_parsing_canonical_form(parse_schema(schema)).encode()).hexdigest()


def schema_id(digest: str) -> int:
    """The positive 32-bit id that stands in Confluent's frame, made of the first bytes of the
    fingerprint.
    """
    # positive: Java's clients read the four bytes as a signed number
    return int(digest[:8], 16) & 0x7FFFFFFF


def inner(avro: Any) -> Any:
    """The type behind a nullable union."""
    return next(branch for branch in avro if branch != "null") if isinstance(avro, list) else avro


def python_type(avro: Any) -> str:
    """The Python annotation of an Avro type."""
    if isinstance(avro, list):
        return f"{python_type(inner(avro))} | None"
    if isinstance(avro, str):
        return PLAIN.get(avro, avro.rsplit(".", 1)[-1])
    if avro["type"] == "array":
        return f"tuple[{python_type(avro['items'])}, ...]"
    if avro["type"] == "map":
        return f"dict[str, {python_type(avro['values'])}]"
    return str(avro["name"]) if avro["type"] in ("record", "enum") else python_type(avro["type"])


def python_default(value: Any) -> str:
    """Source of the default of a field in Python, where arrays are tuples."""
    if isinstance(value, dict):
        return "field(default_factory=dict, hash=False)"  # what is equal without it hashes alike
    return repr(tuple(value) if isinstance(value, list) else value)


def is_record(avro: Any, names: dict[str, Any]) -> bool:
    """Whether values of this type are generated dataclasses."""
    avro = names.get(avro, avro) if isinstance(avro, str) else avro
    return isinstance(avro, dict) and avro["type"] == "record"


def collect(avro: Any, names: dict[str, Any]) -> None:
    """Add every named type inside `avro` to `names`, in order of definition."""
    if isinstance(avro, list):
        for branch in avro:
            collect(branch, names)
    elif isinstance(avro, dict):
        if avro["type"] == "array":
            collect(avro["items"], names)
        elif avro["type"] == "enum":
            names[f"{avro['namespace']}.{avro['name']}"] = avro
        elif avro["type"] == "record":
            for field in avro["fields"]:
                collect(field["type"], names)
            names[f"{avro['namespace']}.{avro['name']}"] = avro


def is_signed(schema: dict[str, Any]) -> bool:
    """Whether events of this record are signed.

    The signature covers the bytes before it, so it has to be the last field.

    Raises:
        SystemExit: it is not.
    """
    names = [field["name"] for field in schema["fields"]]
    if "signature" in names and names[-1] != "signature":
        raise SystemExit(
            f"{schema['name']} has fields after its signature, which would not cover them: "
            "put new fields before `signer`."
        )
    return "signature" in names


def many(field: dict[str, Any]) -> Any:
    """The type of the items of an array field; None for other fields."""
    avro = field["type"]
    return avro["items"] if isinstance(avro, dict) and avro["type"] == "array" else None


def mapped(field: dict[str, Any]) -> Any:
    """The type of the values of a map field; None for other fields."""
    avro = field["type"]
    return avro["values"] if isinstance(avro, dict) and avro["type"] == "map" else None


def plain(avro: Any) -> Any:
    """The type without logical types and documentation, as fastavro's functions take it.

    An enum is the name of its constant.
    """
    if isinstance(avro, list):
        return [plain(branch) for branch in avro]
    if isinstance(avro, dict):
        if avro["type"] == "array":
            return {"type": "array", "items": plain(avro["items"])}
        if avro["type"] == "map":
            if avro["values"] != "double":
                raise SystemExit("A map of an event has doubles as values: give it an array.")
            return avro
        return f"_{avro['name'].upper()}" if avro["type"] == "enum" else plain(avro["type"])
    return f"_{avro.rsplit('.', 1)[-1].upper()}" if "." in avro else avro


def expression(avro: Any) -> str:
    """Source of a type that `plain` gave."""
    if isinstance(avro, list):
        return f"[{', '.join(expression(branch) for branch in avro)}]"
    if isinstance(avro, dict):
        return "{" + f'"type": "array", "items": {expression(avro["items"])}' + "}"
    return str(avro) if avro.startswith("_") else f'"{avro}"'


def reads(avro: Any) -> str:
    """The expression that reads a value of a type that `plain` gave."""
    if isinstance(avro, list):
        # spelled out: a call for the commonest value, null, would cost a thirtieth of an event's
        # reading
        return (
            f"None if not (branch := read_long(stream)) else {READ[inner(avro)]}(stream) if "
            "branch == 1 else no_branch(branch)"
        )
    if isinstance(avro, dict):
        if avro["type"] == "map":
            # a call for an empty one would cost a thirtieth of an event's reading
            return "read_doubles(stream, length) if (length := read_long(stream)) else {}"
        return f"read_array(stream, {expression(avro)}, NAMED)"
    return f"read_enum(stream, {avro}, None)" if avro.startswith("_") else f"{READ[avro]}(stream)"


def conversions(fields: list[dict[str, Any]], names: dict[str, Any]) -> list[str]:
    """Source of the ways to and from the datum of a record that has arrays."""
    records = [
        (f["name"], python_type(many(f))) for f in fields if many(f) and is_record(many(f), names)
    ]
    lines: list[str] = []
    if records:
        lines += [
            "",
            "    def to_avro(self) -> dict[str, Any]:",
            '        """The datum that fastavro writes."""',
        ]
        lines += ["        return {", "            **super().to_avro(),"]
        lines += [
            f'            "{name}": [item.to_avro() for item in self.{name}],'
            for name, _ in records
        ] + ["        }"]
    if any(many(f) for f in fields):
        lines += ["", "    @classmethod", "    def from_avro(cls, datum: dict[str, Any]) -> Self:"]
        lines += ['        """The record of a datum, which it takes over."""']
        kinds = dict(records)
        for name in [f["name"] for f in fields if many(f)]:
            items = (
                f'map({kinds[name]}.from_avro, datum["{name}"])'
                if name in kinds
                else f'datum["{name}"]'
            )
            lines.append(f'        datum["{name}"] = tuple({items})')
        lines += ["        return super().from_avro(datum)"]
    return lines


def bound(field: dict[str, Any]) -> dict[str, Any]:
    """What a field may be, as Python's keyword arguments of `Bound`; empty where anything goes.

    Every whole number has a minimum, or the schema is refused: a count without one is how negative
    steps come in.
    """
    avro = primitive(many(field) or mapped(field) or field["type"])
    found: dict[str, Any] = {}
    if avro in ("int", "long"):
        if "minimum" not in field:
            raise SystemExit(
                f"The field {field['name']} is a whole number without a minimum: give it one."
            )
        found = {"minimum": field["minimum"], "maximum": field.get("maximum", _MOST[avro])}
    elif avro == "double":
        found = {name: field[name] for name in ("minimum", "maximum", "finite") if name in field}
    elif "format" in field:
        found = {"format": field["format"]}
    most = field.get("maxItems" if many(field) or mapped(field) else "maxLength")
    return found | ({"most": most} if most is not None else {})


def primitive(avro: Any) -> str:
    """The name of a primitive type; empty for enums and records."""
    avro = inner(avro)
    kind = avro["type"] if isinstance(avro, dict) else avro
    return str(kind) if kind in PLAIN else ""


def gate(fields: list[dict[str, Any]], names: dict[str, Any], access: str) -> str:
    """The expression that is true where a field may be outside its bounds.

    `access` stands before the names of fields.
    """
    whole: dict[int, list[str]] = {}
    texts: dict[int, list[str]] = {}
    found: list[str] = []
    for field in fields:
        name, limits, items = access + field["name"], bound(field), many(field)
        if "most" in limits:
            length = f"len({name} or '')" if isinstance(field["type"], list) else f"len({name})"
            texts.setdefault(limits["most"], []).append(length)
        if items and is_record(items, names):
            found.append(f"any(one.unsound() for one in {name})")
            continue
        if mapped(field):
            items, name = mapped(field), f"{name}.values()"
        value = "one" if items else name
        each: list[str] = []
        kind = primitive(items or field["type"])
        if kind in ("int", "long"):
            bits = limits["maximum"].bit_length()
            if items or limits["minimum"] not in (0, -1) or limits["maximum"] != _MOST[kind]:
                each = [f"not {limits['minimum']} <= {value} <= {limits['maximum']}"]
            else:
                whole.setdefault(bits, []).append(
                    value if limits["minimum"] == 0 else f"({value} + 1)"
                )
        elif kind == "double":
            each = doubles(value, limits)
        elif "format" in limits:
            each = [f"{value} not in {FORMATS[limits['format']]}"]
        found += [f"any({one} for one in {name})" for one in each] if items else each
    # a negative number makes the disjunction negative, one that is too large makes it too large:
    # one comparison for all of them
    ors = [f"({' | '.join(values)}) >> {bits}" for bits, values in whole.items()]
    # where all of them together are short enough, each is
    longer = [f"{' + '.join(lengths)} > {most}" for most, lengths in texts.items()]
    return " or ".join([*ors, *longer, *found])


def doubles(value: str, limits: dict[str, Any]) -> list[str]:
    """The comparisons of a floating-point number; NaN passes all but a finite one's."""
    least, most = (
        None if limits.get(name) is None else float(limits[name]) for name in ("minimum", "maximum")
    )
    if limits.get("finite"):
        return [
            (
                f"not {-_LARGEST if least is None else least} <= {value} <= "
                f"{_LARGEST if most is None else most}"
            )
        ]
    return [
        text
        for text in (
            f"{value} < {least}" * (least is not None),
            f"{value} > {most}" * (most is not None),
        )
        if text
    ]


def bounds(fields: list[dict[str, Any]], names: dict[str, Any]) -> list[str]:
    """Source of what the fields of a record may be, and of the question whether they are."""
    lines = ["", "    BOUNDS: ClassVar[tuple[Bound, ...]] = ("]
    for field in fields:
        if (limits := bound(field)) or (many(field) and is_record(many(field), names)):
            told = "".join(f", {name}={value!r}" for name, value in limits.items())
            lines.append(f'        Bound("{field["name"]}"{told}),')
    asked = gate(fields, names, "self.")
    lines += [
        "    )",
        "",
        "    def unsound(self) -> bool:",
        '        """Whether a field may be outside its bounds."""',
    ]
    return [*lines, f"        return bool({asked})" if asked else "        return False"]


def together(types: dict[str, Any]) -> dict[str, str]:
    """The expressions that read doubles which stand side by side all at once.

    Two are read as fast one by one.
    """
    found: dict[str, str] = {}
    for double, run in itertools.groupby(types, lambda field: types[field] == "double"):
        if double and len(side := list(run)) >= SIDE_BY_SIDE:
            found |= {field: f"numbers[{at}]" for at, field in enumerate(side)}
            found[side[0]] = f"(numbers := _unpack_{len(side)}(stream.read({8 * len(side)})))[0]"
    return found


def field_by_field(name: str, fields: list[dict[str, Any]], names: dict[str, Any]) -> list[str]:
    """Source of the fast ways to and from bytes of an event without records inside."""
    types = {f["name"]: plain(f["type"]) for f in fields}
    lines = [
        "",
        "    @classmethod",
        "    def read(cls, stream: BytesIO) -> Self:",
        (
            '        """The record whose datum comes next in the stream; raises PoisonError '
            'where a field is outside its bounds."""'
        ),
    ]
    # what is asked for is held in locals, and the record made without a call: asking the finished
    # one would cost a tenth of its reading
    asked = gate(fields, names, "")
    held = {field for field in types if re.search(rf"\b{field}\b", asked)}
    begin, sources = (
        ENVELOPE[:5],
        {field: reads(avro) for field, avro in types.items()} | together(types),
    )
    if tuple(types)[-3:] == SEAL:
        sources |= {
            "signer": "(seal := read_seal(stream))[0]",
            "previous": "seal[1]",
            "signature": "seal[2]",
        }
    sources |= {
        field["name"]: f"tuple({sources[field['name']]})" for field in fields if many(field)
    }
    lines += [
        "        event_id, occurred_at = read_utf8(stream), read_long(stream)",
        "        run_id, sender_id, trace_id = read_sender(stream)",
    ]
    lines += ["        datum = {", *[f'            "{field}": {field},' for field in begin]]
    lines += [
        f'            "{field}": {f"({field} := {source})" if field in held else source},'
        for field, source in sources.items()
        if field not in begin
    ]
    lines += [
        "        }",
        f"        if {asked}:",
        f'            require("{name}", cls.BOUNDS, datum)',
    ]
    lines += [
        "        record = _new(cls)",
        '        _set(record, "__dict__", datum)',
        "        return record",
    ]
    lines += [
        "",
        "    def write(self, out: bytearray) -> None:",
        '        """Append the datum."""',
        "        write_envelope(out, self)",
    ]
    own = {field: avro for field, avro in types.items() if field not in ENVELOPE}
    return lines + [
        f"        write_doubles(out, self.{field}) if self.{field} else out.append(0)"
        if isinstance(avro, dict) and avro["type"] == "map"
        else f'        write_data(out, self.{field}, {expression(avro)}, NAMED, "{field}", OPTIONS)'
        for field, avro in own.items()
    ]


def record_class(
    schema: dict[str, Any],
    base: str,
    inherited: tuple[str, ...],
    names: dict[str, Any],
    wire: dict[str, Any] | None,
) -> str:
    """Source of one dataclass."""
    own = [field for field in schema["fields"] if field["name"] not in inherited]
    lines = ["@dataclass(frozen=True, kw_only=True)", f"class {schema['name']}({base}):"]
    lines += [
        f'    """{schema["doc"]}',
        "",
        "    Attributes:",
        *[f"        {f['name']}: {f['doc']}." for f in own],
        '    """',
        "",
    ]
    if wire:
        lines += [
            f'    NAME: ClassVar[str] = "{schema["name"]}"',
            f'    TOPIC: ClassVar[str] = "{wire["topic"]}"',
        ]
        lines += [
            f'    KEY: ClassVar[str] = "{wire["key"]}"',
            f"    SCHEMA_ID: ClassVar[int] = {wire['id']}",
        ]
        lines += (
            [f"    MAX_BYTES: ClassVar[int] = {schema['maxBytes']}"] if "maxBytes" in schema else []
        )
        lines += [""]
    lines += [
        f"    {f['name']}: {python_type(f['type'])}"
        + (f" = {python_default(f['default'])}" if "default" in f else "")
        for f in own
    ]
    lines += bounds(schema["fields"], names)
    lines += conversions(own, names)
    if wire and not any(many(f) and is_record(many(f), names) for f in own):
        lines += field_by_field(schema["name"], schema["fields"], names)
    return "\n".join([*lines, "", ""])


def records_source(schemas: dict[str, dict[str, Any]], wires: dict[str, dict[str, Any]]) -> str:
    """Source of records.py."""
    names: dict[str, Any] = {}
    for schema in schemas.values():
        collect(schema, names)
    out = [
        '"""Generated from schemas/*.avsc by tools/generate_events.py. Do not edit."""',
        "",
        "from __future__ import annotations",
        "",
    ]
    out += [
        "from dataclasses import dataclass, field",
        "from io import BytesIO",
        "from struct import Struct",
    ]
    out += ["from typing import Any, ClassVar, Literal, Self", ""]
    out += [
        "from esper.events.avro import (",
        *[f"    {name}," for name in sorted({*READ.values(), *CALLED})],
        ")",
    ]
    out += [
        (
            "from esper.events.envelope import Event, JournalEvent, Record, SignedEvent, "
            "read_seal, read_sender, write_envelope"
        )
    ]
    out += ["from esper.events.ranges import NAMES, TEXTS, Bound, require", ""]
    out += ["_new, _set = object.__new__, object.__setattr__", _UNPACKS, ""]
    enums = [avro for avro in names.values() if avro["type"] == "enum"]
    for avro in enums:
        symbols = ", ".join(f'"{symbol}"' for symbol in avro["symbols"])
        out += [f"{avro['name']} = Literal[{symbols}]", f'"""{avro["doc"]}"""', ""]
        out += [
            f"_{avro['name'].upper()} = {{",
            f'    "type": "enum", "name": "{avro["name"]}", "symbols": [{symbols}],',
            "}",
            "",
        ]
    out.append("")
    for name, avro in names.items():
        short = name.rsplit(".", 1)[-1]
        if avro["type"] == "record" and short not in schemas:
            out.append(record_class(avro, "Record", (), names, None))
    for short, schema in schemas.items():
        journal, signed = wires[short]["topic"] == JOURNAL_TOPIC, is_signed(schema)
        inherited = ENVELOPE + (SIGNED if signed else ()) + (JOURNAL if journal else ())
        base = "JournalEvent" if journal else "SignedEvent" if signed else "Event"
        out.append(record_class(schema, base, inherited, names, wires[short]))
    out += [
        "RECORDS: tuple[type[Event], ...] = (",
        *[f"    {short}," for short in schemas],
        ")",
        '"""Every record type, sorted by name."""',
        "",
    ]
    source = "\n".join(out)
    counts = sorted({int(count) for count in re.findall(r"_unpack_(\d+)", source)})
    return source.replace(
        _UNPACKS, "\n".join(f'_unpack_{count} = Struct("<{count}d").unpack' for count in counts)
    )


def topics_source(topics: dict[str, dict[str, Any]]) -> str:
    """Source of topics.py."""
    out = [
        '"""Generated from schemas/topics.toml by tools/generate_events.py. Do not edit."""',
        "",
        "from __future__ import annotations",
        "",
    ]
    out += [
        "from dataclasses import dataclass",
        "",
        "",
        "@dataclass(frozen=True, slots=True)",
        "class Topic:",
    ]
    out += [
        '    """One Kafka topic with the principals that write and that read it.',
        "",
        "    `retention_ms` is -1 for topics that are kept forever.",
        '    """',
        "",
    ]
    out += [
        "    name: str",
        "    key: str",
        "    partitions: int",
        "    retention_ms: int",
        "    writers: tuple[str, ...]",
        "    readers: tuple[str, ...]",
    ]
    out += ["    records: tuple[str, ...]", "", "", "TOPICS: dict[str, Topic] = {"]
    for name, topic in topics.items():
        retention = (
            -1
            if topic["retention"] == "for ever"
            else int(topic["retention"].split()[0]) * 86_400_000
        )
        out.append(
            f"    {name!r}: Topic({name!r}, {topic['key']!r}, {topic['partitions']}, "
            f"{retention}, {tuple(topic['writers'])!r}, "
            f"{tuple(topic['readers'])!r}, {tuple(topic['records'])!r}),"
        )
    return "\n".join([*out, "}", ""])


def sample(avro: Any, names: dict[str, Any], salt: int) -> Any:
    """A value of an Avro type, the same at each run: golden payloads."""
    avro = names.get(avro, avro) if isinstance(avro, str) else avro
    if isinstance(avro, list):
        return sample(inner(avro), names, salt)
    kind = avro if isinstance(avro, str) else avro["type"]
    if kind == "record":
        return {
            field["name"]: within(field, sample(field["type"], names, salt + index), salt + index)
            for index, field in enumerate(avro["fields"])
        }
    if kind == "array":
        return [sample(avro["items"], names, salt + index) for index in range(2)]
    if kind == "map":
        return {f"key_{index}": sample(avro["values"], names, salt + index) for index in range(2)}
    if kind == "enum":
        return avro["symbols"][salt % len(avro["symbols"])]
    logical = avro.get("logicalType") if isinstance(avro, dict) else None
    if logical == "uuid":
        return f"00000000-0000-4000-8000-{salt:012d}"
    if logical == "timestamp-micros":
        return 1_767_225_600_000_000 + salt
    values = {
        "string": f"text {salt}",
        "int": salt,
        # beyond 32 bits: a reader that takes it for an int fails
        "long": salt << 33,
        # eighths are exact in binary, so they compare equal after any way
        "double": salt / 8,
        "boolean": bool(salt % 2),
        "bytes": bytes([salt, 255]),
    }
    return values[kind]


def within(field: dict[str, Any], value: Any, salt: int) -> Any:
    """A sample that its field may be."""
    texts = {
        "name": f"name-{salt}",
        "json": f'{{"salt": {salt}}}',
        "geometry": f"sequence in {salt + 1}",
    }
    if "format" in field:
        text = texts[field["format"]]
        return [f"{text}-{index}" for index in range(2)] if many(field) else text
    if primitive(many(field) or field["type"]) != "double" or "maximum" not in field:
        return value
    return [one / 128 for one in value] if many(field) else value / 128


def without_bounds(avro: Any) -> Any:
    """A schema without what its fields may be, which is Esper's own: registries, examples and the
    history have what Avro knows.
    """
    if isinstance(avro, list):
        return [without_bounds(one) for one in avro]
    if isinstance(avro, dict):
        return {key: without_bounds(value) for key, value in avro.items() if key not in BOUNDS}
    return avro


def example(schema: dict[str, Any]) -> bytes:
    """A golden payload: one datum in an Avro container, which carries its schema."""
    names: dict[str, Any] = {}
    collect(schema, names)
    buffer, written = io.BytesIO(), parse_schema(without_bounds(schema))
    fastavro.writer(
        buffer,
        written,
        [sample(schema, names, 1)],
        # fixed: fastavro draws one otherwise, and examples have to come again byte by byte
        sync_marker=hashlib.md5(schema["name"].encode()).digest(),  # noqa: S324
    )
    return buffer.getvalue()


def earlier(name: str, current: str) -> list[dict[str, Any]]:
    """Schemas of the other versions of a record, from its golden examples, oldest first."""
    found = []
    for path in sorted((SCHEMAS / "examples").glob(f"{name}-*.avro")):
        with path.open("rb") as file:
            schema = json.loads(fastavro.reader(file).metadata["avro.schema"])
        if fingerprint(schema) != current:
            found.append(schema)
    return found


def formatted(source: str) -> str:
    """`source` as the project's formatter would have it."""
    command = [
        sys.executable,
        "-m",
        "ruff",
        "format",
        "--config",
        str(ROOT / "pyproject.toml"),
        "--stdin-filename",
        "generated.py",
        "-",
    ]
    return subprocess.run(command, input=source, capture_output=True, text=True, check=True).stdout


def outputs() -> dict[Path, bytes]:
    """Every file that the generator owns, with its content."""
    schemas = {path.stem: json.loads(path.read_text()) for path in sorted(SCHEMAS.glob("*.avsc"))}
    topics = tomllib.loads((SCHEMAS / "topics.toml").read_text())
    homes = {
        record: (name, topic["key"])
        for name, topic in topics.items()
        for record in topic["records"]
    }
    if orphans := sorted(schemas.keys() ^ homes.keys()):
        raise SystemExit(
            "These records have a schema without a topic or a topic without a schema: "
            f"{', '.join(orphans)}. Correct schemas/topics.toml."
        )
    wires: dict[str, dict[str, Any]] = {}
    result: dict[Path, bytes] = {}
    lock = []
    for name, schema in schemas.items():
        digest = fingerprint(schema)
        versions = earlier(name, digest)
        old = [
            {"id": schema_id(fingerprint(one)), "fingerprint": fingerprint(one), "schema": one}
            for one in versions
        ]
        topic, key = homes[name]
        wires[name] = {
            "topic": topic,
            "key": key,
            "id": schema_id(digest),
            "fingerprint": digest,
            "schema": without_bounds(schema),
            "earlier": old,
        }
        lock += [f"{one['id']:>10} {one['fingerprint']} {name}" for one in [*old, wires[name]]]
        present = [
            path
            for path in (SCHEMAS / "examples").glob(f"{name}-*.avro")
            if fingerprint(
                json.loads(fastavro.reader(io.BytesIO(path.read_bytes())).metadata["avro.schema"])
            )
            == digest
        ]
        if not present:
            result[SCHEMAS / "examples" / f"{name}-{len(versions) + 1}.avro"] = example(schema)
    ids = [line.split()[0] for line in lock]
    if len(set(ids)) != len(ids):
        raise SystemExit("Two schemas have the same id: rename a field of the newer one.")
    result[PACKAGE / "records.py"] = formatted(records_source(schemas, wires)).encode()
    result[PACKAGE / "topics.py"] = formatted(topics_source(topics)).encode()
    result[PACKAGE / "wire.json"] = (json.dumps(wires, indent=1) + "\n").encode()
    result[SCHEMAS / "ids.lock"] = (
        "# id, SHA-256 of the parsing canonical form, record. Generated; ids never change.\n"
        + "\n".join(lock)
        + "\n"
    ).encode()
    return result


def main() -> None:
    """Write or check the generated files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 when a file differs"
    )
    check = parser.parse_args().check
    differing = [
        path
        for path, content in outputs().items()
        if not path.exists() or path.read_bytes() != content
    ]
    if check and differing:
        names = ", ".join(str(path.relative_to(ROOT)) for path in differing)
        raise SystemExit(
            f"Generated files are stale: {names}. Run tools/generate_events.py and commit "
            "what it writes."
        )
    if not check:
        for path, content in outputs().items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    print(f"{len(differing)} file(s) {'differ' if check else 'written'}")


if __name__ == "__main__":
    main()
