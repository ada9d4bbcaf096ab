"""One embedded broker without a supervisor, for as long as a block runs: the AOT training run and
the tests.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from esper.clock import Clock
from esper.disk import appended
from esper.errors import UnavailableError
from esper.stack.embedded import broker
from esper.stack.processes.leash import Leash

_START_TIMEOUT_S = 60
_STOP_TIMEOUT_S = 60


@contextmanager
def running_broker(
    node: broker.BrokerNode,
    classpath: Sequence[Path],
    *,
    cluster_id: str,
    clock: Clock,
    java_options: Sequence[str] = (),
    niceness: int = 0,
    stop_timeout: float = _STOP_TIMEOUT_S,
) -> Iterator[subprocess.Popen[bytes]]:
    """Prepare and start `node`, give its process once it answers, and stop it cleanly afterwards.

    It dies with this process.

    Raises:
        EsperError: it does not start; the sentence says why.
    """
    broker.prepare(node, classpath, cluster_id=cluster_id)
    log_path = node.folder / "broker.log"
    with Leash() as leash, appended(log_path) as log:
        child = subprocess.Popen(
            (
                # it replaces itself by Java, so that the process is the broker's own
                "nice",
                "-n",
                str(niceness),
                *broker.command(node, classpath, java_options=java_options),
            ),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=node.folder,
            env=broker.environment(os.environ),
            start_new_session=True,
        )
        leash.hold(child.pid)
        try:
            _wait(child, node, log_path, clock)
            yield child
        finally:
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(stop_timeout)
            child.kill()
            child.wait()
            leash.drop(child.pid)


def _wait(
    child: subprocess.Popen[bytes], node: broker.BrokerNode, log_path: Path, clock: Clock
) -> None:
    deadline = clock.monotonic() + _START_TIMEOUT_S
    while not broker.answers(node.bootstrap, timeout=1):
        if child.poll() is not None or clock.monotonic() > deadline:
            tail = log_path.read_text(encoding="utf-8", errors="replace")[-4000:]
            raise broker.explain(node, tail) or UnavailableError(
                f"the broker did not start: {log_path} says why"
            )
        clock.sleep(0.02)
