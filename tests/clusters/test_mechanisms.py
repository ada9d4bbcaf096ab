"""Every way to say who one is to a cluster of others, by both of Esper's Kafka clients: SCRAM,
PLAIN, OAUTHBEARER over TLS, and a certificate.
"""

from __future__ import annotations

import asyncio
import base64
import json
import urllib.parse
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from aiokafka.client import AIOKafkaClient

from esper.config import Settings
from esper.errors import DeniedError
from esper.oona.bus.access import Access
from esper.oona.bus.kafka import KafkaBus
from esper_processors.access import options
from tests.clusters.kafkacluster import PLAIN, Cluster
from tests.servers import answering

pytestmark = [
    pytest.mark.variant,
]
SECRET = "of-the-client"  # noqa: S105 - of a token endpoint that only this test reaches


@pytest.fixture
def endpoint(cluster: Cluster) -> Iterator[str]:
    """Address of a token endpoint that gives tokens of the cluster's issuer for the client's
    secret.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = urllib.parse.parse_qs(
                self.rfile.read(int(self.headers["Content-Length"])).decode()
            )
            name = form.get("client_id", [""])[0] or _basic(self.headers.get("Authorization", ""))
            body = json.dumps(
                {"access_token": cluster.token(name), "expires_in": 3600, "token_type": "Bearer"}
            ).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name
            pass

    with answering(Handler) as url:
        yield f"{url}/token"


def _basic(header: str) -> str:

    return urllib.parse.unquote(
        base64.b64decode(header.partition(" ")[2]).decode().partition(":")[0]
    )


def ways(cluster: Cluster, passwords: Path, endpoint: str) -> Mapping[str, dict[str, str]]:
    """The settings of each way."""
    tls = {
        "ESPER_KAFKA__BOOTSTRAP": cluster.bootstrap,
        "ESPER_KAFKA__SECURITY_PROTOCOL": "SASL_SSL",
        "ESPER_KAFKA__CA": str(cluster.ca),
    }
    ((name, password),) = PLAIN.items()
    oauth = {
        "ESPER_KAFKA__SASL_MECHANISM": "OAUTHBEARER",
        "ESPER_KAFKA__OAUTH_CLIENT_ID": "oauth-{principal}",
        "ESPER_KAFKA__OAUTH_CLIENT_SECRET": SECRET,
        "ESPER_KAFKA__OAUTH_TOKEN_ENDPOINT": endpoint,
    }
    return {
        "SCRAM": cluster.parts(passwords),
        "PLAIN": {
            **tls,
            "ESPER_KAFKA__SASL_MECHANISM": "PLAIN",
            "ESPER_KAFKA__SASL_USERNAME": name,
            "ESPER_KAFKA__SASL_PASSWORD": password,
        },
        "OAUTHBEARER": {**tls, **oauth},
        "certificate": cluster.administrator(),
    }


@pytest.mark.parametrize("way", ["SCRAM", "PLAIN", "OAUTHBEARER", "certificate"])
def test_both_clients_are_let_in(
    cluster: Cluster, passwords: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """confluent-kafka and aiokafka reach the cluster by the same settings."""
    for name, value in ways(cluster, passwords, endpoint)[way].items():
        monkeypatch.setenv(name, value)
    access = Access.of(Settings.load(), "viewer")
    assert KafkaBus(access, patience=30.0).cluster_id()

    async def reached() -> int:
        client = AIOKafkaClient(bootstrap_servers=access.bootstrap, **options(access))
        try:
            await client.bootstrap()
            return len(client.cluster.brokers())
        finally:
            await client.close()
            await asyncio.sleep(
                0.25
            )  # TLS says goodbye after the call, and the loop would end before

    assert asyncio.run(reached()) == 3


def test_a_wrong_secret_is_one_sentence(
    cluster: Cluster, passwords: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong password, and a broker's certificate of another authority, are refused by name and
    remedy.
    """
    good = ways(cluster, passwords, endpoint)
    for name, value in {**good["PLAIN"], "ESPER_KAFKA__SASL_PASSWORD": "wr" + "ong"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(DeniedError, match="does not let plain-viewer in"):
        KafkaBus(Access.of(Settings.load(), "viewer"), patience=30.0).cluster_id()
    monkeypatch.setenv("ESPER_KAFKA__SASL_PASSWORD", good["PLAIN"]["ESPER_KAFKA__SASL_PASSWORD"])
    monkeypatch.setenv("ESPER_KAFKA__CA", "")
    with pytest.raises(DeniedError, match="ESPER_KAFKA__CA"):
        KafkaBus(Access.of(Settings.load(), "viewer"), patience=30.0).cluster_id()
