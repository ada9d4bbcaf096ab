"""`esper deploy secrets`: the certificates, passwords and keys that the files of `deploy/` need,
made on the machine of whoever deploys.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import os
import secrets as chance
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from esper.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    from esper.clock import Clock

BROKERS: Final = 3
PARTS: Final = ("tolaria", "tamiyo", "nissa", "history", "foundry")
OTHERS: Final = frozenset(
    {"root.pem", "kafka.pem", "registry.pem", "registry.key", "nissa.token", "grafana.admin"}
)
"""What the images of others read, whose users have ids of their own.

On this machine the folder keeps them from everybody else.
"""
_DAYS: Final = 825
_CA_DAYS: Final = 3650


def register(app: typer.Typer) -> None:
    """Add the command."""
    commands = typer.Typer(help="What the files of deploy/ need.", no_args_is_help=True)
    commands.callback()(lambda: None)
    commands.command("secrets")(secrets)
    app.add_typer(commands, name="deploy")


def secrets(
    folder: Annotated[
        Path, typer.Option("--to", metavar="DIR", help="A new folder, which only you can read.")
    ],
    *,
    namespace: Annotated[
        str,
        typer.Option("--namespace", help="The namespace of Kubernetes, for names in certificates."),
    ] = "esper",
    days: Annotated[
        int,
        typer.Option(
            "--days",
            min=1,
            max=_DAYS,
            help="How long certificates are good for; make new ones before.",
        ),
    ] = 365,
) -> None:
    """Make all secrets of a deployment: an authority with certificates, a password for each
    principal, keys. Overwrites nothing.
    """
    from esper.clock import SystemClock  # noqa: PLC0415 - `esper --help` waits for nothing that a command needs
    from esper.service.checks import tokens  # noqa: PLC0415 - as above
    from esper.service.transport import signing, token_keys  # noqa: PLC0415 - as above

    try:
        folder.mkdir(parents=True, mode=0o700)
    except FileExistsError:
        raise UsageError(
            f"{folder} exists already, and may hold the secrets of a deployment: give "
            "another name, or move it away."
        ) from None
    except OSError as error:
        raise UnavailableError(
            f"{folder} cannot be made ({error.strerror}): give a folder that can."
        ) from error
    for name, content in {**certificates(SystemClock(), namespace, days), **passwords()}.items():
        write(folder / name, content)
    token_keys.ensure(folder / "keys")
    signing.ensure_all(folder / "keys", SystemClock())
    token = tokens.own(
        folder / "keys",
        subject="prometheus",
        clock=SystemClock(),
        ttl=tokens.LONGEST["viewer"],
        audience=("nissa",),
    )
    write(folder / "nissa.token", token.encode())
    print(
        f"Wrote the secrets of a deployment to {folder}; certificates end in {days} days, "
        f"Prometheus' token in {tokens.LONGEST['viewer'].days} (docs/runbook.md renews it). "
        "Keep root.key away from the machines that run Esper."
    )


def write(path: Path, content: bytes) -> None:
    """Write a new secret, readable by others in the images that need that."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        os.fchmod(file.fileno(), 0o644 if path.name in OTHERS else 0o600)


def passwords() -> dict[str, bytes]:
    """Random secrets by file: a password for each principal of Kafka, the master key, and the
    environments of ClickHouse and of the store.
    """
    from esper.oona.bus.rights import OWNER, PRINCIPALS  # noqa: PLC0415 - as above

    files = {
        f"kafka/{principal}.password": chance.token_urlsafe(32)
        for principal in (OWNER, *PRINCIPALS)
    }
    writer, viewer, access, secret = (chance.token_urlsafe(24) for _ in range(4))
    files["master.key"] = base64.b64encode(chance.token_bytes(32)).decode()
    files["history.env"] = (
        f"ESPER_HISTORY__DSN=clickhouse://history:{writer}@clickhouse:8123/esper\n"
    )
    files["clickhouse.env"] = (
        f"CLICKHOUSE_HISTORY_SHA256={_sha256(writer)}\nCLICKHOUSE_VIEWER_SHA256={_sha256(viewer)}\n"
    )
    files["clickhouse-viewer.password"] = viewer
    files["grafana.admin"] = chance.token_urlsafe(24)
    files["s3.env"] = (
        f"AWS_ACCESS_KEY_ID={access}\nAWS_SECRET_ACCESS_KEY={secret}\nAWS_DEFAULT_REGION=us-east-1\n"
    )
    files["s3proxy.env"] = f"S3PROXY_IDENTITY={access}\nS3PROXY_CREDENTIAL={secret}\n"
    return {name: text.encode() for name, text in files.items()}


def certificates(clock: Clock, namespace: str, days: int) -> dict[str, bytes]:
    """PEM by file: the authority; a key with its certificate for brokers and for the administrator.

    Certificate and key apart for HTTP servers.
    """
    root = _issued("Esper's authority", None, (), clock, _CA_DAYS)
    brokers = [f"kafka-{number}" for number in range(BROKERS)]
    inside = [name for broker in brokers for name in (broker, *_full(f"{broker}.kafka", namespace))]
    broker = _issued("broker", root, [*inside, *_full("kafka", namespace)], clock, days)
    admin = _issued("admin", root, (), clock, days)
    files = {
        "root.pem": root[0],
        "root.key": root[1],
        "kafka.pem": broker[1] + broker[0],
        "admin.pem": admin[1] + admin[0],
    }
    for name, hosts in (("parts", PARTS), ("registry", ("registry",))):
        files[f"{name}.pem"], files[f"{name}.key"] = _issued(
            name, root, [full for host in hosts for full in _full(host, namespace)], clock, days
        )
    return files


def _full(host: str, namespace: str) -> tuple[str, ...]:
    return (
        host,
        f"{host}.{namespace}",
        f"{host}.{namespace}.svc",
        f"{host}.{namespace}.svc.cluster.local",
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _issued(
    name: str, root: tuple[bytes, bytes] | None, hosts: Sequence[str], clock: Clock, days: int
) -> tuple[bytes, bytes]:
    """A certificate and its key, as PEM; an authority where there is no `root`."""
    from datetime import UTC, datetime, timedelta  # noqa: PLC0415 - as above

    from cryptography import x509  # noqa: PLC0415 - as above
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415 - as above
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 - as above
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415 - as above
        Encoding,
        NoEncryption,
        PrivateFormat,
        load_pem_private_key,
    )
    from cryptography.x509.oid import ExtendedKeyUsageOID  # noqa: PLC0415 - as above

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    authority = x509.load_pem_x509_certificate(root[0]) if root else None
    signer: Any = load_pem_private_key(root[1], None) if root else key
    now = datetime.fromtimestamp(clock.now_us() / 1e6, UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority.subject if authority else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(
            x509.BasicConstraints(ca=root is None, path_length=0 if root is None else None),
            critical=True,
        )
        .add_extension(_usage(ca=root is None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    if root is not None:
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(
            x509.ExtendedKeyUsage(both if hosts else both[1:]), critical=False
        )
    if hosts:
        local = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        builder = builder.add_extension(
            x509.SubjectAlternativeName(
                [*map(x509.DNSName, dict.fromkeys((*hosts, "localhost"))), local]
            ),
            critical=False,
        )
    certificate = builder.sign(signer, hashes.SHA256())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM), private


def _usage(*, ca: bool) -> Any:
    from cryptography import x509  # noqa: PLC0415 - as above

    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
