"""`python -m esper_processors.nissa`."""

from __future__ import annotations

from esper_processors import streams
from esper_processors.nissa.app import build

if __name__ == "__main__":
    streams.run(build)
