"""Settings of the installation: where things are and which ports they take. Recipes, which say what to train, are in `esper.tolaria`.

Values come from keyword arguments, then the environment (`ESPER_KAFKA__BOOTSTRAP`, `ESPER_HOME`, ...), then the defaults below.
Nothing is read at import: a process calls `Settings()` once, in its entry point, and passes the result on.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class KafkaSettings(BaseModel):
    """Which Kafka to use."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bootstrap: str = Field(default="", description="host:port[,host:port] of a cluster; empty means the embedded broker of the local stack")
    partitions: int = Field(default=4, ge=1, description="partitions of topics that topics.toml does not size")
    replication: int = Field(default=1, ge=1, description="replication factor of the topics that Esper creates; 3 on a real cluster")


class PartSettings(BaseModel):
    """The HTTP port of one part; 0 means a free one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    port: int = Field(default=0, ge=0, le=65535)


class HistorySettings(PartSettings):
    """Where the history lives and how it is served."""

    dsn: str = Field(
        default="", description="a ClickHouse server, as clickhouse://user@host:port/database; empty means chDB in ESPER_HOME/history"
    )


class UrzaSettings(PartSettings):
    """Where kernels and snapshots are stored."""

    store: str = Field(default="", description="the object store: a folder, or s3://bucket/prefix; empty means ESPER_HOME/store")
    endpoint: str = Field(default="", description="URL of a server that speaks S3; empty means Amazon's")
    cache: str = Field(default="", description="folder of the kernel cache that runs share; empty means ESPER_HOME/cache/kernels")


class CheckpointSettings(BaseModel):
    """How snapshots are kept. The master key is taken from the first of these that is set, else from ESPER_HOME/keys/master.key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    master_key: SecretStr = Field(
        default=SecretStr(""), description="32 random bytes in base64; while keys are rotated, the old one behind it"
    )
    master_key_command: str = Field(default="", description="a shell command that prints it, such as one of a key service")
    keep_days: float = Field(default=7.0, gt=0, description="days after which a snapshot is deleted, unless its run is pinned or needs it")
    cold_after_days: float = Field(default=1.0, gt=0, description="days after which it is moved to the cold store")
    sweep_hours: float = Field(default=24.0, ge=0, description="hours between two sweeps (`esper gc`) by the stack; 0 means none by itself")
    cold_store: str = Field(default="", description="the cold store: a folder, or s3://bucket/prefix; empty means ESPER_HOME/cold")
    master_key_file: str = Field(
        default="", description="the file that holds it, made on first use; empty means ESPER_HOME/keys/master.key"
    )


class ServiceSettings(BaseModel):
    """How every part serves HTTP: its keys, its certificate, and what one caller may ask of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keys: str = Field(default="", description="folder of the key pair that signs tokens; empty means ESPER_HOME/keys")
    certificate: str = Field(default="", description="PEM file of the certificate chain; with it every part serves HTTPS")
    private_key: str = Field(default="", description="PEM file of the certificate's private key")
    body_bytes: int = Field(default=1 << 20, ge=1, description="the largest body of a request, bytes")
    in_flight: int = Field(default=64, ge=1, description="requests that a part answers at once")
    rate: float = Field(default=100.0, gt=0, description="requests a second that one caller may send for long")
    burst: int = Field(default=200, ge=1, description="requests that one caller may send at once")
    timeout_s: float = Field(default=30.0, gt=0, description="seconds in which a body must come and an answer must begin")


class Settings(BaseSettings):
    """Everything that is set once for an installation."""

    model_config = SettingsConfigDict(env_prefix="ESPER_", env_nested_delimiter="__", extra="ignore", frozen=True)

    home: Path = Field(default=Path(".esper"), description="folder of all data")
    kafka: KafkaSettings = KafkaSettings()
    tolaria: PartSettings = PartSettings()
    tamiyo: PartSettings = PartSettings()
    nissa: PartSettings = PartSettings()
    history: HistorySettings = HistorySettings()
    urza: UrzaSettings = UrzaSettings()
    service: ServiceSettings = ServiceSettings()
    checkpoints: CheckpointSettings = CheckpointSettings()

    @property
    def keys_dir(self) -> Path:
        """The key pair of this installation's tokens."""
        return Path(self.service.keys).resolve() if self.service.keys else self.home.resolve() / "keys"

    @property
    def master_key_path(self) -> Path:
        """The file of the key that wraps the keys of snapshots."""
        given = self.checkpoints.master_key_file
        return Path(given).resolve() if given else self.home.resolve() / "keys" / "master.key"

    @property
    def audit_dir(self) -> Path:
        """What the audit trails of this machine have not sent yet, and where their chains have come to."""
        return self.home.resolve() / "audit"

    @property
    def scheme(self) -> str:
        """How parts are spoken to: https once there is a certificate, else http."""
        return "https" if self.service.certificate else "http"

    @property
    def stack_dir(self) -> Path:
        """State file, logs and data of the local stack."""
        return self.home.resolve() / "stack"

    @property
    def runs_dir(self) -> Path:
        """One folder a run: outbox, final model, state."""
        return self.home.resolve() / "runs"

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

    def _location(self, given: str, name: str) -> str:
        if given.startswith("s3://"):
            return given
        return str(Path(given).resolve() if given else self.home.resolve() / name)

    @property
    def kernel_cache_dir(self) -> Path:
        """Verified kernels on the local disk, shared by all runs; it may be deleted at any time."""
        return Path(self.urza.cache).resolve() if self.urza.cache else self.home.resolve() / "cache" / "kernels"

    @property
    def history_dir(self) -> Path:
        """The chDB folder, owned by the history process alone."""
        return self.home.resolve() / "history"
