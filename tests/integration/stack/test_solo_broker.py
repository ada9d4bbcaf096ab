"""The broker that all tests share."""

from __future__ import annotations

from confluent_kafka.admin import AdminClient

from esper.stack.broker import answers


def test_the_shared_broker_answers_a_client(broker: str) -> None:
    """The fixture's broker is one real node that lists its topics, and our own probe agrees."""
    assert answers(broker, timeout=5)
    assert len(AdminClient({"bootstrap.servers": broker}).list_topics(timeout=10).brokers) == 1


def test_nothing_answers_where_no_broker_is() -> None:
    """A port without a broker is not taken for one."""
    assert not answers("127.0.0.1:1", timeout=1)
