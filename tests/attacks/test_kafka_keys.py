"""Attack: a password that has leaked goes on to let somebody in.

An old installation stays open after its upgrade; a kill undoes the locks.

Expected: a new password replaces the old one at the next start, clients that live go on with it; a
folder that a version without passwords wrote is closed at its first start and keeps its messages;
`kill -9` of the broker changes neither rights nor messages.
"""

from __future__ import annotations

import logging
import stat
import threading
from concurrent.futures import Future
from pathlib import Path

import pytest

from esper.clock import SystemClock
from esper.config import Settings
from esper.errors import DeniedError, UnavailableError, UsageError
from esper.events.codec import Message
from esper.oona.admin import hanging, topic_creation
from esper.oona.bus.access import Access, password_file
from esper.oona.bus.kafka import KafkaBus
from esper.oona.bus.port import Bus, Reader
from esper.oona.bus.rights import OWNER, PRINCIPALS
from esper.oona.durable.journal_reader import JOURNAL, read
from esper.stack.embedded import credentials
from esper.stack.embedded.securing import secure
from esper.stack.processes.ports import PortClaims
from tests.securedbroker import Secured, node_at, started
from tests.stackfixtures import eventually
from tests.waiting import PATIENCE_S

CLOCK = SystemClock()
DECISION = Message("decision.tamiyo", b"one", b"\0", ())
ONE = Message(JOURNAL, b"one", b"\0", ())


def values(bus: Bus) -> list[bytes]:
    """What the journal of run `one` holds."""
    return [received.value for received in read(bus, "one", clock=CLOCK, patience=PATIENCE_S)]


def refused(access: Access) -> bool:
    """Whether the broker does not let it in."""
    try:
        KafkaBus(access, patience=20.0).partitions([JOURNAL])
    except (
        DeniedError,
        UnavailableError,
    ):  # the broker just closes a connection that does not begin with a name
        return True
    return False


def test_passwords_are_made_once_and_are_the_owners_alone(tmp_path: Path) -> None:
    """0600 in 0700, different from each other, the same when asked again.

    One that others may read is refused.
    """
    folder = tmp_path / "keys" / "kafka"
    made = credentials.ensure(folder)
    assert credentials.ensure(folder) == made
    assert made.keys() == {OWNER, *PRINCIPALS}
    assert len(set(made.values())) == len(made)
    assert all(len(password) >= 43 for password in made.values())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    password_file(folder, "trainer").chmod(0o644)
    with pytest.raises(UsageError, match="may be read by other users, who could act as trainer"):
        credentials.ensure(folder)


def test_an_installation_without_passwords_is_closed_by_its_upgrade_and_loses_nothing(
    tmp_path: Path,
) -> None:
    """The storage of a broker that let everybody in; then kill -9 of the one that does not.

    Then another start.
    """
    settings = Settings(home=tmp_path)
    with PortClaims() as claims:
        old, new = node_at(tmp_path, claims, secured=False), node_at(tmp_path, claims)
        with started(old):
            topic_creation.ensure(old.bootstrap, settings.kafka)
            with KafkaBus(old.bootstrap).journal_producer(run_id="one") as writer:
                writer.begin(20.0)
                writer.commit([ONE])

        def access(principal: str) -> Access:
            return Access.of(settings, principal, bootstrap=new.bootstrap)

        with started(new) as process:
            assert refused(Access.plain(new.bootstrap))
            secure(new, settings.kafka_keys_dir)
            assert values(KafkaBus(access("viewer"))) == [ONE.value]
            with KafkaBus(access("trainer")).journal_producer(run_id="one") as writer:
                writer.begin(20.0)
                writer.commit([ONE])
            first = new.secret_file.read_text()
            process.kill()
            process.wait()
        with started(new):
            hanging.mend(
                new.admin,
                {JOURNAL: topic_creation.wanted(settings.kafka)[JOURNAL][0]},
                clock=CLOCK,
                timeout_s=PATIENCE_S,
            )  # as the supervisor does
            assert values(KafkaBus(access("viewer"))) == [ONE.value, ONE.value]
            assert refused(Access.plain(new.bootstrap))
            assert new.secret_file.read_text() != first
            with (
                KafkaBus(access("viewer")).journal_producer(run_id="one") as writer,
                pytest.raises(DeniedError, match="write the journal of run one"),
            ):
                writer.begin(20.0)


def test_a_password_is_replaced_while_its_client_lives(tmp_path: Path) -> None:
    """Delete its file and start the broker again: the old password is worth nothing, and producers
    that live come back with the new one.

    One that waits for its acknowledgements, and one that only sends now and then, as a run does
    with the packets that it wants an answer to.
    """
    settings = Settings(home=tmp_path)
    file = password_file(settings.kafka_keys_dir, "trainer")
    with PortClaims() as claims:
        node = node_at(tmp_path, claims)
        with started(node):
            secure(node, settings.kafka_keys_dir)
            topic_creation.ensure(node.admin, settings.kafka)
            leaked = file.read_text().strip()
            producer, seldom = (
                KafkaBus(Access.of(settings, "trainer", bootstrap=node.bootstrap)).producer(
                    sender_id="trainer"
                )
                for _ in "12"
            )
            for one in (producer, seldom):
                one.send_message(ONE)
                assert one.flush(PATIENCE_S) == 0
        file.unlink()
        with started(node):
            secure(node, settings.kafka_keys_dir)
            assert file.read_text().strip() != leaked
            kafka = Access.of(settings, "trainer", bootstrap=node.bootstrap).kafka
            kafka = kafka.model_copy(
                update={
                    "sasl_password_file": "",
                    "sasl_password": type(kafka.sasl_password)(leaked),
                }
            )
            assert refused(
                Access(kafka, "trainer")
            )  # `secure` returns once the broker knows the new one
            producer.send_message(ONE)
            assert eventually(lambda: producer.flush(0.5) == 0, 60)
            assert producer.delivered() == {JOURNAL: 2}
            producer.close()
            viewer = KafkaBus(Access.of(settings, "viewer", bootstrap=node.bootstrap))
            assert eventually(lambda: seldom.send_message(ONE) or len(values(viewer)) > 3)
            seldom.close()


def test_what_a_principal_may_not_is_one_sentence_with_principal_operation_and_remedy(
    secured: Secured,
) -> None:
    """For the journal, for telemetry and decisions, and for reading; none is retried in silence."""
    bus = secured.bus("viewer")
    with bus.journal_producer(run_id="one") as writer, pytest.raises(DeniedError) as journal:
        writer.begin(20.0)
    assert "does not allow viewer to write the journal of run one" in str(journal.value)
    for principal in (
        "viewer",
        "nissa",
    ):  # one that may write nothing, and one that may write something else
        with secured.bus(principal).producer(sender_id=principal) as producer:
            producer.send_message(DECISION)
            assert eventually(lambda: producer.flush(1.0) == 0, 30)  # called in this round
            with pytest.raises(
                DeniedError,
                match=rf"does not allow {principal} to write decision.tamiyo .*give it the right",
            ):
                producer.send_message(DECISION)
    places = {("dead.letters", number): 0 for number in range(4)}
    with secured.bus("trainer").reader(["dead.letters"], start=places) as reader:
        said: list[str] = []
        assert eventually(lambda: bool(said) or said_by(reader, said), 30)
    assert "does not allow trainer to read dead.letters" in said[0]


def test_a_client_that_is_refused_everything_leaves_no_lock_taken(secured: Secured) -> None:
    """What the client calls back while its fatal error waits to be raised hangs nobody: not the
    counts, not the log, not another client.

    The counts of deliveries are asked for first where all is well, for as long as Python needs to
    run the callback by its short cuts.
    """
    with secured.bus("tamiyo").producer(sender_id="tamiyo") as producer:
        for _ in range(200):
            producer.send_message(DECISION)
        assert producer.flush(60.0) == 0
        assert producer.delivered() == {DECISION.topic: 200}

    def counts() -> dict[str, int]:
        with secured.bus("viewer").producer(sender_id="viewer") as producer:
            for _ in range(20):
                producer.send_message(DECISION)
            producer.flush(60.0)
            return {
                "delivered": sum(producer.delivered().values()),
                "failed": sum(producer.failed().values()),
            }

    for _ in range(5):
        asked = Future[dict[str, int]]()
        threading.Thread(target=lambda asked=asked: asked.set_result(counts()), daemon=True).start()
        assert asked.result(PATIENCE_S)["delivered"] == 0
        logging.getLogger("esper.oona.bus.authentication").warning("another thread logs")


def said_by(reader: Reader, said: list[str]) -> bool:
    """Whether one look at the topic was refused; the sentence is added."""
    try:
        reader.poll(10, 0.5)
    except DeniedError as error:
        said.append(str(error))
    return bool(said)
