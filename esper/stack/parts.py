"""Which parts run beside the broker, how each is started, and what environment they get."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import esper
from esper.config import Settings
from esper.stack.ports import PortClaims


@dataclass(frozen=True, slots=True)
class Part:
    """One process that serves `GET /health` on a port of 127.0.0.1 and ends within 5 s of SIGTERM."""

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


def default_parts(settings: Settings) -> tuple[Part, ...]:
    """Tolaria's control API, Tamiyo, Nissa, history and foundry."""
    python = (sys.executable, "-m")
    embedded = () if settings.kafka.bootstrap else ("--embedded",)
    return (
        Part("tolaria", (*python, "esper.tolaria.control", *embedded), "ESPER_TOLARIA__PORT", 8080, settings.tolaria.port),
        Part("tamiyo", (*python, "processors.tamiyo"), "ESPER_TAMIYO__PORT", 8081, settings.tamiyo.port),
        Part("nissa", (*python, "processors.nissa"), "ESPER_NISSA__PORT", 9090, settings.nissa.port),
        Part("history", (*python, "esper.history"), "ESPER_HISTORY__PORT", 8123, settings.history.port),
        Part("foundry", (*python, "esper.tezzeret"), "ESPER_URZA__PORT", 8000, settings.urza.port),
    )


def claim_ports(claims: PortClaims, parts: Sequence[Part], *, home: Path, before: Mapping[str, int], embedded: bool) -> dict[str, int]:
    """A port for each part, and for the broker and its controller where it is `embedded`: those of `before` again where they are free.

    Raises:
        UnavailableError: a port that the user insists on is taken.
    """
    ports: dict[str, int] = {}
    if embedded:
        for name, well_known in (("broker", 9092), ("controller", 0)):
            ports[name] = claims.choose(salt=f"{home} {name}", preferred=(before.get(name, 0), well_known))
    for part in parts:
        if part.port:
            ports[part.name] = claims.require(part.port, name=part.name, setting=part.setting)
        else:
            ports[part.name] = claims.choose(salt=f"{home} {part.name}", preferred=(before.get(part.name, 0), part.well_known))
    return ports


def as_environment(settings: Settings) -> dict[str, str]:
    """The variables from which `Settings()` in another process becomes equal to `settings`."""
    return dict(_flat("ESPER", {**settings.model_dump(mode="json"), "home": str(settings.home.resolve())}))


def with_esper_on_path(base: Mapping[str, str]) -> dict[str, str]:
    """`base` with a PYTHONPATH on which other processes find this very Esper, wherever they run."""
    root = str(Path(esper.__file__).resolve().parents[1])
    path = [root, *(entry for entry in base.get("PYTHONPATH", "").split(os.pathsep) if entry and entry != root)]
    return {**base, "PYTHONPATH": os.pathsep.join(path)}


def part_environment(
    base: Mapping[str, str], settings: Settings, parts: Sequence[Part], ports: Mapping[str, int], bootstrap: str
) -> dict[str, str]:
    """What every part gets: `base`, the settings, the broker, everyone's port, and this very Esper on its path."""
    return {
        **with_esper_on_path(base),
        **as_environment(settings),
        "PYTHONUNBUFFERED": "1",
        "ESPER_KAFKA__BOOTSTRAP": bootstrap,
        **{part.setting: str(ports[part.name]) for part in parts},
    }


def _flat(prefix: str, values: Mapping[str, Any], joint: str = "_") -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for name, value in values.items():
        key = f"{prefix}{joint}{name}".upper()
        pairs += _flat(key, value, "__") if isinstance(value, Mapping) else [(key, str(value))]
    return pairs
