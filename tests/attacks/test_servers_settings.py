"""Attack: settings are lost or changed on their way to a child process: a secret becomes asterisks,
a mapping becomes Python's own text.

Expected: whatever a process was given, in its environment or in code, each of its children has the
same, and its children's children.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr

from esper.config import AlertSettings, CheckpointSettings, KafkaSettings, Settings
from esper.stack.processes.parts import (
    as_environment,
    child_environment,
    default_parts,
    part_environment,
)

Section = TypeVar("Section", bound=BaseModel)

SECRET = "c2VjcmV0 with = signs, 'quotes' and \"more\""  # noqa: S105 -- of these tests alone
PASSWORD = KafkaSettings(
    bootstrap="a:1,b:2",
    partitions=7,
    replication=3,
    min_insync=2,
    quotas="viewer.consumer_byte_rate=1,operator.request_percentage=2.5",
    security_protocol="SASL_SSL",
    sasl_mechanism="SCRAM-SHA-512",
    sasl_username="esper-{principal}",
    sasl_password=SecretStr(SECRET),
    ca="/ca.pem",
    certificate="/c.pem",
    private_key="/k.pem",
    private_key_password=SecretStr(SECRET),
    options={"socket.timeout.ms": 5_000, "ssl.cipher.suites": 'a"b'},
)
OAUTH = KafkaSettings(
    bootstrap="a:1",
    security_protocol="SASL_SSL",
    sasl_mechanism="OAUTHBEARER",
    oauth_token_endpoint="https://o/token",  # noqa: S106 -- an address
    oauth_client_id="me",
    oauth_client_secret=SecretStr(SECRET),
    oauth_scope="kafka",
)
FILES = (
    KafkaSettings(
        bootstrap="a:1",
        security_protocol="SASL_SSL",
        sasl_mechanism="PLAIN",
        sasl_username="u",
        sasl_password_file="/p",  # noqa: S106 -- a path
    ),
    KafkaSettings(
        bootstrap="a:1",
        security_protocol="SASL_SSL",
        sasl_mechanism="OAUTHBEARER",
        oauth_token_endpoint="https://o/token",  # noqa: S106 -- an address
        oauth_client_id="me",
        oauth_client_secret_file="/s",  # noqa: S106 -- a path
    ),
)


def changed(section: type[Section]) -> Section:
    """A section of which nothing is as it is by default."""
    values: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        match field.default:
            case SecretStr():
                values[name] = SecretStr(SECRET)
            case bool():
                values[name] = not field.default
            case int():
                values[name] = field.default + 1
            case float():
                values[name] = field.default + 0.5
            case _:
                values[name] = f"/{name} = 'a' \"b\""
    return section(**values)


SECTIONS: dict[str, Any] = {
    name: changed(type(field.default))
    for name, field in Settings.model_fields.items()
    if isinstance(field.default, BaseModel) and name not in ("kafka", "alerts")
}
ALERTS = AlertSettings(
    log_severity="CRITICAL",
    webhook_url="https://h/a?b=c%20d",
    webhook_secret_file="/s 'a'",  # noqa: S106 -- a path
    webhook_severity="CRITICAL",
    alertmanager_url="http://h:9093",
    alertmanager_severity="CRITICAL",
    mail_to="a@h, b@h",
    mail_from="Esper <e@h>",
    mail_severity="CRITICAL",
    smtp_server="h:587",
    smtp_starttls=True,
    smtp_user="u",
    smtp_password_file="/p",  # noqa: S106 -- a path
)
FULL = Settings(
    home=Path("/somewhere/else"), parts="elsewhere", kafka=PASSWORD, alerts=ALERTS, **SECTIONS
)
ALL = (FULL, *(FULL.model_copy(update={"kafka": kafka}) for kafka in (OAUTH, *FILES)))


def leaves(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, object, object]]:
    """Every setting with its value and its default."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value, field.get_default(call_default_factory=True)


def child(environment: Mapping[str, str]) -> Settings:
    """The settings of a process with this environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            patch.delenv(name)
        for name, value in environment.items():
            patch.setenv(name, value)
        return Settings()


def test_every_setting_is_in_these_tests() -> None:
    """One that is added has to be added here: with a value that is not its default."""
    changed = {
        name for settings in ALL for name, value, default in leaves(settings) if value != default
    }
    assert changed == {name for name, _, _ in leaves(FULL)}


@pytest.mark.parametrize("settings", ALL, ids=["password", "oauth", "password file", "oauth file"])
def test_every_setting_reaches_children_and_theirs(settings: Settings) -> None:
    """Through the supervisor to a part, and from there once more: equal, secrets too."""
    supervisor = child(child_environment({"PATH": "/bin"}, settings))
    assert supervisor == settings
    parts = default_parts(supervisor)
    ports = {part.name: part.port for part in parts}
    given = part_environment({"PATH": "/bin"}, supervisor, parts, ports, supervisor.kafka.bootstrap)
    assert child(given) == settings
    assert child(child_environment(given, child(given))) == settings
    assert "*****" not in " ".join(given.values())


@given(
    secret=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
    option=st.text(max_size=20),
)
def test_any_secret_and_any_option_reaches_children(secret: str, option: str) -> None:
    """Whatever it is made of."""
    kafka = PASSWORD.model_copy(
        update={"sasl_password": SecretStr(secret), "options": {"ssl.cipher.suites": option}}
    )
    settings = Settings(kafka=kafka, checkpoints=CheckpointSettings(master_key=SecretStr(secret)))
    found = child(as_environment(settings))
    assert found.checkpoints.master_key.get_secret_value() == secret
    assert found.kafka == kafka


def test_what_the_parent_inherited_does_not_override_what_it_was_given(tmp_path: Path) -> None:
    """A child's environment is the parent's without its settings: whole sections as JSON and other
    spellings count as settings too.
    """
    inherited = {
        "PATH": "/bin",
        "ESPER_DEBUG": "1",
        "ESPER_KAFKA": '{"partitions": 9}',
        "esper_checkpoints__master_key": "another",
        "ESPER_KAFKA__OPTIONS__x": "1",
    }
    settings = Settings(home=tmp_path)
    environment = child_environment(inherited, settings)
    assert child(environment) == settings
    assert environment["ESPER_DEBUG"] == "1"


def test_a_setting_without_a_text_is_refused() -> None:
    """A kind of value that nobody has thought of stops the start; it is never guessed."""
    settings = Settings().model_copy(update={"kafka": PASSWORD.model_copy(update={"ca": b"bytes"})})
    with pytest.raises(TypeError, match="ESPER_KAFKA__CA"):
        as_environment(settings)


def test_a_real_child_of_a_process_with_a_master_key_has_it(tmp_path: Path) -> None:
    """Not only in one process's memory: by the environment that the kernel carries."""
    settings = Settings(home=tmp_path, checkpoints=CheckpointSettings(master_key=SecretStr(SECRET)))
    program = (
        "from esper.config import Settings; "
        "print(Settings.load().checkpoints.master_key.get_secret_value())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=child_environment(os.environ, settings),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == f"{SECRET}\n"
