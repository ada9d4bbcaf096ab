"""Kafka's jars: what the cache accepts."""

from __future__ import annotations

import hashlib
import multiprocessing
from pathlib import Path

import pytest

from esper.errors import CorruptError, UnavailableError
from esper.stack.embedded import jars
from esper.stack.embedded.jars import Jar

CONTENT = b"PK pretend this is a jar"


def repository(root: Path, content: bytes = CONTENT) -> Path:
    """A folder in Maven's layout with org.example:thing:1.0."""
    file = root / "org" / "example" / "thing" / "1.0" / "thing-1.0.jar"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    return root


def thing(content: bytes = CONTENT) -> Jar:
    """Its line in a lock file."""
    return Jar("org.example:thing:1.0", hashlib.sha256(content).hexdigest(), len(content))


def test_a_jar_with_the_right_hash_is_kept_and_the_second_fetch_needs_no_source(
    tmp_path: Path,
) -> None:
    """What was fetched once is found in the cache afterwards."""
    source, cache, said = repository(tmp_path / "m2"), tmp_path / "cache", list[str]()
    (path,) = jars.fetch(cache, [thing()], progress=said.append, local=[source])
    assert path.read_bytes() == CONTENT
    assert said == ["Kafka's jars: 1 of 1, 0 of 0 MB"]
    assert jars.fetch(cache, [thing()], progress=said.append) == (path,)
    assert len(said) == 1


def test_a_jar_with_another_hash_is_refused_by_name_and_nothing_of_it_stays(tmp_path: Path) -> None:
    """Same name, same size, other bytes: refused."""
    source, cache = repository(tmp_path / "m2", CONTENT[::-1]), tmp_path / "cache"
    with pytest.raises(
        CorruptError,
        match=r"org\.example:thing:1\.0 has SHA-256 .* delete .*thing-1\.0\.jar and start again",
    ):
        jars.fetch(cache, [thing()], progress=lambda _: None, local=[source])
    assert [file.name for file in cache.iterdir()] == [".lock"]


def test_without_network_one_sentence_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repository that cannot be reached is an UnavailableError with three ways out."""
    for name in (
        "HTTPS_PROXY",
        "https_proxy",
        "HTTP_PROXY",
        "http_proxy",
        "NO_PROXY",
        "no_proxy",
        "ALL_PROXY",
        "all_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(
        UnavailableError,
        match=(
            r"connect to the network for the first start, copy that folder .* or set "
            r"ESPER_KAFKA__BOOTSTRAP"
        ),
    ):
        jars.fetch(
            tmp_path / "cache",
            [thing()],
            progress=lambda _: None,
            remote={"nowhere": "http://127.0.0.1:1"},
        )


def test_a_jar_that_was_changed_in_the_cache_is_found_out(tmp_path: Path) -> None:
    """`doctor` reads every byte: a changed jar is damaged, a shortened one is missing."""
    cache = tmp_path / "cache"
    (path,) = jars.fetch(
        cache, [thing()], progress=lambda _: None, local=[repository(tmp_path / "m2")]
    )
    assert jars.damaged(cache, [thing()]) == ()
    path.write_bytes(CONTENT[::-1])
    assert jars.damaged(cache, [thing()]) == (thing(),)
    path.write_bytes(CONTENT[:-1])
    assert jars.missing(cache, [thing()]) == (thing(),)


def _fetch(source: Path, cache: Path) -> bytes:
    (path,) = jars.fetch(cache, [thing()], progress=lambda _: None, local=[source])
    return path.read_bytes()


def test_several_processes_may_fetch_at_once(tmp_path: Path) -> None:
    """Three processes with one empty cache all end with the jar, and no scratch folder is left."""
    source, cache = repository(tmp_path / "m2"), tmp_path / "cache"
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        assert pool.starmap(_fetch, [(source, cache)] * 3) == [CONTENT] * 3
    assert sorted(file.name for file in cache.iterdir()) == [".lock", "thing-1.0.jar"]


def test_the_lock_file_names_the_kafka_that_the_readme_promises() -> None:
    """Every jar is locked by a full SHA-256 and a size, and no name occurs twice."""
    locked = jars.locked_jars()
    assert "org.apache.kafka:kafka_2.13:4.3.1" in {jar.coordinates for jar in locked}
    assert all(len(jar.sha256) == 64 and jar.size > 0 for jar in locked)
    assert len({jar.name for jar in locked}) == len(locked)
