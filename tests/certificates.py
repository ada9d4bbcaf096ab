"""A certificate for 127.0.0.1, made by a certificate authority that only these tests know."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from esper.clock import SystemClock
from esper.config import ServiceSettings

Pair = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def authority() -> Pair:
    """A root certificate and its key."""
    return _issue("tests", None, ca=True)


def make(folder: Path, root: Pair, name: str = "part") -> ServiceSettings:
    """Settings with a certificate for 127.0.0.1 issued by `root`.

    Its files are `<name>.pem` and `<name>.key`.
    """
    certificate, key = _issue("esper", root, ca=False)
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    return ServiceSettings(
        certificate=str(folder / f"{name}.pem"), private_key=str(folder / f"{name}.key")
    )


def write(folder: Path, root: Pair) -> Path:
    """The root certificate as a file that clients trust."""
    path = folder / "root.pem"
    path.write_bytes(root[0].public_bytes(Encoding.PEM))
    return path


def pem(name: str, root: Pair, *, expired: bool = False) -> bytes:
    """A private key and its certificate for 127.0.0.1, as one file that Kafka and OpenSSL take."""
    certificate, key = _issue(name, root, ca=False, expired=expired)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private + certificate.public_bytes(Encoding.PEM)


def _usage(*, ca: bool) -> x509.KeyUsage:
    """What a key may be used for: an authority's signs certificates, a part's proves who it is."""
    never = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return x509.KeyUsage(digital_signature=not ca, key_cert_sign=ca, crl_sign=ca, **never)


def _issue(name: str, root: Pair | None, *, ca: bool, expired: bool = False) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.fromtimestamp(SystemClock().now_us() / 1e6, UTC)
    issuer, signer = (subject, key) if root is None else (root[0].subject, root[1])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now - timedelta(minutes=1) if expired else now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            _usage(ca=ca), critical=True
        )  # Python from 3.13 on refuses an authority that does not say that it may sign
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    if not ca:
        builder = builder.add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
    return builder.sign(signer, hashes.SHA256()), key
