"""The loader process: fetches, verifies and unpacks kernels outside the trainer's interpreter, where it would hold the GIL.

`python -m esper.urza.loading STORE CACHE` reads one request a line from standard input and answers each with a line on standard output, both
JSON. A verified artefact is put into CACHE, from where the trainer maps it. It imports no torch, and ends when its input does.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from esper.errors import EsperError
from esper.urza.artefact import fetch
from esper.urza.local import LocalStore
from esper.urza.store import Store


def place(store: Store, cache: Path, request: dict[str, str]) -> dict[str, str]:
    """The answer to one request: the path of the verified artefact, or why there is none, in a sentence."""
    kernel_id = request["kernel_id"]
    target = cache / f"{kernel_id}.safetensors"
    try:
        fetch(store, kernel_id=kernel_id, address=request["address"], sha256=request["sha256"])
        content = store.get(request["address"])
        partial = target.with_suffix(f".{os.getpid()}")
        partial.write_bytes(content or b"")
        partial.replace(target)
    except (EsperError, OSError) as error:
        return {"kernel_id": kernel_id, "error": str(error)}
    return {"kernel_id": kernel_id, "path": str(target)}


def main() -> None:
    """Answer requests until standard input ends."""
    store, cache = LocalStore(Path(sys.argv[1])), Path(sys.argv[2])
    cache.mkdir(parents=True, exist_ok=True)
    for line in sys.stdin:
        sys.stdout.write(json.dumps(place(store, cache, json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
