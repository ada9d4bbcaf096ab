"""`python -m esper_processors.tamiyo`."""

from __future__ import annotations

from esper_processors import streams
from esper_processors.tamiyo.app import build

if __name__ == "__main__":
    streams.run(build)
