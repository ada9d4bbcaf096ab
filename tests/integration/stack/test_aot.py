"""The AOT cache: recorded, used, and harmless when it is damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from esper.clock import SystemClock
from esper.config import Settings
from esper.stack.embedded import aot, jars
from esper.stack.embedded.broker import BrokerNode, answers
from esper.stack.embedded.solo import running_broker
from esper.stack.processes.ports import PortClaims
from tests.stackfixtures import part, tiny_stack


@pytest.mark.slow
def test_a_recorded_cache_is_used_and_a_damaged_one_never_stops_a_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Java starts with the cache and insists on it.

    With a cache that crashes Java the stack comes up all the same, and the cache is gone.
    """
    classpath = jars.kafka(lambda _: None)
    cached_jars = jars.jars_dir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "cache" / "esper").mkdir(parents=True)
    (tmp_path / "cache" / "esper" / "jars").symlink_to(cached_jars)
    classpath = tuple(jars.jars_dir() / jar.name for jar in classpath)

    assert aot.java_options(classpath) == ()
    cache = aot.record(classpath, clock=SystemClock())
    assert cache is not None
    assert aot.recorded()
    assert sorted(file.name for file in cache.parent.iterdir()) == [".lock", cache.name]

    with PortClaims() as claims:
        node = BrokerNode(
            tmp_path / "node",
            *(claims.choose(salt=f"{tmp_path} {name}", preferred=()) for name in "ab"),
        )
        insist = (*aot.java_options(classpath), "-XX:AOTMode=on")
        with running_broker(
            node,
            classpath,
            cluster_id="ZXNwZXItdGVzdC1icm9rZQ",
            clock=SystemClock(),
            java_options=insist,
        ):
            assert answers(node.bootstrap, timeout=2)

    whole, settings = cache.read_bytes(), Settings(home=tmp_path / "home")
    for stride in (
        3,
        2,
        1,
    ):  # Java may survive a damage; one that it does not survive is what this is about
        broken = bytearray(whole)
        broken[len(broken) // 4 :: stride] = bytes(len(broken[len(broken) // 4 :: stride]))
        cache.write_bytes(broken)
        with tiny_stack(settings):
            broker = part(settings, "broker")
            assert broker.phase == "ready"
        if broker.restarts:
            break
    assert broker.restarts >= 1, "no damage broke a start, so this shows nothing"
    assert not aot.recorded()
