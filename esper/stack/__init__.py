"""The local stack: an embedded Kafka broker and the parts around it, kept alive by one
supervisor.
"""

from __future__ import annotations

from esper.stack.control import Endpoints, asleep, down, release, running, status, up, wait_ready

__all__ = ["Endpoints", "asleep", "down", "release", "running", "status", "up", "wait_ready"]
