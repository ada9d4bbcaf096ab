"""A stack with a certificate: keys made on the way up, parts probed and asked over TLS, tokens from
the command line.
"""

from __future__ import annotations

import json
import os
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import clickhouse_connect
import httpx

from esper import stack
from esper.config import Settings
from esper.history.queries import events_by_topic, source, wait_caught_up
from esper.oona.bus.kafka import KafkaBus
from esper.service.transport import token_keys
from tests.certificates import authority, make, write
from tests.servicefixtures import assert_problem, bearer
from tests.stackfixtures import access
from tests.waiting import PATIENCE_S

SUPERVISOR = (sys.executable, str(Path(__file__).parent / "secured_stack.py"))


def esper(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line with these settings."""
    service = settings.service
    environment = os.environ | {
        "ESPER_HOME": str(settings.home),
        "ESPER_SERVICE__CERTIFICATE": service.certificate,
        "ESPER_SERVICE__PRIVATE_KEY": service.private_key,
    }
    return subprocess.run(
        [sys.executable, "-m", "esper.cli", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_a_stack_with_a_certificate_is_spoken_to_over_tls_alone(tmp_path: Path) -> None:
    """Its own programs need nothing beside the settings; others need the authority and a token.

    Without a token nothing but health is told.
    """
    root = authority()
    trusted = write(tmp_path, root)
    settings = Settings(home=tmp_path / "home", service=make(tmp_path, root))
    try:
        endpoints = stack.up(
            settings, owner_pid=os.getpid(), progress=lambda _: None, supervisor=SUPERVISOR
        )
        private = settings.keys_dir / token_keys.PRIVATE
        assert (
            stat.S_IMODE(private.stat().st_mode),
            stat.S_IMODE(private.parent.stat().st_mode),
        ) == (0o600, 0o700)
        pem = private.read_bytes()
        stack.wait_ready(settings, ["history", "foundry"], PATIENCE_S)
        assert endpoints.history_url.startswith("https://")
        assert endpoints.foundry_url.startswith("https://")

        bus = KafkaBus(access(settings))
        assert wait_caught_up(endpoints.history_url, bus, timeout=PATIENCE_S, settings=settings)
        assert source(settings, endpoints.history_url).rows("SELECT 1 AS x") == [{"x": 1}]
        assert events_by_topic(endpoints.history_url, "nobody", settings) == {}
        assert json.loads(esper(settings, "sql", "SELECT 2 AS x", "--json").stdout) == [{"x": 2}]

        asked = (
            "--role",
            "operator",
            "--for",
            "foundry",
            "--for",
            "history",
            "--ttl",
            "5m",
            "--subject",
            "ann",
            "--json",
        )
        made = json.loads(esper(settings, "token", *asked).stdout)
        assert (made["subject"], made["role"], made["expires_in"]) == ("ann", "operator", 300)
        trust = ssl.create_default_context(cafile=str(trusted))
        answer = httpx.get(
            f"{endpoints.foundry_url}/api/v1/kernels", headers=bearer(made["token"]), verify=trust
        )
        assert answer.json() == {"kernels": [], "total": 0, "next": None}
        assert_problem(httpx.get(f"{endpoints.foundry_url}/api/v1/kernels", verify=trust), 401)
        assert httpx.get(f"{endpoints.foundry_url}/health", verify=trust).json()["ready"] is True
        client = clickhouse_connect.get_client(
            host="127.0.0.1",
            port=int(endpoints.history_url.rpartition(":")[2]),
            username="ann",
            password=made["token"],
            secure=True,
            ca_cert=str(trusted),
        )
        assert client.command("SELECT 3") == 3
        client.close()
    finally:
        stack.down(settings)
    assert private.read_bytes() == pem
