"""One cluster of three brokers for all tests of this folder. A test that hurts it leaves
it whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import apicurio
from tests.clusters import commands, kafkacluster


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[kafkacluster.Cluster]:
    """A real cluster.

    Tests share it, so each uses its own principals and topics, but for those of Esper.
    """
    with kafkacluster.running(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture(scope="package")
def passwords(cluster: kafkacluster.Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Passwords of Esper's principals, with which the cluster was made ready by `esper topics
    apply`.
    """
    folder = commands.passwords(tmp_path_factory.mktemp("keys") / "kafka")
    done = commands.esper(
        folder.parent,
        cluster.administrator(),
        "topics",
        "apply",
        "--credentials",
        str(folder),
        "--json",
    )
    assert commands.said(done)["left"] == []
    for path in folder.iterdir():
        cluster.passwords[path.stem] = path.read_text()
    cluster.settled()
    return folder


@pytest.fixture(scope="package")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a real Confluent-compatible registry."""
    with apicurio.running(tmp_path_factory.mktemp("registry")) as address:
        yield address
