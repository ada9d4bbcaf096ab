"""Settings of the installation: where things are and which ports they take.

Recipes, which say what to train, are in `esper.tolaria`.

Values come from keyword arguments, then the environment (`ESPER_KAFKA__BOOTSTRAP`, `ESPER_HOME`,
...), then the defaults below. Nothing is read at import: a process calls `Settings.load()` once, in
its entry point, and passes the result on.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from esper.errors import UsageError
from esper.private import make_files_private, tighten

SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SaslMechanism = Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]

KAFKA_QUOTAS: Final = (
    "producer_byte_rate",
    "consumer_byte_rate",
    "request_percentage",
    "controller_mutation_rate",
)
"""Quotas of principals that Kafka knows: bytes a second, percent of a broker's threads, changes of
partitions a second.
"""
KAFKA_OPTIONS: Final[Mapping[str, str]] = {
    "ssl.endpoint.identification.algorithm": (
        "https or none: whether a broker's certificate has to carry its name"
    ),
    "ssl.cipher.suites": "cipher suites, in OpenSSL's notation",
    "ssl.crl.location": "PEM file of revoked certificates",
    "socket.timeout.ms": "milliseconds after which a request counts as unanswered",
    "metadata.max.age.ms": "milliseconds after which the cluster's layout is asked for again",
    "connections.max.idle.ms": "milliseconds after which an unused connection is closed",
}
"""Options of librdkafka that both of Esper's clients, confluent-kafka and aiokafka, can honour."""


_PREFIX: Final = "ESPER_"
_PLAIN: Final = frozenset({"ESPER_DEBUG", "ESPER_LISTEN_FDS"})
_FREE: Final = ("ESPER_CHAOS_", "ESPER_FUZZ", "ESPER_TEST_")
"""What the variables of tests begin with."""
_NEAR: Final = 0.85


def _expanded(path: Path) -> Path:
    """A path with `~` as the user's own folder: no shell has expanded it in an environment file."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError(f"{path} names a user that is not known here") from None


def _home(path: Path) -> Path:
    if not path.parts:
        raise ValueError("ESPER_HOME is empty; unset it, or name a folder")
    return _expanded(path)


PathText = Annotated[
    str, AfterValidator(lambda text: str(_expanded(Path(text))) if text[:1] == "~" else text)
]
"""A file, a folder or the URL of a store."""


class KafkaSettings(BaseModel):
    """Which Kafka to use."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bootstrap: str = Field(
        default="",
        description=(
            "host:port[,host:port] of a cluster; empty means the embedded broker of the local stack"
        ),
    )
    partitions: int = Field(
        default=4, ge=1, description="partitions of topics that topics.toml does not size"
    )
    replication: int = Field(
        default=1,
        ge=1,
        description="replication factor of the topics that Esper creates; 3 on a real cluster",
    )
    min_insync: int = Field(
        default=0,
        ge=0,
        description=(
            "replicas that have a message before it counts as written; 0 means all but one of "
            "several"
        ),
    )
    quotas: str = Field(
        default="viewer.consumer_byte_rate=33554432,viewer.request_percentage=50,operator.request_percentage=50",
        description=(
            "what principals may use of each broker, as principal.quota=number with commas "
            "between; `esper topics apply` sets it"
        ),
    )
    security_protocol: SecurityProtocol = Field(
        default="PLAINTEXT", description="PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL"
    )
    sasl_mechanism: SaslMechanism = Field(
        default="", description="PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER"
    )
    sasl_username: str = Field(
        default="",
        description="the user; {principal} in it is the part's own name, such as trainer or tamiyo",
    )
    sasl_password: SecretStr = Field(default=SecretStr(""), description="its password")
    sasl_password_file: PathText = Field(
        default="",
        description=(
            "the file of its password, read anew when a client connects; {principal} as in "
            "sasl_username"
        ),
    )
    oauth_token_endpoint: str = Field(
        default="", description="OAUTHBEARER: URL of the token endpoint of an OpenID provider"
    )
    oauth_client_id: str = Field(
        default="", description="OAUTHBEARER: the client id; {principal} as in sasl_username"
    )
    oauth_client_secret: SecretStr = Field(
        default=SecretStr(""), description="OAUTHBEARER: the client secret"
    )
    oauth_client_secret_file: PathText = Field(
        default="", description="OAUTHBEARER: the file of the client secret; {principal} as above"
    )
    oauth_scope: str = Field(default="", description="OAUTHBEARER: the scope to ask for")
    ca: PathText = Field(
        default="",
        description=(
            "PEM file of the authorities that brokers' certificates are held against; empty: "
            "the system's"
        ),
    )
    certificate: PathText = Field(
        default="",
        description="PEM file of the client's certificate chain; {principal} as in sasl_username",
    )
    private_key: PathText = Field(
        default="",
        description="PEM file of that certificate's private key; {principal} as in sasl_username",
    )
    private_key_password: SecretStr = Field(
        default=SecretStr(""), description="what the private key is encrypted with"
    )
    options: Mapping[str, str | int | float | bool] = Field(
        default={}, description=f"other options of librdkafka: {', '.join(KAFKA_OPTIONS)}"
    )

    @property
    def encrypted(self) -> bool:
        """Whether connections are TLS."""
        return self.security_protocol in {"SSL", "SASL_SSL"}

    @property
    def authenticated(self) -> bool:
        """Whether clients say who they are by SASL."""
        return self.security_protocol in {"SASL_PLAINTEXT", "SASL_SSL"}

    @field_validator("quotas")
    @classmethod
    def _numbers(cls, quotas: str) -> str:
        for entry in filter(None, (part.strip() for part in quotas.split(","))):
            name, _, value = entry.partition("=")
            principal, _, quota = name.partition(".")
            if (
                not principal
                or quota not in KAFKA_QUOTAS
                # `float` would take inf, nan, signs and exponents
                or not value.replace(".", "", 1).isdecimal()
            ):
                raise ValueError(
                    f"{entry!r} is not a quota: write principal.quota=number, with "
                    f"{', '.join(KAFKA_QUOTAS)}"
                )
        return quotas

    def limits(self) -> dict[str, dict[str, float]]:
        """The quotas by principal."""
        by_principal: dict[str, dict[str, float]] = {}
        for entry in filter(None, (part.strip() for part in self.quotas.split(","))):
            name, _, value = entry.partition("=")
            principal, _, quota = name.partition(".")
            by_principal.setdefault(principal, {})[quota] = float(value)
        return by_principal

    @field_validator("options")
    @classmethod
    def _known(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        for name in sorted(options.keys() - KAFKA_OPTIONS.keys()):
            near = difflib.get_close_matches(name, KAFKA_OPTIONS, n=1)
            hint = (
                f"did you mean {near[0]}?"
                if near
                else f"both can honour {', '.join(KAFKA_OPTIONS)}"
            )
            raise ValueError(
                f"ESPER_KAFKA__OPTIONS has {name!r}, which Esper's two Kafka clients "
                f"cannot both honour; {hint}"
            )
        return options

    @model_validator(mode="after")
    def _agree(self) -> Self:
        """Refuse settings that contradict each other: each in a sentence that names both."""
        for contradiction, sentence in self._contradictions():
            if contradiction:
                raise ValueError(sentence)
        return self

    def _contradictions(self) -> tuple[tuple[bool, str], ...]:
        sasl = [
            name
            for name in ("sasl_mechanism", "sasl_username", "sasl_password", "sasl_password_file")
            if name in self._given()
        ]
        oauth = [name for name in self._given() if name.startswith("oauth_")]
        tls = [
            name
            for name in ("ca", "certificate", "private_key", "private_key_password")
            if name in self._given()
        ]
        bearer = self.sasl_mechanism == "OAUTHBEARER"
        secured = self.security_protocol != "PLAINTEXT"
        return (
            (
                secured and not self.bootstrap,
                (
                    f"{_variable('security_protocol')} is for a cluster of yours: set "
                    f"{_variable('bootstrap')} too"
                ),
            ),
            (bool(sasl) and not self.authenticated, _without(sasl, "SASL_SSL or SASL_PLAINTEXT")),
            (bool(tls) and not self.encrypted, _without(tls, "SSL or SASL_SSL")),
            (
                self.authenticated and not self.sasl_mechanism,
                (
                    f"{_variable('security_protocol')}={self.security_protocol} needs "
                    f"{_variable('sasl_mechanism')}"
                ),
            ),
            (
                bool(oauth) and not bearer,
                (
                    f"{_variable(oauth[0] if oauth else '')} needs "
                    f"{_variable('sasl_mechanism')}=OAUTHBEARER"
                ),
            ),
            (
                bearer and len(sasl) > 1,
                (
                    f"{_variable(sasl[-1] if sasl else '')} is not for OAUTHBEARER, which "
                    f"takes {_variable('oauth_client_id')} and its secret"
                ),
            ),
            (
                bool(self.certificate) != bool(self.private_key),
                f"{_variable('certificate')} and {_variable('private_key')} go together",
            ),
            *self._secrets(),
        )

    def _secrets(self) -> tuple[tuple[bool, str], ...]:
        password, bearer = (
            self.authenticated and self.sasl_mechanism not in {"", "OAUTHBEARER"},
            self.sasl_mechanism == "OAUTHBEARER",
        )
        pairs = (
            ("sasl_username", "sasl_password", password),
            ("oauth_client_id", "oauth_client_secret", bearer),
        )
        present = self._given()
        return (
            (
                bearer and not self.oauth_token_endpoint,
                f"OAUTHBEARER needs {_variable('oauth_token_endpoint')}",
            ),
            *(
                (
                    secret in present and f"{secret}_file" in present,
                    f"{_variable(secret)} and {_variable(f'{secret}_file')} exclude each other",
                )
                for _, secret, _ in pairs
            ),
            *(
                (needed and name not in present, f"{self.sasl_mechanism} needs {_variable(name)}")
                for name, _, needed in pairs
            ),
            *(
                (
                    needed and not {secret, f"{secret}_file"} & present,
                    (
                        f"{self.sasl_mechanism} needs {_variable(secret)} or "
                        f"{_variable(f'{secret}_file')}"
                    ),
                )
                for _, secret, needed in pairs
            ),
        )

    def _given(self) -> set[str]:
        """The names of what is set to something."""
        return {
            name
            for name in type(self).model_fields
            if (value := getattr(self, name)) and (str(value) if name != "options" else value)
        }


class RegistrySettings(BaseModel):
    """A schema registry that speaks Confluent's protocol.

    With one, frames on Kafka carry its ids; without, Esper's own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(
        default="",
        description=(
            "address of the registry, with its path; empty means none: Esper serves its "
            "schemas itself"
        ),
    )
    username: str = Field(default="", description="user of Basic authentication; empty means none")
    password: SecretStr = Field(default=SecretStr(""), description="its password")
    password_file: PathText = Field(
        default="", description="the file that holds the password, instead of it"
    )
    ca: PathText = Field(
        default="",
        description=(
            "PEM file of the authorities that sign the registry's certificate; empty means the "
            "system's"
        ),
    )
    certificate: PathText = Field(
        default="", description="PEM file of a client certificate, for a registry that asks for one"
    )
    private_key: PathText = Field(
        default="",
        description="PEM file of its private key; empty means that the certificate's file holds it",
    )
    timeout_s: float = Field(default=10.0, gt=0, description="seconds that one request may take")


class PartSettings(BaseModel):
    """The HTTP port of one part, and where it answers when it runs elsewhere."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    port: int = Field(default=0, ge=0, le=65535, description="its port; 0 means a free one")
    url: str = Field(
        default="",
        description="with ESPER_PARTS=elsewhere: its address, such as https://history:8123",
    )


class HistorySettings(PartSettings):
    """Where the history lives, how it is served, and what one query and one caller may take."""

    dsn: str = Field(
        default="",
        description=(
            "a ClickHouse server, as clickhouse://user@host:port/database; empty means chDB in "
            "ESPER_HOME/history"
        ),
    )
    query_s: int = Field(default=60, ge=1, description="seconds that one query may take")
    memory_bytes: int = Field(
        default=2 << 30, ge=1 << 20, description="memory that one query may take, bytes"
    )
    result_rows: int = Field(default=10_000_000, ge=1, description="rows that one query may give")
    result_bytes: int = Field(
        default=256 << 20,
        ge=1 << 10,
        description="bytes that one query may give, before they are formatted",
    )
    queries: int = Field(default=4, ge=1, le=64, description="queries that run at once")
    caller_queries: int = Field(default=2, ge=1, description="of these, the most of one caller")
    caller_waiting: int = Field(
        default=16, ge=1, description="queries of one caller that run or wait; one more is refused"
    )


class UrzaSettings(PartSettings):
    """Where kernels and snapshots are stored."""

    store: PathText = Field(
        default="",
        description=(
            "the object store: a folder, or s3://bucket/prefix; empty means ESPER_HOME/store"
        ),
    )
    endpoint: str = Field(
        default="", description="URL of a server that speaks S3; empty means Amazon's"
    )
    cache: str = Field(
        default="",
        description=(
            "folder of the kernel cache that runs share; empty means ESPER_HOME/cache/kernels"
        ),
    )


class CheckpointSettings(BaseModel):
    """How snapshots are kept.

    The master key is taken from the first of these that is set, else from
    ESPER_HOME/keys/master.key.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    master_key: SecretStr = Field(
        default=SecretStr(""),
        description="32 random bytes in base64; while keys are rotated, the old one behind it",
    )
    master_key_command: str = Field(
        default="", description="a shell command that prints it, such as one of a key service"
    )
    keep_days: float = Field(
        default=7.0,
        gt=0,
        description="days after which a snapshot is deleted, unless its run is pinned or needs it",
    )
    cold_after_days: float = Field(
        default=1.0, gt=0, description="days after which it is moved to the cold store"
    )
    sweep_hours: float = Field(
        default=24.0,
        ge=0,
        description="hours between two sweeps (`esper gc`) by the stack; 0 means none by itself",
    )
    cold_store: PathText = Field(
        default="",
        description="the cold store: a folder, or s3://bucket/prefix; empty means ESPER_HOME/cold",
    )
    master_key_file: PathText = Field(
        default="",
        description=(
            "the file that holds it, made on first use; empty means ESPER_HOME/keys/master.key"
        ),
    )


class ImportSettings(BaseModel):
    """What is taken from outside: functions that a run from elsewhere may name, and how much is
    read of exports and other people's files.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    allow: str = Field(
        default="",
        description=(
            "module:function, blanks or commas between: functions of recipes from elsewhere "
            "that may run here"
        ),
    )
    files: int = Field(default=200_000, ge=1, description="most files of an export")
    file_mib: int = Field(default=65_536, ge=1, description="most MiB of one file")
    object_mib: int = Field(
        default=256,
        ge=1,
        description="most MiB of a kernel or a piece of a snapshot, packed or unpacked",
    )
    snapshot_mib: int = Field(
        default=4096, ge=1, description="most MiB that a snapshot of an export unpacks to"
    )
    journal_mib: int = Field(
        default=512, ge=1, description="most MiB that a journal file unpacks to"
    )
    block_mib: int = Field(
        default=32,
        ge=1,
        description="most MiB that a block of a journal file unpacks to, and that an event has",
    )
    json_mib: int = Field(default=32, ge=1, description="most MiB of a JSON text")
    json_depth: int = Field(default=64, ge=1, description="deepest nesting of a JSON text")
    header_mib: int = Field(
        default=16, ge=1, description="most MiB of the header of a safetensors file"
    )
    table_mib: int = Field(
        default=512, ge=1, description="most MiB that reading a Parquet file takes"
    )


AlertSeverity = Literal["WARNING", "CRITICAL"]


def _is_web_address(url: str) -> bool:
    if not url.isascii() or not url.isprintable() or " " in url:
        return False
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    known = parts.scheme in ("http", "https") and bool(parts.hostname)
    return known and "@" not in parts.netloc and port != 0


class AlertSettings(BaseModel):
    """Where Nissa sends alerts beside its log."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    log_severity: AlertSeverity = Field(
        default="WARNING", description="WARNING or CRITICAL: the least that Nissa's log has"
    )
    webhook_url: str = Field(
        default="", description="http or https URL that each alert is posted to as JSON"
    )
    webhook_secret_file: PathText = Field(
        default="", description="the file of the secret that these posts are signed with"
    )
    webhook_severity: AlertSeverity = Field(
        default="WARNING", description="WARNING or CRITICAL: the least that is posted"
    )
    alertmanager_url: str = Field(
        default="", description="http or https URL of an Alertmanager of Prometheus"
    )
    alertmanager_severity: AlertSeverity = Field(
        default="WARNING", description="WARNING or CRITICAL: the least that it is told"
    )
    mail_to: str = Field(
        default="", description="addresses, with commas between, that get a mail for each alert"
    )
    mail_from: str = Field(default="", description="the address that these mails come from")
    mail_severity: AlertSeverity = Field(
        default="WARNING", description="WARNING or CRITICAL: the least that is mailed"
    )
    smtp_server: str = Field(default="", description="host or host:port of the mail server")
    smtp_starttls: bool = Field(
        default=False, description="whether the connection to it is encrypted by STARTTLS"
    )
    smtp_user: str = Field(default="", description="the user that it asks for; empty for none")
    smtp_password_file: PathText = Field(default="", description="the file of that user's password")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        """Refuse what no alert could be sent by."""
        for name in ("webhook_url", "alertmanager_url"):
            url = getattr(self, name)
            if url and not _is_web_address(url):
                # without the URL: there may be a secret in it
                raise ValueError(
                    f"ESPER_ALERTS__{name.upper()} is no address; it begins with http:// or "
                    "https:// and a host, and has no user, no password and no space"
                )
        together = (
            ("webhook_url", "webhook_secret_file"),
            ("webhook_secret_file", "webhook_url"),
            ("mail_to", "smtp_server"),
            ("mail_to", "mail_from"),
            ("mail_from", "mail_to"),
            ("smtp_server", "mail_to"),
            ("smtp_user", "smtp_password_file"),
            ("smtp_user", "smtp_starttls"),
            ("smtp_password_file", "smtp_user"),
        )
        for one, other in together:
            if getattr(self, one) and not getattr(self, other):
                raise ValueError(
                    f"ESPER_ALERTS__{one.upper()} needs ESPER_ALERTS__{other.upper()} too"
                )
        port = self.smtp_server.partition(":")[2]
        if ":" in self.smtp_server and not (port.isdecimal() and 0 < int(port) < 65536):
            raise ValueError(
                "ESPER_ALERTS__SMTP_SERVER is no host:port; write it as mail.example.org:587"
            )
        return self


class ServiceSettings(BaseModel):
    """How every part serves HTTP: its keys, its certificate, and what one caller may ask of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keys: PathText = Field(
        default="",
        description="folder of the key pair that signs tokens; empty means ESPER_HOME/keys",
    )
    certificate: PathText = Field(
        default="", description="PEM file of the certificate chain; with it every part serves HTTPS"
    )
    private_key: PathText = Field(
        default="", description="PEM file of the certificate's private key"
    )
    bind: str = Field(
        default="127.0.0.1",
        description="the address that parts listen on; 0.0.0.0 in a container of its own",
    )
    hosts: str = Field(
        default="",
        description=(
            "host names, with commas between, by which parts are asked beside localhost; "
            "others are refused (DNS rebinding)"
        ),
    )
    body_bytes: int = Field(
        default=1 << 20, ge=1, description="the largest body of a request, bytes"
    )
    in_flight: int = Field(default=64, ge=1, description="requests that a part answers at once")
    rate: float = Field(
        default=100.0, gt=0, description="requests a second that one caller may send for long"
    )
    burst: int = Field(default=200, ge=1, description="requests that one caller may send at once")
    timeout_s: float = Field(
        default=30.0, gt=0, description="seconds in which a body must come and an answer must begin"
    )
    connections: int = Field(
        default=256,
        ge=8,
        description=(
            "connections that a part holds at once; beyond them the longest idle one is closed"
        ),
    )
    recipes: str = Field(
        default="",
        description=(
            "what operators may start over HTTP beside Esper's own recipes: folders of recipes "
            "(with a slash) and modules, separated by commas"
        ),
    )
    sockets: PathText = Field(
        default="",
        description=(
            "folder of the sockets that Esper's own programs use; empty means ESPER_HOME/sockets"
        ),
    )


def _variable(name: str) -> str:
    return f"ESPER_KAFKA__{name.upper()}"


def _without(names: Sequence[str], protocols: str) -> str:
    """The sentence for settings that the security protocol has no use for."""
    return (
        f"{_variable(names[0]) if names else ''} needs {_variable('security_protocol')} to be "
        f"{protocols}"
    )


class Settings(BaseSettings):
    """Everything that is set once for an installation."""

    model_config = SettingsConfigDict(
        env_prefix="ESPER_", env_nested_delimiter="__", extra="ignore", frozen=True
    )

    home: Annotated[Path, AfterValidator(_home)] = Field(
        default=Path(".esper"), description="folder of all data"
    )
    parts: Literal["local", "on_demand", "elsewhere"] = Field(
        default="local",
        description=(
            "on_demand: control API, Nissa and history start when somebody first asks them, which "
            "saves memory; elsewhere: commands start no stack, because each part runs in a "
            "container of its own"
        ),
    )
    kafka: KafkaSettings = KafkaSettings()
    registry: RegistrySettings = RegistrySettings()
    tolaria: PartSettings = PartSettings()
    tamiyo: PartSettings = PartSettings()
    nissa: PartSettings = PartSettings()
    history: HistorySettings = HistorySettings()
    urza: UrzaSettings = UrzaSettings()
    service: ServiceSettings = ServiceSettings()
    checkpoints: CheckpointSettings = CheckpointSettings()
    imports: ImportSettings = ImportSettings()
    alerts: AlertSettings = AlertSettings()

    @classmethod
    def load(cls, *, guest: bool = False) -> Self:
        """The settings of this process, from its environment.

        From here on what it writes is its owner's alone (see `esper.private`).

        A `guest` is Esper in a process of somebody else's: files that this process makes for itself
        stay as it wants them.

        Raises:
            UsageError: a variable has a value that cannot be, is unknown, or contradicts another;
                the sentence names it. Or the folder of all data is open to others, and nothing can
                be done about it.
        """
        _require_known(os.environ)
        settings = cls._read()
        if not guest:
            make_files_private()
        if changed := tighten(settings.home.resolve()):
            sys.stderr.write(f"esper: {changed}\n")
        return settings

    @classmethod
    def _read(cls) -> Self:
        try:
            return cls()
        except ValidationError as error:
            raise UsageError(
                _sentence(error)
            ) from None  # whose text shows values, and a secret may be among them
        except SettingsError as error:
            raise UsageError(
                f"The settings cannot be read: {error}; give a mapping as JSON, such as "
                f'\'{{"name": "value"}}\'.'
            ) from None

    @property
    def keys_dir(self) -> Path:
        """The key pair of this installation's tokens."""
        return (
            Path(self.service.keys).resolve() if self.service.keys else self.home.resolve() / "keys"
        )

    @property
    def kafka_keys_dir(self) -> Path:
        """Passwords of the embedded broker's principals, a file each."""
        return self.home.resolve() / "keys" / "kafka"

    @property
    def master_key_path(self) -> Path:
        """The file of the key that wraps the keys of snapshots."""
        path = self.checkpoints.master_key_file
        return Path(path).resolve() if path else self.home.resolve() / "keys" / "master.key"

    @property
    def audit_dir(self) -> Path:
        """What the audit trails of this machine have not sent yet, and where their chains have come
        to.
        """
        return self.home.resolve() / "audit"

    @property
    def schema_ids_path(self) -> Path:
        """The registry's ids of Esper's schemas, as they were found last."""
        return self.home.resolve() / "schema-ids.json"

    @property
    def scheme(self) -> str:
        """How parts are spoken to: https once there is a certificate, else http."""
        return "https" if self.service.certificate else "http"

    @property
    def sockets_dir(self) -> Path:
        """The Unix sockets by which Esper's own programs reach the parts."""
        return (
            Path(self.service.sockets).resolve()
            if self.service.sockets
            else self.home.resolve() / "sockets"
        )

    @property
    def stack_dir(self) -> Path:
        """State file, logs and data of the local stack."""
        return self.home.resolve() / "stack"

    @property
    def runs_dir(self) -> Path:
        """One folder a run: outbox, final model, state."""
        return self.home.resolve() / "runs"

    @property
    def data_dir(self) -> Path:
        """Data of recipes, made once for all runs that were begun here."""
        return self.home.resolve() / "data"

    @property
    def store_location(self) -> str:
        """The object store, of kernels and of tensors: a folder, or s3://bucket/prefix."""
        return self._location(self.urza.store, "store")

    @property
    def cold_location(self) -> str:
        """The store of snapshots that are old: a folder, or s3://bucket/prefix."""
        return self._location(self.checkpoints.cold_store, "cold")

    @property
    def swept_path(self) -> Path:
        """When the store was swept last, microseconds since 1970-01-01 UTC."""
        return self.home.resolve() / "swept"

    def _location(self, setting: str, name: str) -> str:
        if setting.startswith("s3://"):
            return setting
        return str(Path(setting).resolve() if setting else self.home.resolve() / name)

    @property
    def kernel_cache_dir(self) -> Path:
        """Verified kernels on the local disk, shared by all runs; it may be deleted at any time."""
        return (
            Path(self.urza.cache).resolve()
            if self.urza.cache
            else self.home.resolve() / "cache" / "kernels"
        )

    @property
    def history_dir(self) -> Path:
        """The chDB folder, owned by the history process alone."""
        return self.home.resolve() / "history"


def _require_known(environment: Mapping[str, str]) -> None:
    """Refuse variables that look like a setting and are none: what they were meant to change would
    silently stay as it is.

    Raises:
        UsageError: there is one; the sentence has the nearest right name.
    """
    variables = _variables()
    for name in sorted(environment):
        upper = name.upper()
        if (
            not upper.startswith(_PREFIX)
            or upper in variables
            or upper.startswith((*_FREE, *(f"{variable}__" for variable in variables)))
        ):
            continue
        near = difflib.get_close_matches(upper, variables, n=1, cutoff=_NEAR)
        if near or "__" in upper:
            hint = f"did you mean {near[0]}?" if near else "unset it."
            raise UsageError(f"{name} is not a setting of Esper: {hint}")
        sys.stderr.write(
            f"esper: {name} is not a variable of Esper and changes nothing; unset it.\n"
        )


def _variables() -> set[str]:
    """The names of all variables that mean something: a section's own takes it as JSON, and what is
    wrong inside one the section says itself.
    """
    names = set(_PLAIN)
    for section, field in Settings.model_fields.items():
        names.add(f"{_PREFIX}{section}".upper())
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names |= {
                f"{_PREFIX}{section}__{name}".upper() for name in field.annotation.model_fields
            }
    return names


def _sentence(error: ValidationError) -> str:
    """The first fault, by the variable that has it."""
    # without the input, which may be a secret
    fault = error.errors(include_url=False, include_input=False)[0]
    place = [str(part) for part in fault["loc"]]
    name = "ESPER_" + "__".join(place).upper()
    if fault["type"] == "extra_forbidden":
        section = Settings.model_fields[place[0]].annotation
        keys = (
            list(section.model_fields)
            if isinstance(section, type) and issubclass(section, BaseModel)
            else []
        )
        near = difflib.get_close_matches(place[-1], keys, n=1)
        hint = (
            f"did you mean ESPER_{place[0]}__{near[0]}?".upper().replace(
                "DID YOU MEAN", "did you mean"
            )
            if near
            else "unset it"
        )
        return f"{name} is not a setting of Esper: {hint}" + ("" if near else ".")
    if fault["type"] == "value_error":
        return f"{fault['ctx']['error']}."
    return f"{name} has an invalid value: {fault['msg'][0].lower()}{fault['msg'][1:]}."
