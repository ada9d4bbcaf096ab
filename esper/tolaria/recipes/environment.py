"""What decides the bits of a run beside code, configuration and seed: RunStarted records it."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Final

import torch

NO_INPUTS: Final[Mapping[str, str]] = MappingProxyType({})
DATA: Final = "data"
"""The name among versions under which a run records the digest of its data."""
SOURCE: Final = "source of "
"""What the names begin with under which it records hashes of source files of its user's own.

The module follows, or the file of a script.
"""
ARGUMENTS: Final = "arguments"
"""The name under which it records the arguments of its script, as JSON."""
NUMBER: Final = "run of the script"
"""The name under which it records which of its script's runs it is, if not the first."""

PACKAGES = ("esper", "torch", "numpy", "safetensors", "fastavro", "confluent-kafka", "mnist1d")


@dataclass(frozen=True, slots=True)
class Environment:
    """Versions and numerical settings of this process; meanings as in RunStarted."""

    source_sha256: str
    versions: str
    threads: int
    instruction_set: str
    blas: str
    onednn: bool


def source_digest() -> str:
    """SHA-256 over Esper's Python files, names sorted."""
    root = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        # the name too: a module that was renamed is other code
        digest.update(str(path.relative_to(root)).encode() + b"\x1f" + path.read_bytes())
    return digest.hexdigest()


def is_input(name: str) -> bool:
    """Whether a version is of a run's data, script or sources, which older runs have not recorded,
    and which are not always at hand.
    """
    return name in (DATA, ARGUMENTS, NUMBER) or name.startswith(SOURCE)


def observe(inputs: Mapping[str, str] = NO_INPUTS) -> Environment:
    """The environment as it is now.

    `inputs` are the versions of the run's data and of source files of its user's own.
    """
    versions = (
        {name: metadata.version(name) for name in PACKAGES}
        | {"python": platform.python_version()}
        | dict(inputs)
    )
    blas = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    return Environment(
        source_sha256=source_digest(),
        versions=json.dumps(versions, sort_keys=True),
        threads=torch.get_num_threads(),
        instruction_set=torch.backends.cpu.get_cpu_capability(),
        blas=blas.group(1) if blas else "unknown",
        onednn=bool(torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled),
    )
