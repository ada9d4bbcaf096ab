"""Attack: requests that are no HTTP, or that two readers take for two different ones.

Ten thousand of them.

Expected: each is answered by one 4xx or the connection is closed; each kind of part lives, answers
others, and its memory is bounded.

`ESPER_FUZZ=10000` runs the full length; `ESPER_FUZZ_SEED` another seed.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from fastapi import FastAPI

from esper.clock import SystemClock
from esper.config import ServiceSettings, Settings
from esper.history.http import HistoryServer
from esper.oona.bus.memory import MemoryBus
from esper.oona.inbound.dead_letters import DeadLetters
from esper.oona.inbound.intake import Intake
from esper.service import Server, create_app
from esper.tolaria.control.api import Control
from esper.tolaria.control.api import add_routes as add_tolaria
from esper.tolaria.control.requests import RequestSender
from esper.tolaria.control.run_ledger import RunLedger
from esper.tolaria.control.trainers import Trainers
from esper_processors.nissa.api import Nissa
from esper_processors.nissa.api import add_routes as add_nissa
from esper_processors.nissa.collectors import Collectors
from esper_processors.tamiyo.api import Tamiyo
from esper_processors.tamiyo.api import add_routes as add_tamiyo
from esper_processors.tamiyo.command_log import Commands
from tests.attacks.test_servers_bodies import HOSTILE
from tests.servicefixtures import Recorder, token

CLOCK = SystemClock()
SHORT = 200
QUIET_S = 0.03
LEGAL = {"folded header"}
"""What RFC 9112 lets a server take, in one way (section 5.2)."""
GROWTH = 64 << 20
"""Bytes by which a process with a part may grow during all requests of a test."""
NOTHING: Any = None
PARTS = ("tolaria", "tamiyo", "nissa", "history")


def tolaria(app: FastAPI, settings: Settings) -> None:
    """Tolaria's routes, on a bus in memory."""
    bus = MemoryBus()
    producer = bus.producer(sender_id="tolaria")
    ledger = RunLedger(bus, Intake.of(DeadLetters(producer, "tolaria", CLOCK)))
    trainers = Trainers(settings, environment=os.environ, embedded=False, clock=CLOCK)
    add_tolaria(app, Control(ledger, trainers, RequestSender(producer), CLOCK))


ROUTES: dict[str, Callable[[FastAPI, Settings], None]] = {
    "tolaria": tolaria,
    "tamiyo": lambda app, _: add_tamiyo(
        app,
        Tamiyo(
            rows=dict,
            performance=NOTHING,
            commands=Commands(),
            followed=NOTHING,
            give=NOTHING,
            clock=CLOCK,
        ),
    ),
    "nissa": lambda app, _: add_nissa(
        app,
        Nissa(
            scene=NOTHING,
            collectors=Collectors(),
            attempts=NOTHING,
            declare=NOTHING,
            record=NOTHING,
            alerting=NOTHING,
        ),
    ),
}
TARGETS = {
    "tolaria": "/api/v1/runs",
    "tamiyo": "/api/v1/runs/r/decisions",
    "nissa": "/api/v1/metrics/definitions",
    "history": "/",
}


@contextmanager
def part(name: str, home: Path) -> Iterator[tuple[int, str]]:
    """A part of this kind that is up: its port, and an operator's token for it."""
    settings = Settings(home=home, service=ServiceSettings(rate=1e6, burst=1_000_000))
    server: Server | HistoryServer
    if name == "history":
        server = HistoryServer(NOTHING, settings=settings, health=lambda: (True, {}), clock=CLOCK)
    else:
        app = create_app(
            title="T", part=name, settings=settings, clock=CLOCK, ready=dict, audit=Recorder()
        )
        ROUTES[name](app, settings)
        server = Server(app, settings=settings, port=0, clock=CLOCK)
    server.start()
    try:
        yield server.port, token(settings, CLOCK, "operator")
    finally:
        server.stop()


def answers(port: int, sent: bytes, patience_s: float) -> list[int]:
    """The status codes that come back for bytes on one connection.

    The other side has `patience_s` to begin; one that is waiting for more is then told that there
    is none.
    """
    received = b""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=30) as connection,
        suppress(ConnectionResetError, BrokenPipeError),
    ):
        connection.sendall(sent)
        with suppress(TimeoutError):
            connection.settimeout(patience_s)
            while more := connection.recv(65_536):
                received += more
                connection.settimeout(QUIET_S)  # a second answer would come right behind the first
        connection.settimeout(30)
        with suppress(OSError):  # closed by the other side, with bytes of ours unread
            connection.shutdown(socket.SHUT_WR)
        while more := connection.recv(65_536):
            received += more
    return [int(piece[:3]) for piece in received.split(b"HTTP/1.1 ")[1:]]


def shapes(target: str, bearer: str) -> dict[str, bytes]:
    """Requests that are wrong in one way each.

    Whoever takes the second one in some of them for a request answers twice.
    """
    host = "Host: localhost\r\n"
    given = f"{host}Authorization: Bearer {bearer}\r\n"
    second = f"GET /health HTTP/1.1\r\n{host}\r\n"
    post = f"POST {target} HTTP/1.1\r\n"
    chunk = f"{len(second):x}\r\n{second}\r\n0\r\n\r\n"
    made = {
        "length and chunks": (
            f"{post}{given}Content-Length: {len(chunk)}\r\nTransfer-Encoding: "
            f"chunked\r\n\r\n{chunk}"
        ),
        "chunks and a short length": (
            f"{post}{given}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n{second}"
        ),
        "two lengths": (
            f"{post}{given}Content-Length: 0\r\nContent-Length: {len(second)}\r\n\r\n{second}"
        ),
        "the same length twice": (
            f"{post}{given}Content-Length: {len(second)}\r\nContent-Length: "
            f"{len(second)}\r\n\r\n{second}"
        ),
        "lengths in a list": f"{post}{given}Content-Length: 0, {len(second)}\r\n\r\n{second}",
        "negative length": f"{post}{given}Content-Length: -1\r\n\r\n{second}",
        "signed length": f"{post}{given}Content-Length: +3\r\n\r\nabc",
        "length in hexadecimal": f"{post}{given}Content-Length: 0x3\r\n\r\nabc",
        "length with a blank": f"{post}{given}Content-Length: 1 0\r\n\r\n{second}",
        "endless length": f"{post}{given}Content-Length: {'9' * 19}\r\n\r\nabc",
        "larger than any number": f"{post}{given}Content-Length: {'9' * 400}\r\n\r\nabc",
        "empty length": f"{post}{given}Content-Length:\r\n\r\n{second}",
        "chunks of HTTP/1.0": (
            f"POST {target} HTTP/1.0\r\n{given}Transfer-Encoding: chunked\r\n\r\n{chunk}"
        ),
        "two codings": f"{post}{given}Transfer-Encoding: gzip, chunked\r\n\r\n{chunk}",
        "unknown coding": f"{post}{given}Transfer-Encoding: identity\r\n\r\n{second}",
        "chunked twice": (
            f"{post}{given}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}"
        ),
        "vertical tab before chunked": f"{post}{given}Transfer-Encoding: \vchunked\r\n\r\n{chunk}",
        "chunk of negative size": f"{post}{given}Transfer-Encoding: chunked\r\n\r\n-1\r\n{second}",
        "chunk larger than any number": (
            f"{post}{given}Transfer-Encoding: chunked\r\n\r\n{'f' * 400}\r\n{second}"
        ),
        "chunk without its end": f"{post}{given}Transfer-Encoding: chunked\r\n\r\n3\r\nabcdef",
        "a body after GET": (
            f"GET {target} HTTP/1.1\r\n{given}Content-Length: {len(second)}\r\n\r\n{second}"
        ),
        "chunks after GET": (
            f"GET {target} HTTP/1.1\r\n{given}Transfer-Encoding: chunked\r\n\r\n{chunk}"
        ),
        "a body after HEAD": (
            f"HEAD {target} HTTP/1.1\r\n{given}Content-Length: {len(second)}\r\n\r\n{second}"
        ),
        "blank before the colon": f"{post}{given}Content-Length : {len(second)}\r\n\r\n{second}",
        "folded header": f"{post}{given}X-A: b\r\n Content-Length: {len(second)}\r\n\r\n",
        "folded first header": f"{post} {given}\r\n",
        "no host": f"GET {target} HTTP/1.1\r\n\r\n",
        "two hosts": f"GET {target} HTTP/1.1\r\n{given}Host: evil.example\r\n\r\n",
        "another host": (
            f"GET {target} HTTP/1.1\r\nHost: evil.example\r\nAuthorization: Bearer {bearer}\r\n\r\n"
        ),
        "two tokens": f"GET {target} HTTP/1.1\r\n{given}Authorization: Basic YTpi\r\n\r\n",
        "absolute target": f"GET http://evil.example{target} HTTP/1.1\r\n{given}\r\n",
        "absolute target of ours": (
            f"POST http://localhost{target} HTTP/1.1\r\n{given}Content-Length: 0\r\n\r\n"
        ),
        "authority": f"CONNECT evil.example:443 HTTP/1.1\r\n{given}\r\n",
        "asterisk": f"OPTIONS * HTTP/1.1\r\n{given}\r\n",
        "no slash": f"GET health HTTP/1.1\r\n{given}\r\n",
        "no UTF-8": f"GET /%ff%fe HTTP/1.1\r\n{given}\r\n",
        "zero in the path": f"GET /%00 HTTP/1.1\r\n{given}\r\n",
        "line end in the path": f"GET /%0d%0aX-A:%20b HTTP/1.1\r\n{given}\r\n",
        "many headers": (
            f"GET {target} "
            f"HTTP/1.1\r\n{given}{''.join(f'X-{n}: 1' + chr(13) + chr(10) for n in range(500))}\r\n"
        ),
        "endless header": f"GET {target} HTTP/1.1\r\n{given}X-A: {'a' * 100_000}\r\n\r\n",
        "endless target": f"GET /{'a' * 100_000} HTTP/1.1\r\n{given}\r\n",
        "zero in a header": f"GET {target} HTTP/1.1\r\n{given}X-A: \0\r\n\r\n",
        "bare carriage return": f"GET {target} HTTP/1.1\r\n{given}X-A: a\rX-B: b\r\n\r\n",
        "HTTP/2": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "HTTP/0.9": f"GET {target}\r\n",
        "HTTP/9.9": f"GET {target} HTTP/9.9\r\n{given}\r\n",
        "TLS": "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        "websocket": (
            f"GET {target}x HTTP/1.1\r\n{given}Upgrade: websocket\r\nConnection: "
            "Upgrade\r\nSec-WebSocket-Key: eA==\r\n\r\n"
        ),
        "nothing": "",
        "line ends": "\r\n" * 1_000,
        "noise": "\xff\x00" * 500,
    }
    made |= {
        f"body: {name}": (
            f"{post}{given}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        + body.decode("latin-1")
        for name, body in HOSTILE.items()
    }
    return {name: text.encode("latin-1") for name, text in made.items()}


@pytest.mark.parametrize("name", PARTS)
def test_each_malformed_request_has_one_refusal_or_none(name: str, tmp_path: Path) -> None:
    """Whatever shape it has, nothing in it is taken for a second request, and what it asks for is
    not done.
    """
    with part(name, tmp_path) as (port, bearer):
        for shape, sent in shapes(TARGETS[name], bearer).items():
            if name == "history" and (
                shape.startswith("body:")
                or "absolute" in shape
                or shape in {"the same length twice", "websocket"}
            ):
                continue  # its bodies are SQL, and it has attacks of its own
            found = answers(port, sent, 1.0)
            assert len(found) <= 1, (shape, found)
            assert all(400 <= status < 500 for status in found) or shape in LEGAL, (shape, found)
            assert found == [400] or not shape.startswith("body:"), (shape, found)
        assert alive(port)


@pytest.mark.parametrize("name", PARTS)
def test_no_mutation_stops_a_part(name: str, tmp_path: Path) -> None:
    """Requests cut, doubled, joined and with bytes changed: all 4xx or closed, and the part
    answers, within its memory, as before.
    """
    count, seed = (
        int(os.environ.get("ESPER_FUZZ", str(SHORT))),
        int(os.environ.get("ESPER_FUZZ_SEED", "11")),
    )
    chance = random.Random(f"{seed} {name}")  # noqa: S311 -- a fuzzer's choices
    process = psutil.Process()
    with part(name, tmp_path) as (port, _):
        seeds = list(shapes("/api/v1/nothing", "no.valid.token").values())
        assert alive(port)
        before = process.memory_info().rss
        for number in range(count):
            sent = mutated(chance, seeds)
            found = answers(port, sent, QUIET_S)
            assert all(400 <= status < 500 for status in found), (seed, number, found, sent[:2_000])
            if number % 50 == 0:
                assert alive(port)
        assert alive(port)
        assert process.memory_info().rss - before < GROWTH


def mutated(chance: random.Random, seeds: list[bytes]) -> bytes:
    """One of the seeds after some changes; none of them asks for what is open to all."""
    made = bytearray(chance.choice(seeds).replace(b"/health", b"/nothin"))
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(made) + 1)
        match chance.randrange(6):
            case 0:
                del made[at : at + chance.randrange(1, 40)]
            case 1:
                made[at:at] = bytes(chance.randrange(256) for _ in range(chance.randrange(1, 20)))
            case 2:
                made[at:at] = made[at : at + chance.randrange(1, 200)]
            case 3:
                other = chance.choice(seeds).replace(b"/health", b"/nothin")
                made[at:] = other[chance.randrange(len(other) + 1) :]
            case 4:
                for place in range(at, min(at + 4, len(made))):
                    made[place] ^= 1 << chance.randrange(8)
            case _:
                made[at:at] = chance.choice(
                    [
                        b"\r\n",
                        b"\n",
                        b"\r\n\r\n",
                        b"\0",
                        b" ",
                        b"\t",
                        b":",
                        b"\xff",
                        b"Content-Length: 7\r\n",
                    ]
                )
    return bytes(made)


def alive(port: int) -> bool:
    """Whether the part answers somebody else."""
    return httpx.get(
        f"http://127.0.0.1:{port}/health", trust_env=False, timeout=30
    ).status_code in {200, 503}
