"""How a principal reaches a Kafka cluster: the settings turned into what librdkafka takes, and into
what Python's ssl takes for aiokafka.

A principal is who the broker takes a process for: `trainer`, `tamiyo`, `viewer` and so on
(`esper.oona.bus.rights`). Secrets that stand in files are read when they are asked for, so that a
client made after a rotation has the new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from esper.config import KafkaSettings, Settings
from esper.errors import UsageError
from esper.oona.bus.wire import SAME, FrameCodec, frames_of

if TYPE_CHECKING:
    import ssl

_FILES: Final[Mapping[str, str]] = {
    "ca": "ssl.ca.location",
    "certificate": "ssl.certificate.location",
    "private_key": "ssl.key.location",
}


def password_file(folder: Path, principal: str) -> Path:
    """Where a principal's password for the embedded broker stands."""
    return folder / f"{principal}.password"


def embedded(settings: Settings, bootstrap: str) -> KafkaSettings:
    """How everybody reaches the embedded broker at `bootstrap`: each by the password of its own.

    SCRAM is mutual: a program that has taken the port learns no password, and cannot pass for the
    broker.
    """
    mine = {
        "bootstrap": bootstrap,
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_username": "{principal}",
        "sasl_password_file": str(password_file(settings.kafka_keys_dir, "{principal}")),
    }
    return settings.kafka.model_copy(update=mine)


@dataclass(frozen=True, slots=True)
class Access:
    """One principal's way to one cluster."""

    kafka: KafkaSettings
    principal: str
    frames: FrameCodec = SAME
    """How frames stand on this cluster: with a schema registry's ids, or with Esper's own."""

    @classmethod
    def plain(cls, bootstrap: str) -> Access:
        """To a cluster that asks nobody who they are."""
        return cls(KafkaSettings(bootstrap=bootstrap), "")

    @classmethod
    def of(cls, settings: Settings, principal: str, *, bootstrap: str = "") -> Access:
        """To the cluster of the settings, or else to the embedded broker of this installation,
        which answers at `bootstrap`.

        Raises:
            EsperError: there is a schema registry, and it does not say its ids
                (`esper.oona.bus.wire`).
        """
        return cls(
            settings.kafka if settings.kafka.bootstrap else embedded(settings, bootstrap),
            principal,
            frames_of(settings),
        )

    @property
    def bootstrap(self) -> str:
        """host:port[,host:port]."""
        return self.kafka.bootstrap

    @property
    def user(self) -> str:
        """Whom the broker takes this principal for, as far as the settings say."""
        if self.kafka.authenticated:
            return self._named(self.kafka.sasl_username or self.kafka.oauth_client_id)
        return (
            f"the holder of {self._named(self.kafka.certificate)}"
            if self.kafka.certificate
            else "an anonymous client"
        )

    def password(self) -> str:
        """The password of SASL PLAIN and SCRAM, or the client secret of OAUTHBEARER, as it stands
        in its file now.

        Raises:
            UsageError: the file cannot be read, or holds nothing.
        """
        kafka = self.kafka
        if kafka.sasl_mechanism == "OAUTHBEARER":
            return (
                self._secret("oauth_client_secret_file", kafka.oauth_client_secret_file)
                or kafka.oauth_client_secret.get_secret_value()
            )
        return (
            self._secret("sasl_password_file", kafka.sasl_password_file)
            or kafka.sasl_password.get_secret_value()
        )

    def librdkafka(self) -> dict[str, Any]:
        """The configuration of a client of confluent-kafka.

        Raises:
            UsageError: a file that the settings name cannot be read.
        """
        kafka = self.kafka
        config: dict[str, Any] = {
            "bootstrap.servers": kafka.bootstrap,
            "security.protocol": kafka.security_protocol.lower(),
        }
        config |= {
            name: str(value).lower() if isinstance(value, bool) else value
            for name, value in kafka.options.items()
        }
        config |= {option: path for name, option in _FILES.items() if (path := self._file(name))}
        if kafka.private_key_password.get_secret_value():
            config["ssl.key.password"] = kafka.private_key_password.get_secret_value()
        if not kafka.authenticated:
            return config
        config["sasl.mechanism"] = kafka.sasl_mechanism
        if kafka.sasl_mechanism != "OAUTHBEARER":
            return config | {"sasl.username": self.user, "sasl.password": self.password()}
        config |= {
            "sasl.oauthbearer.method": "oidc",
            "sasl.oauthbearer.token.endpoint.url": kafka.oauth_token_endpoint,
        }
        config |= {
            "sasl.oauthbearer.client.id": self.user,
            "sasl.oauthbearer.client.secret": self.password(),
        }
        if kafka.ca:
            # the token endpoint is reached through libcurl, which does not see ssl.ca.location
            config["https.ca.location"] = kafka.ca
        return config | ({"sasl.oauthbearer.scope": kafka.oauth_scope} if kafka.oauth_scope else {})

    def ssl_context(self) -> ssl.SSLContext | None:
        """The same for Python's ssl; None for connections in clear.

        Raises:
            UsageError: a file that the settings name cannot be read, or holds something else.
        """
        if not self.kafka.encrypted:
            return None
        import ssl  # noqa: PLC0415 - most installations talk to their own broker in clear

        options = self.kafka.options
        secret = self.kafka.private_key_password.get_secret_value()
        try:
            context = ssl.create_default_context(cafile=self._file("ca") or None)
            if certificate := self._file("certificate"):
                # without a password OpenSSL would ask for one on the terminal, and a part would
                # hang
                context.load_cert_chain(
                    certificate, self._file("private_key"), secret or (lambda: "")
                )
            if ciphers := options.get("ssl.cipher.suites"):
                context.set_ciphers(str(ciphers))
            if revoked := options.get("ssl.crl.location"):
                context.load_verify_locations(str(revoked))
                # a list of revoked certificates is loaded, but not looked at, without this flag
                context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        except (ssl.SSLError, OSError, ValueError) as error:
            raise UsageError(
                f"The TLS settings of Kafka cannot be used ({error}): see ESPER_KAFKA__CA, "
                "__CERTIFICATE and __PRIVATE_KEY."
            ) from error
        context.check_hostname = (
            str(options.get("ssl.endpoint.identification.algorithm", "https")) != "none"
        )
        return context

    def _named(self, text: str) -> str:
        return text.replace("{principal}", self.principal)

    def _file(self, name: str) -> str:
        """The path of a PEM file that a setting names; empty where it names none."""
        path = self._named(getattr(self.kafka, name))
        if path:
            # read to fail here by name: librdkafka's own error does not say which setting is wrong
            _read(path, name)
        return path

    def _secret(self, name: str, path: str) -> str:
        if not path:
            return ""
        secret = _read(self._named(path), name).strip()
        if not secret:
            raise UsageError(
                f"{self._named(path)}, which ESPER_KAFKA__{name.upper()} names, is empty: "
                "write the secret into it."
            )
        return secret


def _read(path: str, name: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UsageError(
            f"{path}, which ESPER_KAFKA__{name.upper()} names, cannot be read: {why}."
        ) from error
