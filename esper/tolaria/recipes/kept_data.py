"""Data sets that take seconds to make, kept among what every home of this user shares."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from typing import Final

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save

from esper.disk import write_file
from esper.errors import EsperError
from esper.user_cache import cache_dir

_DIGEST_BYTES: Final = 32


def kept(
    name: str, packages: Sequence[str], make: Callable[[], Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """The arrays that `make` gives, read from a file of an earlier call where there is one.

    A file is of one version of each of these `packages`, of Python and of torch's instruction set:
    sums of floats may differ between them. One that is damaged is made again, one that cannot be
    written is not kept.
    """
    facts = {one: metadata.version(one) for one in sorted(packages)} | {
        "python": platform.python_version(),
        "machine": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    path = cache_dir() / "data" / f"{name}-{key}"
    with suppress(OSError, SafetensorError):
        content = path.read_bytes()
        digest, arrays = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if digest == hashlib.sha256(arrays).digest():
            return load(arrays)
    made = {one: np.ascontiguousarray(array) for one, array in make().items()}
    arrays = save(made)
    # without room for it, or in a folder of another user: the next run makes it again
    with suppress(EsperError):
        write_file(path, hashlib.sha256(arrays).digest() + arrays)
    return made
