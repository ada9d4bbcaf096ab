"""A history with secrets around it, for attacks: keys, a canary outside, and a server that counts
what reaches the engine.
"""

from __future__ import annotations

import http.client
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

import psutil

from esper.clock import SystemClock
from esper.config import HistorySettings, ServiceSettings, Settings
from esper.history.confined.engine import CellEngine, QueryResult, open_engine
from esper.history.confined.query_settings import QueryLimits
from esper.history.http import HistoryServer
from esper.history.tables.migrations import migrate
from tests.servicefixtures import bearer, token

MARK = "the-secret-of-the-victim"
"""What stands in every file that no query may read."""


@dataclass
class Victim:
    """An installation whose history is served here."""

    settings: Settings
    engine: CellEngine
    server: HistoryServer
    secrets: tuple[Path, ...]
    files: frozenset[str]
    """What stood outside of the history when it began."""
    ran: list[str] = field(default_factory=list)
    """Queries that reached the engine."""

    @property
    def port(self) -> int:
        """Of the history."""
        return self.server.port

    def token(self, subject: str = "viewer") -> str:
        """A viewer's token."""
        return token(self.settings, SystemClock(), subject=subject)

    def ask(
        self,
        sql: str = "",
        parameters: Mapping[str, str] | None = None,
        *,
        subject: str = "viewer",
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, str, Mapping[str, str]]:
        """Status, body and headers of the answer to a viewer's request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            sent = {**bearer(self.token(subject)), **(headers or {})}
            connection.request(
                method,
                f"/?{urlencode(parameters or {})}",
                sql.encode(errors="surrogatepass") or None,
                sent,
            )
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace"), dict(answer.getheaders())
        finally:
            connection.close()

    def memory(self) -> int:
        """Bytes that this process and the engine's hold."""
        return sum(
            int(psutil.Process(pid).memory_info().rss) for pid in (os.getpid(), self.engine.pid)
        )

    def unharmed(self) -> None:
        """The secrets are as they were, nothing new stands beside them, and the history answers and
        has its tables alone.
        """
        assert all(secret.read_text() == MARK for secret in self.secrets)
        assert files_of(self.settings) == self.files
        names = [
            row[0]
            for row in self.engine.query(
                "SELECT name FROM system.tables WHERE database NOT IN ('system', "
                "'INFORMATION_SCHEMA', 'information_schema')"
            ).result_rows
        ]
        assert len(names) > 50
        assert not {name for name in names if name.startswith(("evil", "x"))}


def files_of(settings: Settings) -> frozenset[str]:
    """The files of an installation outside of its history, and what they say."""
    found = set[str]()
    for folder, folders, files in os.walk(settings.home):
        if Path(folder) == settings.history_dir:
            folders.clear()  # not walked: the engine takes parts away as it likes
            continue
        paths = [path for name in files if (path := Path(folder, name)).is_file()]  # no sockets
        found |= {f"{path} {path.read_bytes()!r}" for path in paths}
    return frozenset(found)


@contextmanager
def victim(home: Path, limits: QueryLimits | None = None) -> Iterator[Victim]:
    """A served history in `home`."""
    settings = Settings(
        home=home,
        history=HistorySettings(query_s=10),
        service=ServiceSettings(rate=1e6, burst=1_000_000),
    )
    token(settings, SystemClock())
    secrets = (settings.keys_dir / "stolen.pem", home / "outside.txt")
    for secret in secrets:
        secret.write_text(MARK)
    engine = open_engine(settings.history_dir, "", limits or QueryLimits.of(settings.history))
    assert isinstance(engine, CellEngine)
    try:
        migrate(engine.client, SystemClock())
        server = HistoryServer(
            engine, settings=settings, health=lambda: (True, {}), clock=SystemClock()
        )
        server.start()
        try:
            made = Victim(settings, engine, server, secrets, files_of(settings))
            _count(made)
            yield made
        finally:
            server.stop()
    finally:
        engine.close()


def _count(made: Victim) -> None:
    answered = made.engine.answer

    def counting(
        sql: str, *, default_format: str, settings: Mapping[str, str], parameters: Mapping[str, str]
    ) -> QueryResult:
        made.ran.append(sql)
        return answered(
            sql, default_format=default_format, settings=settings, parameters=parameters
        )

    made.engine.answer = counting  # type: ignore[method-assign]  # it still does all that it did
