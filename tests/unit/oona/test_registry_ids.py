"""A Confluent-compatible registry: its ids in frames on Kafka, Esper's own inside, and one sentence
for each way in which it can fail.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from esper.config import RegistrySettings, Settings
from esper.errors import CorruptError, EsperError, PoisonError, UnavailableError, UsageError
from esper.events.codec import decode, schema_id
from esper.events.records import RECORDS
from esper.events.schemas import current, wire_schemas
from esper.oona.bus.wire import SAME, FrameCodec, frames_of, resolve
from tests import registryclients
from tests.servers import answering

FIRST = 17


@dataclass
class Shelf:
    """What a small registry holds, and how it answers: subjects' schemas by id, requests that it
    has seen.
    """

    ids: dict[tuple[str, str], int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    next_id: int = FIRST
    user: str = ""
    answer: tuple[int, bytes] | None = None
    hang: threading.Event = field(default_factory=threading.Event)

    def post(self, path: str, schema: str) -> tuple[int, Any]:
        subject = path.split("/")[2]
        known = self.ids.get((subject, schema))
        if path.endswith("/versions") and known is None:
            known = self.ids[subject, schema] = self.next_id
            self.next_id += 1
        return (
            (404, {"error_code": 40403, "message": "no"}) if known is None else (200, {"id": known})
        )

    def get(self, path: str) -> tuple[int, Any]:
        number = int(path.rpartition("/")[2])
        found = next((schema for (_, schema), known in self.ids.items() if known == number), None)
        return (
            (404, {"error_code": 40403, "message": "no"})
            if found is None
            else (200, {"schema": found})
        )


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def url(shelf: Shelf) -> Iterator[str]:
    """Address of a registry that keeps its schemas on `shelf`."""

    class Handler(BaseHTTPRequestHandler):
        wbufsize = 1 << 16  # head and body in one packet

        def _reply(self, make: Callable[[], tuple[int, Any]]) -> None:
            shelf.asked.append(self.path)
            if shelf.hang.is_set():
                return
            wanted = "Basic " + base64.b64encode(shelf.user.encode()).decode()
            refused = shelf.user and self.headers.get("Authorization") != wanted
            status, answer = (401, {"message": "who are you"}) if refused else make()
            body = json.dumps(answer).encode()
            if shelf.answer is not None:
                status, body = shelf.answer
            self.send_response(status)
            if status == 307:
                self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers["Content-Length"]))
            self._reply(lambda: shelf.post(self.path, json.loads(text)["schema"]))

        def do_GET(self) -> None:
            self._reply(lambda: shelf.get(self.path))

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name
            pass

    with answering(Handler) as url:
        yield url


def installation(home: Path, url: str, **registry: Any) -> Settings:
    return Settings(home=home, registry=RegistrySettings(url=url, **registry))


def test_every_record_goes_to_kafka_with_the_registrys_id_and_comes_back_the_same(
    tmp_path: Path, url: str
) -> None:
    """Frames on Kafka carry ids that the registry gave.

    What is read is bit for bit what was sent, with Esper's own ids.
    """
    ids = resolve(installation(tmp_path, url), register=True)
    frames = frames_of(installation(tmp_path, url))
    assert sorted(ids.values()) == list(range(FIRST, FIRST + len(wire_schemas())))
    for wire, datum, _ in registryclients.golden():
        value = registryclients.framed(wire.id, datum)
        on_kafka = frames.outgoing(value)
        assert schema_id(on_kafka) == ids[wire.id]
        assert on_kafka[5:] == datum
        assert frames.incoming(on_kafka) == value
        assert frames.incoming(value) == value, "written before there was a registry"


def test_a_second_process_needs_no_registry(tmp_path: Path, url: str, shelf: Shelf) -> None:
    """What one process has resolved, the next reads from ESPER_HOME, with the registry gone."""
    ids = resolve(installation(tmp_path, url), register=True)
    before = len(shelf.asked)
    shelf.answer = (503, b"")
    frames = frames_of(installation(tmp_path, url))
    assert {schema_id(frames.outgoing(b"\0" + own.to_bytes(4, "big"))) for own in ids} == set(
        ids.values()
    )
    assert len(shelf.asked) == before


def test_a_schema_that_was_registered_again_is_known_by_its_fingerprint(
    tmp_path: Path, url: str, shelf: Shelf
) -> None:
    """An id that is not the one we write is looked up once.

    A schema that differs in its documentation alone is ours.
    """
    resolve(installation(tmp_path, url), register=True)
    record = RECORDS[0]
    shelf.ids["again", json.dumps({**current(record).schema, "doc": "better words"})] = 4_711
    frames = frames_of(installation(tmp_path, url))
    value = b"\0" + record.SCHEMA_ID.to_bytes(4, "big") + b"datum"
    before = len(shelf.asked)
    for _ in range(3):
        assert frames.incoming(b"\0" + (4_711).to_bytes(4, "big") + value[5:]) == value
    assert len(shelf.asked) == before + 1


def test_an_id_that_nobody_knows_is_poison_and_asked_for_once(
    tmp_path: Path, url: str, shelf: Shelf
) -> None:
    """An unknown id becomes a poison message with a sentence, and a flood of unknown ids asks the
    registry 64 times, not more.
    """
    resolve(installation(tmp_path, url), register=True)
    frames = frames_of(installation(tmp_path, url))
    before = len(shelf.asked)
    for _ in range(2):
        for number in range(10_000, 10_500):
            value = b"\0" + number.to_bytes(4, "big") + b"x"
            assert frames.incoming(value) == value
    assert len(shelf.asked) == before + 64
    with pytest.raises(
        PoisonError, match=r"Schema id 10000 is unknown .* look the id up in the sender's registry"
    ):
        decode(frames.incoming(b"\0" + (10_000).to_bytes(4, "big")))


def test_a_registry_that_went_away_is_soon_not_asked_any_more(
    tmp_path: Path, url: str, shelf: Shelf
) -> None:
    """Unknown ids while the registry is away cost a few time-outs, not one each."""
    resolve(installation(tmp_path, url), register=True)
    frames = frames_of(installation(tmp_path, url))
    shelf.answer = (503, b"")
    before = len(shelf.asked)
    for number in range(10_000, 10_500):
        frames.incoming(b"\0" + number.to_bytes(4, "big") + b"x")
    assert 0 < len(shelf.asked) - before <= 5


@pytest.mark.parametrize("value", [b"", b"\0", b"\0\0\0\0", b"{}", b'{"name": 1}', b"\1\0\0\0\1x"])
def test_what_is_no_frame_stays_as_it_is(tmp_path: Path, url: str, value: bytes) -> None:
    """Bytes without a frame are not touched, in either direction."""
    resolve(installation(tmp_path, url), register=True)
    frames = frames_of(installation(tmp_path, url))
    assert frames.incoming(value) == frames.outgoing(value) == value


def test_without_a_registry_nothing_is_translated(tmp_path: Path) -> None:
    """No registry, no translation."""
    frames = frames_of(Settings(home=tmp_path))
    assert frames is SAME
    value = b"\0" + RECORDS[0].SCHEMA_ID.to_bytes(4, "big") + b"datum"
    assert frames.outgoing(value) == frames.incoming(value) == value


def refusal(settings: Settings, *, register: bool = False) -> EsperError:
    with pytest.raises(EsperError) as caught:
        resolve(settings, register=register)
    assert "\n" not in str(caught.value)
    return caught.value


def test_schemas_that_are_not_registered_are_named_with_the_remedy(
    tmp_path: Path, url: str
) -> None:
    """A process that only looks up registers nothing."""
    error = refusal(installation(tmp_path, url))
    assert isinstance(error, UnavailableError)
    assert "`esper topics apply`" in str(error)


def test_other_ids_than_before_are_refused(tmp_path: Path, url: str, shelf: Shelf) -> None:
    """A registry whose data were replaced would give old messages another meaning."""
    settings = installation(tmp_path, url)
    resolve(settings, register=True)
    shelf.ids.clear()
    error = refusal(settings, register=True)
    assert isinstance(error, CorruptError)
    assert str(settings.schema_ids_path) in str(error)


def test_an_id_that_is_espers_own_of_another_schema_is_refused(
    tmp_path: Path, url: str, shelf: Shelf
) -> None:
    """A frame never means two things."""
    shelf.next_id = max(wire_schemas()) - 3
    assert isinstance(refusal(installation(tmp_path, url), register=True), CorruptError)


def test_a_registry_that_refuses_the_credentials_is_named(
    tmp_path: Path, url: str, shelf: Shelf
) -> None:
    """Wrong credentials give one sentence that does not hold them.

    Right ones, from a file too, are used.
    """
    shelf.user = "esper:right"
    error = refusal(
        installation(tmp_path, url, username="esper", password="wr" + "ong"), register=True
    )
    assert isinstance(error, UsageError)
    assert "ESPER_REGISTRY__USERNAME" in str(error)
    assert "wrong" not in str(error)
    secret = tmp_path / "password"
    secret.write_text("right\n")
    assert resolve(
        installation(tmp_path, url, username="esper", password_file=str(secret)), register=True
    )


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ((500, b'{"message": "out of\\n order"}'), "answers 500: out of order"),
        ((422, b"<html>"), "answers 422: Unprocessable"),
        ((307, b""), "answers 307"),
        ((200, b"<html>hello"), "does not answer in JSON"),
        ((200, b'{"id": "seven"}'), "without a schema id"),
        ((200, b'{"id": true}'), "without a schema id"),
        ((200, b'{"id": -1}'), "without a schema id"),
        ((200, b'{"id": 4294967296}'), "without a schema id"),
        ((200, b"[" * 100_000), "does not answer in JSON"),
        ((200, b"[]"), "without a schema id"),
    ],
)
def test_an_answer_that_is_none_is_one_sentence(
    tmp_path: Path, url: str, shelf: Shelf, answer: tuple[int, bytes], sentence: str
) -> None:
    """Whatever the address leads to, the user reads what it said."""
    shelf.answer = answer
    assert sentence in str(refusal(installation(tmp_path, url), register=True))


def test_a_registry_that_does_not_answer_is_given_up(
    tmp_path: Path, url: str, shelf: Shelf
) -> None:
    """A closed connection, a closed port and a silent server end with a sentence, by the
    time-out.
    """
    shelf.hang.set()
    assert isinstance(refusal(installation(tmp_path, url, timeout_s=0.2)), UnavailableError)
    assert isinstance(refusal(installation(tmp_path, "http://127.0.0.1:9")), UnavailableError)
    assert isinstance(refusal(installation(tmp_path, "kafka://127.0.0.1:9")), UsageError)


def test_frames_of_two_ids_are_found_by_either(tmp_path: Path) -> None:
    """The translation is one to one."""
    own = list(wire_schemas())[:2]
    frames = FrameCodec({own[0]: 1, own[1]: 2})
    for number, mine in enumerate(own, 1):
        head = b"\0" + number.to_bytes(4, "big")
        assert frames.incoming(head) == b"\0" + mine.to_bytes(4, "big")
        assert frames.outgoing(frames.incoming(head)) == head
