"""Attack: another program listens where a part of Esper should, and is taken for it.

Expected: no program of Esper sends it anything, the supervisor does not call it ready, and under a
supervisor it never gets the port.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest

from esper.config import KafkaSettings, ServiceSettings, Settings
from esper.errors import EsperError, UnavailableError, UsageError
from esper.history.queries import HttpSource, events_by_topic
from esper.service.client import Client
from esper.service.transport import sockets, token_keys
from esper.service.transport.sockets import Listening
from esper.stack.processes.child import health
from esper.stack.processes.ports import HOST, PortClaims
from tests.stackfixtures import part, pid_of, tiny_stack

PART = """
import sys, threading
from pathlib import Path
from esper.clock import SystemClock
from esper.config import Settings
from esper.service import Server, create_app
settings = Settings()
clock = SystemClock()
given = {"settings": settings, "clock": clock, "ready": dict, "audit": lambda _: None}
app = create_app(title="T", part="t", **given)
Server(app, settings=settings, port=settings.nissa.port, clock=SystemClock()).start()
threading.Event().wait()
"""


@contextmanager
def squatter() -> Iterator[tuple[int, list[bytes]]]:
    """A program on a port of this machine that answers everything with 200, and what it
    was sent.
    """
    heard: list[bytes] = []
    with socket.create_server((HOST, 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    heard.append(connection.recv(65_536))
                    connection.sendall(
                        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
                    )

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1], heard
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def test_no_program_of_esper_speaks_to_a_squatter(tmp_path: Path) -> None:
    """Neither the client of parts, nor queries of the history, nor the commands, nor the probe: not
    a byte, and no token, reaches it.
    """
    settings = Settings(home=tmp_path)
    token_keys.ensure(settings.keys_dir)
    with squatter() as (port, heard):
        url = f"http://{HOST}:{port}"
        client = Client(settings, subject="esper", part="tolaria")
        with pytest.raises(UnavailableError, match=r"does not answer .*No such file"):
            client.ask(f"{url}/api/v1/status", role="admin")
        with pytest.raises(EsperError, match="does not answer"):
            HttpSource(url, settings).rows("SELECT 1")
        with pytest.raises(EsperError, match="does not answer"):
            events_by_topic(url, "r", settings)
        for body in (None, {"reason": "x"}):
            with pytest.raises(UnavailableError, match="does not answer"):
                client.json(f"{url}/api/v1/runs/r/pause", body, role="operator")
        assert health(settings, "tolaria", port) == "silent"
        assert heard == []


def test_a_part_of_another_machine_gets_no_token(tmp_path: Path) -> None:
    """Only addresses of this machine are parts of this installation."""
    settings = Settings(home=tmp_path)
    token_keys.ensure(settings.keys_dir)
    for url in ("http://evil.example:8080/", "https://192.0.2.1:8080/", "http://127.0.0.1/"):
        with pytest.raises(UsageError, match="no part of this installation"):
            Client(settings, subject="esper", part="tolaria").ask(url)


def test_a_folder_of_sockets_that_others_may_enter_is_not_used(tmp_path: Path) -> None:
    """Whoever can put a socket there could be taken for a part: neither servers nor clients go
    there.
    """
    settings = Settings(home=tmp_path, service=ServiceSettings(sockets=str(tmp_path / "open")))
    token_keys.ensure(settings.keys_dir)
    settings.sockets_dir.mkdir()
    for mode in (0o777, 0o710):
        settings.sockets_dir.chmod(mode)
        with pytest.raises(UsageError, match="its owner alone"):
            sockets.listening(settings, 0, setting="X")
        with pytest.raises(UsageError, match="its owner alone"):
            Client(settings, subject="esper", part="tolaria").ask("http://127.0.0.1:1/")
    settings.sockets_dir.rmdir()
    settings.sockets_dir.symlink_to(tmp_path / "keys")
    with pytest.raises(UsageError, match="its owner alone"):
        sockets.connect(tmp_path / "open", 1, 5)


@pytest.mark.skipif(
    os.geteuid() != 0,
    reason="only root can give a folder to another user; run the tests as root for this one",
)
def test_a_folder_of_sockets_of_another_user_is_not_used(tmp_path: Path) -> None:
    """A process without root refuses it."""
    (tmp_path / "sockets").mkdir(mode=0o700)
    tmp_path.chmod(0o711)
    program = """
import os, sys
from pathlib import Path
from esper.errors import UsageError
from esper.service.transport import sockets
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try: sockets.connect(Path("sockets"), 1, 5)
except UsageError as error: sys.exit(str(error))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "its owner alone" in done.stderr


def test_a_home_with_a_long_name_has_sockets_too(tmp_path: Path) -> None:
    """The kernel takes 108 bytes of a path; the folder is reached by a shorter way."""
    settings = Settings(home=tmp_path / ("long" * 30))
    found = sockets.listening(settings, 0, setting="X")
    with sockets.connect(settings.sockets_dir, found.port, 5) as connection:
        accepted, _ = found.own.accept()
        accepted.sendall(b"me")
        assert connection.recv(2) == b"me"
        accepted.close()
    found.close()


def test_a_port_is_never_free_while_a_part_is_started_again(tmp_path: Path) -> None:
    """The part is killed: nobody gets its port, and who connects between its lives is answered by
    the next one.
    """
    home = Settings(home=tmp_path)
    with PortClaims() as claims:
        port = claims.choose(salt=str(tmp_path), preferred=(), listen=True)
        with sockets.own_socket(home.sockets_dir, port) as own:
            listening = Listening(port, claims.listening(port), own)
            environment = (
                os.environ
                | {"ESPER_HOME": str(tmp_path), "ESPER_NISSA__PORT": str(port)}
                | listening.handed()
            )

            def life() -> subprocess.Popen[bytes]:
                return subprocess.Popen(
                    [sys.executable, "-c", PART], env=environment, pass_fds=listening.descriptors
                )

            with life() as first:
                try:
                    assert _health(port) == 200
                    first.kill()
                    first.wait(10)
                    with squatting() as takeable:
                        assert not takeable(port)
                        waiting = HTTPConnection(HOST, port, timeout=60)
                        waiting.request("GET", "/health")
                        with life() as second:
                            try:
                                assert waiting.getresponse().status == 200
                                assert not takeable(port)
                            finally:
                                second.kill()
                                waiting.close()
                finally:
                    first.kill()


def test_under_a_supervisor_nobody_takes_the_port_of_a_part(tmp_path: Path, broker: str) -> None:
    """Killed again and again in a real stack, tried as another user where the tests run as root:
    the port stays taken, the part comes back.
    """
    settings = Settings(home=tmp_path / "home", kafka=KafkaSettings(bootstrap=broker))
    with tiny_stack(settings), squatting() as takeable:
        port = part(settings, "nissa").port
        for _ in range(3):
            before = pid_of(settings, "nissa")
            os.kill(before, signal.SIGKILL)
            tried = 0
            while True:
                assert not takeable(port)
                tried += 1
                state = part(settings, "nissa")
                if (
                    state.phase == "ready"
                    and state.process is not None
                    and state.process.pid != before
                ):
                    break
            assert tried > 1
        assert _health(port) == 200


@contextmanager
def squatting() -> Iterator[Callable[[int], bool]]:
    """Whether another process, of another user where that is possible, can listen on a port.

    Asked as often as wanted.
    """
    program = """
import os, socket, sys
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
for line in sys.stdin:
    got = "no"
    for address in ("127.0.0.1", "0.0.0.0"):
        for option in (None, socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            with socket.socket() as one:
                try:
                    if option is not None:
                        one.setsockopt(socket.SOL_SOCKET, option, 1)
                    one.bind((address, int(line)))
                    one.listen()
                    got = "yes"
                except OSError:
                    pass
    print(got, flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        stdin, stdout = other.stdin, other.stdout
        assert stdin is not None
        assert stdout is not None

        def takeable(port: int) -> bool:
            stdin.write(f"{port}\n")
            stdin.flush()
            said = stdout.readline().strip()
            assert said in {"yes", "no"}
            return said == "yes"

        try:
            yield takeable
        finally:
            stdin.close()


def _health(port: int) -> int:
    connection = HTTPConnection(HOST, port, timeout=60)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status
    finally:
        connection.close()
