"""The one settings section of Kafka: what is refused, and what both clients get out of it."""

from __future__ import annotations

import re
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from faust import auth
from pydantic import SecretStr, ValidationError

from esper.config import KAFKA_OPTIONS, KafkaSettings, Settings
from esper.errors import UsageError
from esper.oona.bus.access import Access
from esper_processors.access import Tokens, credentials, options

SCRAM = {
    "bootstrap": "kafka:9093",
    "security_protocol": "SASL_SSL",
    "sasl_mechanism": "SCRAM-SHA-512",
    "sasl_username": "{principal}",
}
BEARER = {
    "bootstrap": "kafka:9093",
    "security_protocol": "SASL_SSL",
    "sasl_mechanism": "OAUTHBEARER",
    "oauth_token_endpoint": "https://idp/token",
    "oauth_client_id": "esper-{principal}",
}


@pytest.fixture
def pem(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate that signs itself and its private key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kafka")])
    begin = datetime(2020, 1, 1, tzinfo=UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=36_500))
        .sign(key, hashes.SHA256())
    )
    chain, private = tmp_path / "trainer.pem", tmp_path / "trainer.key"
    chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return chain, private


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        (
            {"KAFKA__BOOTSRAP": "x:1"},
            (
                "ESPER_KAFKA__BOOTSRAP is not a setting of Esper: "
                "did you mean ESPER_KAFKA__BOOTSTRAP?"
            ),
        ),
        (
            {"HISTORY__NONSENSE": "1"},
            "ESPER_HISTORY__NONSENSE is not a setting of Esper: unset it.",
        ),
        (
            {"KAFKA__PARTITIONS": "many"},
            ("ESPER_KAFKA__PARTITIONS has an invalid value: input should be a valid integer"),
        ),
        (
            {"KAFKA__SECURITY_PROTOCOL": "TLS"},
            ("ESPER_KAFKA__SECURITY_PROTOCOL has an invalid value: input should be 'PLAINTEXT'"),
        ),
        ({"KAFKA__SECURITY_PROTOCOL": "SSL"}, "set ESPER_KAFKA__BOOTSTRAP too"),
        ({"KAFKA__OPTIONS": "{"}, "The settings cannot be read"),
        ({"KAFKA__OPTIONS": '{"socket.timeout": 3}'}, "did you mean socket.timeout.ms?"),
        (
            {"KAFKA__OPTIONS": '{"client.rack": "a"}'},
            ("has 'client.rack', which Esper's two Kafka clients cannot both honour"),
        ),
        (
            {"KAFKA__OPTIONS": '{"enable.idempotence": false}'},
            ("has 'enable.idempotence', which Esper's two Kafka clients cannot both"),
        ),
        (
            {"KAFKA__BOOTSTRAP": "x:1", "KAFKA__SASL_USERNAME": "me"},
            ("ESPER_KAFKA__SASL_USERNAME needs ESPER_KAFKA__SECURITY_PROTOCOL to be SASL"),
        ),
        (
            {"KAFKA__BOOTSTRAP": "x:1", "KAFKA__CA": "/ca.pem"},
            ("ESPER_KAFKA__CA needs ESPER_KAFKA__SECURITY_PROTOCOL to be SSL or SASL_SSL"),
        ),
    ],
)
def test_a_setting_that_cannot_be_is_one_sentence_that_names_its_variable(
    environment: dict[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No process shows a ValidationError, and none starts with a setting that it does not know."""
    for name, value in environment.items():
        monkeypatch.setenv(f"ESPER_{name}", value)
    with pytest.raises(UsageError) as raised:
        Settings.load()
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_secret_is_in_no_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal names variables, never what they hold."""
    monkeypatch.setenv("ESPER_KAFKA__SASL_PASSWORD", "hunter2")
    with pytest.raises(UsageError) as raised:
        Settings.load()
    assert "hunter2" not in repr(raised.value)
    assert raised.value.__cause__ is None


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            SCRAM,
            "SCRAM-SHA-512 needs ESPER_KAFKA__SASL_PASSWORD or ESPER_KAFKA__SASL_PASSWORD_FILE",
        ),
        ({**SCRAM, "sasl_password": "a", "sasl_password_file": "b"}, "exclude each other"),
        ({**SCRAM, "sasl_mechanism": ""}, "needs ESPER_KAFKA__SASL_MECHANISM"),
        ({**SCRAM, "sasl_username": "", "sasl_password": "a"}, "needs ESPER_KAFKA__SASL_USERNAME"),
        (
            {**SCRAM, "sasl_password": "a", "oauth_scope": "x"},
            "ESPER_KAFKA__OAUTH_SCOPE needs ESPER_KAFKA__SASL_MECHANISM=OAUTHBEARER",
        ),
        (
            {**SCRAM, "sasl_password": "a", "certificate": "c.pem"},
            "ESPER_KAFKA__CERTIFICATE and ESPER_KAFKA__PRIVATE_KEY go together",
        ),
        ({**BEARER, "oauth_client_secret": "a", "sasl_password": "b"}, "is not for OAUTHBEARER"),
        ({**BEARER}, "OAUTHBEARER needs ESPER_KAFKA__OAUTH_CLIENT_SECRET or"),
        (
            {**BEARER, "oauth_client_secret": "a", "oauth_token_endpoint": ""},
            "OAUTHBEARER needs ESPER_KAFKA__OAUTH_TOKEN_ENDPOINT",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    settings: dict[str, Any], sentence: str
) -> None:
    """What is given and cannot be used is refused, and what is lacking is named."""
    with pytest.raises(ValidationError, match=re.escape(sentence)):
        KafkaSettings(**settings)


def test_both_clients_get_the_same_user_with_the_password_that_stands_in_the_file_now(
    tmp_path: Path,
) -> None:
    """{principal} is the part's own name, in the user and in the file.

    A rotated password is in the next client.
    """
    (tmp_path / "tamiyo").write_text("first\n")
    access = Access(
        KafkaSettings(**SCRAM, sasl_password_file=str(tmp_path / "{principal}")), "tamiyo"
    )
    for password in ("first", "second"):
        (tmp_path / "tamiyo").write_text(f"{password}\n")
        librdkafka, aiokafka, faust = access.librdkafka(), options(access), credentials(access)
        assert (librdkafka["sasl.username"], librdkafka["sasl.password"]) == ("tamiyo", password)
        assert (aiokafka["sasl_plain_username"], aiokafka["sasl_plain_password"]) == (
            "tamiyo",
            password,
        )
        assert isinstance(faust, auth.SASLCredentials)
        assert (faust.username, faust.password, faust.mechanism.value) == (
            "tamiyo",
            password,
            "SCRAM-SHA-512",
        )
        assert faust.ssl_context is not None
    (tmp_path / "tamiyo").unlink()
    with pytest.raises(UsageError, match="ESPER_KAFKA__SASL_PASSWORD_FILE names, cannot be read"):
        access.librdkafka()
    (tmp_path / "tamiyo").touch()
    with pytest.raises(UsageError, match="is empty"):
        access.librdkafka()


def test_mutual_tls_reaches_both_clients(tmp_path: Path, pem: tuple[Path, Path]) -> None:
    """Certificate and key of a principal, by its name; librdkafka takes the configuration."""
    chain, private = pem
    kafka = KafkaSettings(
        bootstrap="kafka:9093",
        security_protocol="SSL",
        ca=str(chain),
        certificate=str(tmp_path / "{principal}.pem"),
        private_key=str(tmp_path / "{principal}.key"),
        options={"ssl.endpoint.identification.algorithm": "none"},
    )
    access = Access(kafka, "trainer")
    librdkafka = access.librdkafka()
    Producer(librdkafka)
    assert librdkafka["ssl.certificate.location"] == str(chain)
    assert librdkafka["ssl.key.location"] == str(private)
    context = access.ssl_context()
    assert context is not None
    assert not context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert isinstance(credentials(access), auth.SSLCredentials)
    with pytest.raises(UsageError, match="ESPER_KAFKA__CERTIFICATE names, cannot be read"):
        Access(kafka, "nobody").ssl_context()


def test_an_openid_client_reaches_both_clients() -> None:
    """OAUTHBEARER: librdkafka fetches tokens itself, aiokafka by a provider of ours."""
    access = Access(
        KafkaSettings(**BEARER, oauth_client_secret=SecretStr("s"), oauth_scope="kafka"), "nissa"
    )
    librdkafka = access.librdkafka()
    Producer(librdkafka)
    assert librdkafka["sasl.oauthbearer.client.id"] == "esper-nissa"
    assert isinstance(options(access)["sasl_oauth_token_provider"], Tokens)
    assert isinstance(credentials(access), auth.OAuthCredentials)


@pytest.mark.parametrize("option", sorted(KAFKA_OPTIONS))
def test_an_option_that_is_listed_is_one_of_librdkafka_and_reaches_aiokafka(
    option: str, pem: tuple[Path, Path]
) -> None:
    """What the settings take, librdkafka knows, and the other client is made otherwise by it."""
    values = {
        "ssl.endpoint.identification.algorithm": "none",
        "ssl.cipher.suites": "ECDHE-ECDSA-AES256-GCM-SHA384",
    }
    value: str | int = values.get(option, str(pem[0]) if option == "ssl.crl.location" else 7_000)
    kafka = KafkaSettings(bootstrap="kafka:9093", security_protocol="SSL")
    plain, other = (
        Access(kafka, ""),
        Access(kafka.model_copy(update={"options": {option: value}}), ""),
    )
    Producer(other.librdkafka())
    assert _visible(options(plain)) != _visible(options(other))


def _visible(taken: dict[str, Any]) -> dict[str, Any]:
    context: ssl.SSLContext = taken["ssl_context"]
    ciphers = [one["name"] for one in context.get_ciphers()]
    return {**taken, "ssl_context": (context.check_hostname, context.verify_flags, ciphers)}
