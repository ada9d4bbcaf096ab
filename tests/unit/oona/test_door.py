"""How a refusal of the broker is heard: from callbacks that only keep it, and as what it means to a
client that was let in before.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future

import pytest
from confluent_kafka import KafkaError, KafkaException

from esper.errors import DeniedError
from esper.oona.bus import kafka
from esper.oona.bus.access import Access
from esper.oona.bus.authentication import BrokerStanding, ClientDoor

EXPIRED = KafkaError(KafkaError._SSL, "sasl_ssl://127.0.0.1:1/1: certificate has expired")
REFUSED = KafkaError(KafkaError._AUTHENTICATION, "SASL authentication failed")
BROKEN = KafkaError(KafkaError._SSL, "connection reset by peer")


def test_a_request_that_is_never_answered_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Librdkafka may forget one whose leader was lost: whoever asked is told, and the next request
    goes by another client.
    """
    monkeypatch.setattr(kafka, "_ANSWER_S", 0.0)
    bus = kafka.KafkaBus("127.0.0.1:1", patience=0.01)
    before = bus.admin()
    with pytest.raises(KafkaException) as told:
        bus.answer(Future())
    assert told.value.args[0].code() == KafkaError.LEADER_NOT_AVAILABLE
    assert bus.admin() is not before


@pytest.fixture
def door() -> ClientDoor:
    """Of a client that nobody has let in yet."""
    return ClientDoor(Access.plain("127.0.0.1:1"), BrokerStanding())


@pytest.mark.parametrize("error", [EXPIRED, REFUSED])
def test_who_was_never_let_in_hears_at_once(door: ClientDoor, error: KafkaError) -> None:
    """A wrong password and a bad certificate are told before anything is waited for."""
    door.told.error(error)
    with pytest.raises(DeniedError, match="does not let"):
        door.require()


def test_a_connection_that_breaks_is_no_refusal(door: ClientDoor) -> None:
    """Whatever it broke in."""
    door.told.error(BROKEN)
    door.require()


def test_a_certificate_that_expires_is_an_outage_to_who_was_let_in(door: ClientDoor) -> None:
    """However long ago: the broker is away until it has another one, and a run that trains waits as
    it waits for a broker that died.
    """
    door.let_in()
    door.told.error(EXPIRED)
    door.require()
    standing = door._standing
    assert standing.refused_since is not None
    standing.refused_since -= 3_600
    door.require()


def test_a_password_that_is_refused_for_long_is_told(door: ClientDoor) -> None:
    """Half a minute later: a password may change at the broker before it does in its file."""
    door.let_in()
    door.told.error(REFUSED)
    door.require()
    standing = door._standing
    assert standing.refused_since is not None
    standing.refused_since -= 31
    with pytest.raises(DeniedError):
        door.require()
    door.let_in()
    door.require()


def test_what_the_client_says_reaches_the_log_after_its_call(
    door: ClientDoor, caplog: pytest.LogCaptureFixture
) -> None:
    """A callback keeps the line; the next look at the door writes it."""
    door.told.log(logging.WARNING, "%s [%s] %s", "FAIL", "client#1", "connection closed")
    assert not caplog.records
    door.hear()
    assert [record.getMessage() for record in caplog.records] == [
        "FAIL [client#1] connection closed"
    ]
