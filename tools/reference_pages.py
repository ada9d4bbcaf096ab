"""The reference, written from what the code itself says: commands, recipes, settings, topics and
events, tables. `tools/build_docs.py` puts the pages into the site.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterator
from typing import Any, Final

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from typer.testing import CliRunner

from esper.cli import app
from esper.config import Settings
from esper.events.schemas import BY_NAME, current
from esper.events.topics import TOPICS
from esper.history.tables.ddl import record_tables
from esper.history.tables.views import views
from esper.tolaria.recipes.recipe import Recipe

_DAY_MS: Final = 86_400_000
_RECIPE: Final = (
    "A TOML file; `--set section.key=value` changes one for a run. What a recipe leaves out of "
    "growth is fitted to the run's length ([growth](../growth.md))."
)
_TABLES: Final = (
    "What `esper sql` reads. A view shows each event once; under it is a table `raw_...` with "
    "every message as it lay on Kafka."
)


def commands() -> str:
    """Every command's help, as `--help` prints it."""
    parts = ["# Commands", "As `esper COMMAND --help` prints them."]
    for path in _paths(typer.main.get_command(app), ()):
        words = [*path, "--help"]
        shown = CliRunner().invoke(app, words, env={"COLUMNS": "100"}, prog_name="esper")
        if shown.exit_code:
            raise RuntimeError(f"esper {' '.join(words)}: {shown.output}")
        parts += [f"## esper {' '.join(path)}", f"```text\n{shown.output.strip()}\n```"]
    return _page(parts)


def recipe() -> str:
    """Every key of a recipe."""
    return _page(
        [
            "# Recipe",
            _RECIPE,
            *_model(Recipe, "", lambda path: path),
        ]
    )


def settings() -> str:
    """Every environment variable."""
    return _page(
        [
            "# Settings",
            "Environment variables of an installation. A misspelt one is refused with the nearest.",
            *_model(Settings, "", lambda path: f"ESPER_{path.replace('.', '__').upper()}"),
        ]
    )


def events() -> str:
    """Every topic, and every event with its fields."""
    topics = [
        (
            f"`{topic.name}`, by `{topic.key}`",
            topic.partitions,
            "for ever" if topic.retention_ms < 0 else f"{topic.retention_ms // _DAY_MS} days",
            ", ".join(topic.writers),
            ", ".join(topic.readers),
            ", ".join(f"[{name}](#{name.lower()})" for name in topic.records),
        )
        for topic in TOPICS.values()
    ]
    head = ("topic, by its key", "partitions", "kept", "written by", "read by", "events")
    parts = ["# Topics and events", "## Topics", _table(head, topics)]
    for name, record in BY_NAME.items():
        schema = current(record).schema
        fields = [
            (f"`{field['name']}`", f"`{_avro(field['type'])}`", field.get("doc", ""))
            for field in schema["fields"]
        ]
        about = f"{schema.get('doc', '')} Topic `{record.TOPIC}`."
        parts += [f"## {name}", about, _table(("field", "type", "what"), fields)]
    return _page(parts)


def tables() -> str:
    """Every view of the history, and the columns of those that are an event each."""
    of_records = {table.view: table for table in record_tables().values()}
    rows = [(f"`{view.name}`", view.comment) for view in views() if view.name not in of_records]
    parts = [
        "# Tables",
        _TABLES,
        "## Views over several events",
        _table(("view", "what"), rows),
    ]
    for name, table in of_records.items():
        columns = [
            (f"`{column.name}`", f"`{column.type}`", column.comment)
            for column in table.columns
            if column.shown
        ]
        head = ("column", "type", "what")
        parts += [f"## {name}", table.comment, _table(head, columns)]
    return _page(parts)


PAGES: Final[dict[str, Callable[[], str]]] = {
    "commands": commands,
    "recipe": recipe,
    "settings": settings,
    "events": events,
    "tables": tables,
}
"""The pages by their names, in the order of the site."""


def _paths(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The words of every command."""
    inner = getattr(command, "commands", None)
    if not inner or getattr(command, "invoke_without_command", False):
        yield path
    for name, one in (inner or {}).items():
        yield from _paths(one, (*path, name))


def _model(model: type[BaseModel], path: str, named: Callable[[str], str]) -> Iterator[str]:
    """A table of a model's own fields, and those of its sections."""
    own, inner = [], []
    for name, field in model.model_fields.items():
        where = f"{path}.{name}" if path else name
        section = _section(field)
        if section is not None:
            inner.append((section, where))
            continue
        given = field.get_default(call_default_factory=True, validated_data={})
        default = "required" if given is PydanticUndefined else f"`{_value(given)}`"
        kind = f"`{_kind(field.annotation)}`"
        own.append((f"`{named(where)}`", kind, default, field.description or ""))
    if own:
        yield f"## {path or 'At the top'}"
        if path and (about := (model.__doc__ or "").strip()):
            yield about
        yield _table(("key", "type", "default", "what"), own)
    for section, where in inner:
        yield from _model(section, where, named)


def _section(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _kind(kind: Any) -> str:
    """A type in a reader's words."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return " or ".join(map(str, inner))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_kind(one) for one in inner if one is not type(None))
    if origin is typing.Annotated:
        return _kind(inner[0])
    if origin is not None:
        return f"{origin.__name__} of {', '.join(_kind(one) for one in inner if one is not ...)}"
    return getattr(kind, "__name__", str(kind))


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list | set | frozenset):
        return "[" + ", ".join(map(str, value)) + "]"
    return str(value) if value not in (None, "") else "none"


def _avro(kind: Any) -> str:
    """A type of Avro in one line."""
    if isinstance(kind, list):
        return " or ".join(map(_avro, kind))
    if isinstance(kind, dict):
        if "logicalType" in kind:
            return str(kind["logicalType"])
        if kind["type"] == "array":
            return f"array of {_avro(kind['items'])}"
        if kind["type"] == "map":
            return f"map of {_avro(kind['values'])}"
        if kind["type"] == "enum":
            return " or ".join(kind["symbols"])
        return str(kind.get("name", _avro(kind["type"])))
    return str(kind)


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(_cell(one) for one in line) + " |" for line in lines)


def _cell(value: object) -> str:
    """Text that stays within its cell."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;")


def _page(parts: list[str]) -> str:
    return "\n\n".join(parts) + "\n"
