"""Kafka's jars: locked by Maven coordinates and SHA-256, fetched once a user, shared by all homes.

They come from Maven Central through jgo's Maven API (no `mvn`, no Java), or from the user's own
Maven repository where that has them. A jar appears in the cache under its final name only after its
hash was right.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from esper.errors import CorruptError, EsperError, UnavailableError
from esper.user_cache import cache_dir, locked, unwritable

_DOWNLOADS = 6
_TIMEOUT_S = 30
_FIXED_MTIME = (
    1_000_000_000,
    1_000_000_000,
)  # Java's AOT cache is void as soon as a jar's time differs


@dataclass(frozen=True, slots=True)
class Jar:
    """One locked jar: Maven coordinates as group:artifact:version, SHA-256 in hex, size
    in bytes.
    """

    coordinates: str
    sha256: str
    size: int

    @property
    def name(self) -> str:
        """File name, as Maven gives it."""
        _, artifact, version = self.coordinates.split(":")
        return f"{artifact}-{version}.jar"


def lock_text() -> str:
    """The lock file that travels in this package."""
    return files("esper.stack").joinpath("jars.lock").read_text(encoding="utf-8")


def locked_jars() -> tuple[Jar, ...]:
    """Every jar of the lock file, in its order, which is the order of the class path."""
    rows = tomllib.loads(lock_text())["jar"]
    return tuple(Jar(row["coordinates"], row["sha256"], row["size"]) for row in rows)


def jars_dir() -> Path:
    """The folder of this user's cache that holds the jars."""
    return cache_dir() / "jars"


def missing(directory: Path, jars: Sequence[Jar]) -> tuple[Jar, ...]:
    """Those that `directory` lacks, by name and size: hashes were checked when they were
    put there.
    """
    return tuple(jar for jar in jars if not _present(directory / jar.name, jar))


def damaged(directory: Path, jars: Sequence[Jar]) -> tuple[Jar, ...]:
    """Those that are there with the wrong bytes: reads every jar (0.1 s)."""
    return tuple(
        jar
        for jar in jars
        if (directory / jar.name).is_file() and _sha256(directory / jar.name) != jar.sha256
    )


def fetch(
    directory: Path,
    jars: Sequence[Jar],
    *,
    progress: Callable[[str], None],
    local: Sequence[Path] = (),
    remote: dict[str, str] | None = None,
) -> tuple[Path, ...]:
    """Bring in what is missing and give the class path.

    Any number of processes may do so at once; one fetches, the others wait.

    `local` are folders in Maven's layout that are asked first; `remote` names Maven repositories
    and defaults to jgo's, Maven Central.

    Raises:
        UnavailableError: no network, or a repository without the jar.
        CorruptError: a jar with another hash than the lock's; nothing of it is kept.
        StorageFullError: no room in the cache folder.
    """
    if missing(directory, jars):
        with locked(directory / ".lock"):
            # asked again under the lock: another process may have fetched them meanwhile
            lacking = missing(directory, jars)
            try:
                _fetch(directory, lacking, progress=progress, local=local, remote=remote)
            except OSError as error:
                raise unwritable(directory, error) from error
    return tuple(directory / jar.name for jar in jars)


def kafka(progress: Callable[[str], None]) -> tuple[Path, ...]:
    """The class path of the locked Kafka, fetched into the user's cache if need be.

    Raises as `fetch` does.
    """
    repository = Path(os.environ.get("M2_REPO", "") or Path.home() / ".m2" / "repository")
    return fetch(
        jars_dir(),
        locked_jars(),
        progress=progress,
        local=(repository,) if repository.is_dir() else (),
    )


def _fetch(
    directory: Path,
    jars: Sequence[Jar],
    *,
    progress: Callable[[str], None],
    local: Sequence[Path],
    remote: dict[str, str] | None,
) -> None:
    total = sum(jar.size for jar in jars)
    done = 0
    with (
        tempfile.TemporaryDirectory(prefix=".fetch-", dir=directory) as scratch,
        ThreadPoolExecutor(_DOWNLOADS) as pool,
    ):
        futures = {
            pool.submit(_install, jar, directory, Path(scratch), local, remote): jar for jar in jars
        }
        try:
            for count, future in enumerate(as_completed(futures), start=1):
                future.result()
                done += futures[future].size
                progress(
                    f"Kafka's jars: {count} of {len(jars)}, {done / 1e6:.0f} of "
                    f"{total / 1e6:.0f} MB"
                )
        finally:
            pool.shutdown(cancel_futures=True)


def _install(
    jar: Jar, directory: Path, scratch: Path, local: Sequence[Path], remote: dict[str, str] | None
) -> None:
    source = _resolve(jar, scratch, local, remote)
    copy = scratch / jar.name
    shutil.copyfile(source, copy)
    actual = _sha256(copy)
    if actual != jar.sha256:
        raise CorruptError(
            (
                f"{jar.coordinates} has SHA-256 {actual[:16]}... where the lock says "
                f"{jar.sha256[:16]}...: "
            )
            + (
                f"delete {source} and start again"
                if scratch not in source.parents
                else "refused; start again, on another network if it stays"
            )
        )
    os.utime(copy, _FIXED_MTIME)
    copy.replace(directory / jar.name)


def _resolve(jar: Jar, scratch: Path, local: Sequence[Path], remote: dict[str, str] | None) -> Path:
    from jgo.maven import MavenContext  # noqa: PLC0415 - 0.5 s that only a first start has to pay
    from requests import RequestException  # noqa: PLC0415 - comes with jgo

    context = MavenContext(
        repo_cache=scratch / "repository",
        local_repos=list(local),
        remote_repos=remote,
        timeout=_TIMEOUT_S,
    )
    group, name, version = jar.coordinates.split(":")
    try:
        path: Path = context.project(group, name).at_version(version).artifact().resolve()
    except (RequestException, RuntimeError) as error:
        raise _unreachable(jar, error) from error
    return path


def _unreachable(jar: Jar, error: Exception) -> EsperError:
    return UnavailableError(
        f"Kafka's jars are not in {jars_dir()} and {jar.coordinates} could not be fetched "
        f"({type(error).__name__}): "
        "connect to the network for the first start, copy that folder from another "
        "machine, or set ESPER_KAFKA__BOOTSTRAP to a cluster"
    )


def _present(path: Path, jar: Jar) -> bool:
    return path.is_file() and path.stat().st_size == jar.size


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
