"""`python -m processors.tamiyo`."""

from __future__ import annotations

from processors import streams
from processors.tamiyo.app import build

if __name__ == "__main__":
    streams.run(build)
