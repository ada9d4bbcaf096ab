"""Which parts run beside the broker, how each is started, and what environment they get."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, SecretStr

from esper.config import Settings
from esper.oona.bus.access import embedded
from esper.stack.processes.ports import PortClaims


@dataclass(frozen=True, slots=True)
class Part:
    """One process that serves `GET /health` on the sockets that it inherits (see
    `esper.service.transport.sockets`), and ends within 5 s of SIGTERM.
    """

    name: str
    command: tuple[str, ...]
    setting: str
    """The variable by which it, and everyone who calls it, learns its port."""
    well_known: int
    """The port that it takes where that is free."""
    port: int = 0
    """The port that the user insists on; 0 for any."""
    silence_s: float = 20.0
    """How long it may leave `GET /health` without any answer before it is taken for stuck."""
    start_s: float = 180.0
    """The same until it has been ready for the first time."""
    on_demand: bool = False
    """Whether it starts when somebody first connects to its port."""


def default_parts(settings: Settings) -> tuple[Part, ...]:
    """Tolaria's control API, Tamiyo, Nissa, history and foundry.

    With ESPER_PARTS=on_demand those wait to be asked without which runs do the same: what they are
    behind by is in Kafka.
    """
    python, lazy = (sys.executable, "-m"), settings.parts == "on_demand"
    embedded = () if settings.kafka.bootstrap else ("--embedded",)
    return (
        Part(
            "tolaria",
            (*python, "esper.tolaria.control", *embedded),
            "ESPER_TOLARIA__PORT",
            8080,
            settings.tolaria.port,
            on_demand=lazy,
        ),
        Part(
            "tamiyo",
            (*python, "esper_processors.tamiyo"),
            "ESPER_TAMIYO__PORT",
            8081,
            settings.tamiyo.port,
        ),
        Part(
            "nissa",
            (*python, "esper_processors.nissa"),
            "ESPER_NISSA__PORT",
            9090,
            settings.nissa.port,
            on_demand=lazy,
        ),
        Part(
            "history",
            (*python, "esper.history"),
            "ESPER_HISTORY__PORT",
            8123,
            settings.history.port,
            on_demand=lazy,
        ),
        Part("foundry", (*python, "esper.tezzeret"), "ESPER_URZA__PORT", 8000, settings.urza.port),
    )


def claim_ports(
    claims: PortClaims,
    parts: Sequence[Part],
    *,
    home: Path,
    before: Mapping[str, int],
    embedded: bool,
) -> dict[str, int]:
    """A port for each part, and for the broker and its controller where it is `embedded`: those of
    `before` again where they are free.

    The ports of parts are listened on from now on; the broker's Java cannot inherit a socket, and
    opens its own.

    Raises:
        UnavailableError: a port that the user insists on is taken.
    """
    ports: dict[str, int] = {}
    if embedded:
        for name, well_known in (("broker", 9092), ("controller", 0)):
            ports[name] = claims.choose(
                salt=f"{home} {name}", preferred=(before.get(name, 0), well_known)
            )
    for part in parts:
        if part.port:
            ports[part.name] = claims.require(
                part.port, name=part.name, setting=part.setting, listen=True
            )
        else:
            preferred = (before.get(part.name, 0), part.well_known)
            ports[part.name] = claims.choose(
                salt=f"{home} {part.name}", preferred=preferred, listen=True
            )
    return ports


def as_environment(settings: Settings) -> dict[str, str]:
    """The variables from which `Settings()` in another process becomes equal to `settings`, secrets
    revealed: for a child's environment alone.
    """
    return dict(_variables("ESPER_", settings)) | {"ESPER_HOME": str(settings.home.resolve())}


def child_environment(base: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """The environment of a child that is to have `settings`: `base` without what it says about
    settings, and every setting as it is here.
    """
    kept = {name: value for name, value in base.items() if not _is_setting(name)}
    return {**kept, **as_environment(settings)}


def with_esper_on_path(base: Mapping[str, str]) -> dict[str, str]:
    """`base` with a PYTHONPATH on which other processes find this very Esper, wherever they run,
    and nothing in that place instead of it.
    """
    root = Path(__file__).resolve().parents[3]
    # a working copy has the processors in a folder of their own
    own = [str(root), *([str(root / "processors")] if (root / "processors").is_dir() else [])]
    given = base.get("PYTHONPATH", "").split(os.pathsep)
    path = [*own, *(entry for entry in given if entry and entry not in own)]
    # by itself `python -m` imports from the working folder before anything else, and that may be
    # one where others write
    return {**base, "PYTHONPATH": os.pathsep.join(path), "PYTHONSAFEPATH": "1"}


def part_environment(
    base: Mapping[str, str],
    settings: Settings,
    parts: Sequence[Part],
    ports: Mapping[str, int],
    bootstrap: str,
) -> dict[str, str]:
    """What every part gets: `base`, the settings, the broker, everyone's port, and this very Esper
    on its path.
    """
    return {
        **child_environment(
            with_esper_on_path(base),
            settings
            if settings.kafka.bootstrap
            else settings.model_copy(update={"kafka": embedded(settings, bootstrap)}),
        ),
        # what a part wrote before kill -9 has to be in its log
        "PYTHONUNBUFFERED": "1",
        **{part.setting: str(ports[part.name]) for part in parts},
    }


def _variables(prefix: str, section: BaseModel) -> Iterator[tuple[str, str]]:
    for name in type(section).model_fields:
        value = getattr(section, name)
        variable = f"{prefix}{name}".upper()
        if isinstance(value, BaseModel):
            yield from _variables(f"{variable}__", value)
        else:
            yield variable, _text(variable, value)


def _text(variable: str, value: object) -> str:
    """One value as pydantic-settings reads it.

    What has no case here is refused, never guessed: str() of a secret would give asterisks.
    """
    match value:
        case SecretStr():
            return value.get_secret_value()
        case bool():
            return "true" if value else "false"
        case str() | int() | float() | Path():
            return str(value)
        case Mapping() | tuple() | list():
            return json.dumps(value, default=lambda inner: _text(variable, inner))
        case _:
            raise TypeError(
                f"{variable}: {type(value).__name__} has no text for an environment; give "
                "it one in esper/stack/processes/parts.py."
            )


def _is_setting(name: str) -> bool:
    """Whether pydantic-settings would read a variable of this name: it takes any case, and whole
    sections as JSON.
    """
    upper = name.upper()
    return any(
        upper == f"ESPER_{section.upper()}" or upper.startswith(f"ESPER_{section.upper()}__")
        for section in Settings.model_fields
    )
