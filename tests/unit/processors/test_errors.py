"""Claims about errors of Kafka's client in processors: a broker that is away is no poison."""

from __future__ import annotations

import pytest
from aiokafka.errors import KafkaConnectionError, KafkaTimeoutError, MessageSizeTooLargeError
from faust.exceptions import ProducerSendError

from esper.errors import PoisonError, UnavailableError
from esper_processors.consumers import retriable
from esper_processors.streams import kafka_errors


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KafkaTimeoutError(), True),  # it waited in the client until its time was over
        (KafkaConnectionError(), True),
        (UnavailableError("The broker is away."), True),
        (MessageSizeTooLargeError(), False),
        (PoisonError("Nobody can read this."), False),
        (ValueError("a fault of ours"), False),
    ],
)
def test_what_a_broker_does_is_tried_again(error: Exception, *, expected: bool) -> None:
    """And what a message is, is not: it would fail forever, and stop all behind it."""
    assert retriable(error) is expected


def test_what_befalls_a_message_before_it_is_queued_is_kafka_s_error() -> None:
    """Faust wraps it in an error of its own, which would end the worker."""
    with pytest.raises(KafkaTimeoutError), kafka_errors():
        raise ProducerSendError("Error while sending") from KafkaTimeoutError()


def test_a_fault_of_faust_s_own_stays_what_it_is() -> None:
    with pytest.raises(ProducerSendError), kafka_errors():
        raise ProducerSendError("Producer is not ready")
