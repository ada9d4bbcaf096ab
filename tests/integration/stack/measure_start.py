"""`python -m tests.integration.stack.measure_start`: how long the broker takes and how large it is,
with and without the AOT cache.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import psutil

from esper.clock import SystemClock
from esper.stack.embedded import aot, jars
from esper.stack.embedded.broker import BrokerNode
from esper.stack.embedded.solo import running_broker
from esper.stack.processes.ports import PortClaims

ROUNDS = 5


def measure(
    node: BrokerNode, classpath: Sequence[Path], options: Sequence[str]
) -> dict[str, float]:
    """Medians over `ROUNDS`: seconds from launch to the first answer, after a clean stop and after
    `kill -9`; its size; seconds to stop.
    """
    clock = SystemClock()
    rows: dict[str, list[float]] = {
        "start_s": [],
        "start_after_kill_s": [],
        "resident_mb": [],
        "stop_s": [],
    }
    for _ in range(ROUNDS):
        for name, kill in (("start_s", True), ("start_after_kill_s", False)):
            began = clock.monotonic()
            with running_broker(
                node,
                classpath,
                cluster_id="ZXNwZXItbWVhc3VyZW1lbg",
                clock=clock,
                java_options=options,
            ) as child:
                rows[name].append(clock.monotonic() - began)
                rows["resident_mb"].append(psutil.Process(child.pid).memory_info().rss / 1e6)
                if kill:
                    child.kill()
                began = clock.monotonic()
            if not kill:
                rows["stop_s"].append(clock.monotonic() - began)
    return {name: round(statistics.median(values), 2) for name, values in rows.items()}


def main() -> int:
    """Print one JSON object."""
    classpath = jars.kafka(lambda line: print(line, file=sys.stderr))  # noqa: T201 - a program
    if not aot.recorded():
        aot.record(classpath, clock=SystemClock())
    with tempfile.TemporaryDirectory() as folder, PortClaims() as claims:
        node = BrokerNode(
            Path(folder), *(claims.choose(salt=f"{folder} {name}", preferred=()) for name in "ab")
        )
        measure(node, classpath, ())
        found = {
            "plain": measure(node, classpath, ()),
            "aot": measure(node, classpath, aot.java_options(classpath)),
        }
    print(json.dumps(found))  # noqa: T201 - a program
    return 0


if __name__ == "__main__":
    sys.exit(main())
