"""`esper dead-letters` as typed, against a real broker with poison that a real consumer gave up."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from esper.clock import SystemClock
from esper.config import Settings
from esper.events import Message
from esper.oona.bus.kafka import KafkaBus
from esper.oona.bus.port import Bus
from esper.oona.inbound.dead_letters import DeadLetters
from esper.oona.inbound.inbox import INBOX_TOPICS, Inbox
from tests import commands
from tests.integration.processors.workers import wait_for
from tests.stackfixtures import tiny_stack

TOPIC = "control.tolaria.commands"
BAD = (b"not framed", b"\0\0\0\0\1" + bytes(range(256)) * 4)
SENTENCE = "There are no dead letters: every message so far could be read and applied."
CLOCK = SystemClock()


def esper(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as typed."""
    return commands.run("dead-letters", *arguments, environment={**os.environ, **environment})


def poison(bus: Bus, run: str) -> str:
    """Write bad messages to a run and have its inbox give them up.

    Gives the name under which it does.
    """
    consumer = f"trainer of {run}"
    with bus.reader(INBOX_TOPICS, start="end") as reader:
        start = reader.position()
    with bus.producer(sender_id=run) as producer:
        for value in BAD:
            producer.send_message(Message(TOPIC, run.encode(), value, ()))
        producer.flush(20)
        inbox = Inbox(
            bus, run, start=start, clock=CLOCK, dead_letters=DeadLetters(producer, consumer, CLOCK)
        )
        inbox.start()
        wait_for(lambda: inbox.dropped["refused"] == len(BAD))
        inbox.stop()
        assert producer.flush(20) == 0
    return consumer


@pytest.fixture(scope="module")
def consumer(broker: str) -> str:
    """A consumer that has given up every message of BAD."""
    return poison(KafkaBus(broker), "letters-1")


def listed(broker: str, *arguments: str) -> Any:
    """What the command says as JSON."""
    done = esper(*arguments, "--json", ESPER_KAFKA__BOOTSTRAP=broker)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_they_are_listed_with_place_reason_and_size(broker: str, consumer: str) -> None:
    """Both letters are there in order, as JSON and as a table.

    Filters leave out what does not fit, and the limit keeps the last.
    """
    found = listed(broker, "--consumer", consumer)
    assert [(one["topic"], one["bytes"]) for one in found] == [(TOPIC, len(value)) for value in BAD]
    assert found[0]["offset"] < found[1]["offset"]
    assert "no Confluent frame" in found[0]["error"]
    assert [
        one["id"]
        for one in listed(
            broker, "--consumer", consumer, "--topic", TOPIC, "--since", "10m", "--limit", "1"
        )
    ] == [found[1]["id"]]
    assert listed(broker, "--consumer", consumer, "--topic", "telemetry.cache") == []
    assert listed(broker, "--consumer", consumer, "--since", "0s") == []
    table = esper("--consumer", consumer, ESPER_KAFKA__BOOTSTRAP=broker).stdout
    for one in found:
        (line,) = [line for line in table.splitlines() if line.startswith(one["id"][:12])]
        assert f"{TOPIC}/{one['partition']}/{one['offset']}" in line
        assert one["error"] in line


def test_one_is_shown_whole_and_its_bytes_written(
    broker: str, consumer: str, tmp_path: Path
) -> None:
    """`--show` takes the beginning of an id, prints what is known of it, and writes the very bytes,
    never over a file that is there.
    """
    letter = listed(broker, "--consumer", consumer)[1]
    file = tmp_path / "bytes"
    shown = esper(
        "--show", letter["id"][:20], "--payload", str(file), ESPER_KAFKA__BOOTSTRAP=broker
    )
    assert shown.returncode == 0, shown.stderr
    assert file.read_bytes() == BAD[1]
    assert letter["error"] in shown.stdout
    assert "00 00 00 00 01 00 01 02" in shown.stdout
    assert f"... {len(BAD[1]) - 512} more bytes" in shown.stdout
    assert base64.b64decode(listed(broker, "--show", letter["id"])["payload_base64"]) == BAD[1]
    again = esper("--show", letter["id"], "--payload", str(file), ESPER_KAFKA__BOOTSTRAP=broker)
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert "exists already" in again.stderr
    assert file.read_bytes() == BAD[1]


def test_count_tells_topics_and_consumers_apart(broker: str, consumer: str) -> None:
    """`--count` gives the number by topic and consumer."""
    assert listed(broker, "--count")["topics"][TOPIC][consumer] == len(BAD)
    row = next(
        line
        for line in esper("--count", ESPER_KAFKA__BOOTSTRAP=broker).stdout.splitlines()
        if consumer in line
    )
    assert row.split() == [TOPIC, *consumer.split(), str(len(BAD))]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--since", "soon"), "--since takes a number with s, m, h or d"),
        (("--payload", "file"), "say which with --show ID"),
        (("--show", "zz"), "No dead letter has an id that begins with zz"),
        (("--show", ""), ""),
    ],
)
def test_mistakes_are_one_sentence(
    broker: str, consumer: str, arguments: tuple[str, ...], sentence: str
) -> None:
    """What cannot be done is said in a sentence with exit code 2; an empty id shows the list."""
    done = esper(*arguments, ESPER_KAFKA__BOOTSTRAP=broker)
    assert done.returncode == (2 if sentence else 0)
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_without_letters_and_without_a_broker(tmp_path: Path) -> None:
    """A fresh stack has none: a sentence and exit code 0.

    Without a broker: a sentence with the remedy and exit code 3, whoever's broker it is.
    """
    settings = Settings(home=tmp_path)
    down = esper(ESPER_HOME=str(tmp_path))
    assert (down.returncode, "`esper up`" in down.stderr) == (3, True)
    with tiny_stack(settings):
        done = esper(ESPER_HOME=str(tmp_path))
        assert (done.returncode, done.stdout.strip()) == (0, SENTENCE)
        assert json.loads(esper("--json", ESPER_HOME=str(tmp_path)).stdout) == []
        assert json.loads(esper("--count", "--json", ESPER_HOME=str(tmp_path)).stdout) == {
            "total": 0,
            "topics": {},
        }
    away = esper(ESPER_KAFKA__BOOTSTRAP="127.0.0.1:1")
    assert (away.returncode, away.stderr.count("\n")) == (3, 1)
    assert "does not answer" in away.stderr
