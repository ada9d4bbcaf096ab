"""`python -m processors.tamiyo`."""

from __future__ import annotations

from esper.clock import SystemClock
from esper.config import Settings
from processors import streams
from processors.tamiyo.app import build

if __name__ == "__main__":
    streams.run(lambda: build(Settings(), SystemClock()))
