"""Java's ahead-of-time cache for the broker: recorded once a user, it halves the start (JEP 483,
514, 515).

Recording costs 8 s at the end of a broker's life, so it is done by a broker of its own, started by
the supervisor at lowest priority once the stack is ready: no start and no stop of the user's waits
for it. A cache that does not fit is ignored by Java; one that is damaged is deleted by the
supervisor after the start that it broke. `python -m esper.stack.embedded.aot` records by hand.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from esper.clock import Clock, SystemClock
from esper.disk import appended, make_folder
from esper.errors import EsperError, UnavailableError
from esper.stack.embedded import jars
from esper.stack.embedded.broker import JVM_OPTIONS, BrokerNode
from esper.stack.embedded.java import java_home
from esper.stack.embedded.solo import running_broker
from esper.stack.processes.leash import Leash, kill_group
from esper.stack.processes.ports import PortClaims
from esper.user_cache import cache_dir

_NICENESS = 19
_STOP_TIMEOUT_S = 600
_RECORDED = "SASL and ACLs"
"""What a recorded broker has done.

Another text voids the caches of earlier versions, which lack its classes.
"""
_KEPT = 3  # other versions of Esper or Java may live beside this one


def cache_file(classpath: Sequence[Path]) -> Path:
    """Where the cache for these jars, this Java and these options is, whether it exists or not."""
    release = (java_home() / "release").read_text(encoding="utf-8")
    modules = (
        java_home() / "lib" / "modules"
    ).stat()  # Java compares these too: another copy of the same version voids the cache
    facts = (
        _RECORDED,
        jars.lock_text(),
        *map(str, classpath),
        *JVM_OPTIONS,
        release,
        str(modules.st_mtime_ns),
        str(modules.st_size),
    )
    key = hashlib.sha256("\0".join(facts).encode()).hexdigest()[:16]
    return cache_dir() / "aot" / f"kafka-{key}.aot"


def recorded() -> bool:
    """Whether the cache for the locked Kafka exists."""
    return cache_file(tuple(jars.jars_dir() / jar.name for jar in jars.locked_jars())).is_file()


def java_options(classpath: Sequence[Path]) -> tuple[str, ...]:
    """What to add to the broker's command line: the recorded cache, or nothing."""
    cache = cache_file(classpath)
    return (f"-XX:AOTCache={cache}",) if cache.is_file() else ()


def discard(classpath: Sequence[Path]) -> bool:
    """Delete the cache; whether there was one."""
    cache = cache_file(classpath)
    existed = cache.is_file()
    cache.unlink(missing_ok=True)
    return existed


def record(classpath: Sequence[Path], *, clock: Clock) -> Path | None:
    """Run a broker of its own to record the cache, about 12 s of one core.

    None when another process is recording already.

    Raises:
        EsperError: the broker did not start, or Java wrote no cache.
    """
    from esper.stack.embedded.securing import secure  # noqa: PLC0415 - Kafka's client; the supervisor, which imports this module, loads it while Java starts

    cache = cache_file(classpath)
    make_folder(cache.parent)
    with appended(cache.parent / ".lock") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        # under the lock nobody else records: a kill has left these
        for leftover in cache.parent.glob("recording-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        with (
            tempfile.TemporaryDirectory(prefix="recording-", dir=cache.parent) as scratch,
            PortClaims() as claims,
        ):
            new = Path(scratch) / cache.name
            node = BrokerNode(
                folder=Path(scratch) / "kafka",
                port=claims.choose(salt=scratch, preferred=()),
                controller_port=claims.choose(salt=scratch, preferred=()),
                secured=True,
            )
            with running_broker(
                node,
                classpath,
                cluster_id="ZXNwZXItYW90LXRyYWluZQ",
                clock=clock,
                java_options=(f"-XX:AOTCacheOutput={new}",),
                niceness=_NICENESS,
                stop_timeout=_STOP_TIMEOUT_S,
            ):
                secure(node, Path(scratch) / "keys")
            if not new.is_file():
                raise UnavailableError(
                    "Java wrote no AOT cache: starts stay a second slower, nothing else is lost"
                )
            # by a rename: a broker that starts now must not read half a cache
            new.replace(cache)
        for old in sorted(
            cache.parent.glob("kafka-*.aot"), key=lambda file: file.stat().st_mtime_ns
        )[:-_KEPT]:
            old.unlink(missing_ok=True)
    return cache


class Recording:
    """`record` in a process of its own, beside a running stack: it never delays anything, and is
    given up when the stack ends.
    """

    def __init__(self, *, leash: Leash, environment: Mapping[str, str], log: Path) -> None:
        self._leash = leash
        with appended(log) as file:
            self._process = subprocess.Popen(
                (sys.executable, "-m", "esper.stack.embedded.aot"),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,
            )
        leash.hold(self._process.pid)

    def over(self) -> bool:
        """Whether it has ended, one way or the other."""
        return self._process.poll() is not None

    def stop(self) -> None:
        """Give it up."""
        kill_group(self._process.pid)
        self._process.wait()
        self._leash.drop(self._process.pid)


def main() -> int:
    """Record the cache for the locked jars unless it exists.

    The exit code is 0 when it exists afterwards or another process records it.
    """
    try:
        classpath = jars.kafka(lambda line: print(line, file=sys.stderr))  # noqa: T201 - this module is a small program too
        if not recorded():
            record(classpath, clock=SystemClock())
    except EsperError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the same
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
