"""`python -m processors.nissa`."""

from __future__ import annotations

from processors import streams
from processors.nissa.app import build

if __name__ == "__main__":
    streams.run(build)
