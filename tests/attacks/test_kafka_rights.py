"""Attack: one part, taken over, writes what another part is believed for.

Expected: on the real broker each principal may write and read exactly the topics that
`schemas/topics.toml` names it for, and hold exactly its own transactional ids, groups and private
topics.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # its types do not list what it exports

from esper.events.topics import TOPICS
from esper.oona.bus.rights import OWNER, PRINCIPALS
from tests.attacks import kafka_attacker
from tests.attacks.kafka_attacker import DONE
from tests.securedbroker import Secured

TABLE: dict[str, dict[str, Any]] = tomllib.loads(
    (Path(__file__).parents[2] / "schemas" / "topics.toml").read_text()
)
READ_ALL = {"viewer", "operator"}
PRIVATE = {"tamiyo": "esper-tamiyo-runs-changelog", "nissa": "esper-nissa-definitions"}
REFUSED = "TOPIC_AUTHORIZATION_FAILED"


def config(secured: Secured, principal: str) -> dict[str, Any]:
    """A client's configuration as that principal."""
    return {**secured.access(principal).librdkafka(), "log_level": 0}


@pytest.fixture(scope="module", autouse=True)
def filled(secured: Secured) -> None:
    """The processors make their private topics themselves, and every topic has a message."""
    for part, topic in PRIVATE.items():
        client = AdminClient(config(secured, part))
        for future in client.create_topics([NewTopic(topic, 1)]).values():
            future.result()
    written = kafka_attacker.write(config(secured, OWNER), [*TOPICS, *PRIVATE.values()], b"\0")
    assert set(written.values()) == {DONE}


@pytest.mark.parametrize("principal", PRINCIPALS)
def test_each_principal_writes_what_the_table_says(secured: Secured, principal: str) -> None:
    """WRITE on every topic, asked of the broker itself."""
    expected = {
        topic: DONE if principal in row["writers"] else REFUSED for topic, row in TABLE.items()
    }
    expected |= {topic: DONE if principal == part else REFUSED for part, topic in PRIVATE.items()}
    assert kafka_attacker.write(config(secured, principal), list(expected), b"\0") == expected


@pytest.mark.parametrize("principal", PRINCIPALS)
def test_each_principal_is_told_the_rights_that_the_table_says(
    secured: Secured, principal: str
) -> None:
    """READ and WRITE on every topic, and nothing else: none is deleted, altered or made by a part,
    but its private ones are made by it.
    """
    expected = {
        topic: _operations(principal, row["writers"], {*row["readers"], *READ_ALL})
        for topic, row in TABLE.items()
    }
    if principal == "trainer":  # which waits until the history has come as far as each topic
        expected = {topic: operations | {"DESCRIBE"} for topic, operations in expected.items()}
    for part, topic in PRIVATE.items():
        expected[topic] = _operations(principal, {part}, {part, *READ_ALL}) | (
            {"CREATE"} if principal == part else set()
        )
    assert kafka_attacker.allowed(config(secured, principal), list(expected)) == expected


def _operations(principal: str, writers: Collection[str], readers: Collection[str]) -> set[str]:
    found = {name for name, who in (("WRITE", writers), ("READ", readers)) if principal in who}
    return found | ({"DESCRIBE"} if found else set())


@pytest.mark.parametrize("principal", ["tamiyo", "trainer", "viewer"])
def test_a_principal_reads_what_it_may_and_nothing_else(secured: Secured, principal: str) -> None:
    """The same by fetching."""
    may = {topic for topic, row in TABLE.items() if principal in {*row["readers"], *READ_ALL}}
    found = kafka_attacker.read(config(secured, principal), list(TABLE))
    assert {topic for topic, outcome in found.items() if outcome == DONE} == may


@pytest.mark.parametrize("principal", PRINCIPALS)
def test_each_principal_holds_its_own_transactions_alone(secured: Secured, principal: str) -> None:
    """A run's id is the trainer's; a part's audit trail is the part's.

    The command line signs as cli.
    """
    audited = {"operator": "audit-cli"} | {
        part: f"audit-{part}" for part in TABLE["audit.events"]["writers"] if part != "operator"
    }
    names = ["mnist1d-20261125-222112-038", *audited.values()]
    for name in names:
        mine = audited.get(principal) == name or (
            principal == "trainer" and not name.startswith("audit-")
        )
        assert kafka_attacker.fence(config(secured, principal), name) == (
            DONE if mine else "TRANSACTIONAL_ID_AUTHORIZATION_FAILED"
        )


@pytest.mark.parametrize("principal", PRINCIPALS)
def test_nobody_but_the_owner_governs_the_cluster(secured: Secured, principal: str) -> None:
    """Topics are deleted, limits changed and rights granted by the super user alone."""
    assert DONE not in kafka_attacker.govern(config(secured, principal), "audit.events").values()


@pytest.mark.parametrize("principal", ["trainer", "history", "viewer", "nissa"])
def test_a_processors_group_is_joined_by_that_processor_alone(
    secured: Secured, principal: str
) -> None:
    """Who joined Tamiyo's group would take its packets away."""
    assert (
        kafka_attacker.join(config(secured, principal), "esper-tamiyo", "system.events.run")
        == "GROUP_AUTHORIZATION_FAILED"
    )


def test_the_table_names_principals_that_exist() -> None:
    """A name that is misspelt would be a right of nobody."""
    assert {name for row in TABLE.values() for name in (*row["writers"], *row["readers"])} <= set(
        PRINCIPALS
    )
