"""TLS: the certificate that parts serve, and how Esper's own programs trust it."""

from __future__ import annotations

import ssl
from pathlib import Path

from esper.config import Settings
from esper.errors import UsageError


def files(settings: Settings) -> tuple[str, str] | None:
    """Files of the certificate chain and of its private key; None where parts serve plain HTTP.

    Raises:
        UsageError: one is named without the other, or is not there.
    """
    certificate, key = settings.service.certificate, settings.service.private_key
    if not certificate and not key:
        return None
    if not certificate or not key:
        raise UsageError("HTTPS needs both: ESPER_SERVICE__CERTIFICATE and ESPER_SERVICE__PRIVATE_KEY.")
    for path in (certificate, key):
        if not Path(path).is_file():
            raise UsageError(f"There is no file {path}: set ESPER_SERVICE__CERTIFICATE and ESPER_SERVICE__PRIVATE_KEY to PEM files.")
    return certificate, key


def serving(settings: Settings) -> ssl.SSLContext | None:
    """The context of a server; None where parts serve plain HTTP.

    Raises:
        UsageError: the files cannot be used.
    """
    if (pair := files(settings)) is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(*pair)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise unusable(pair, error) from error
    return context


def unusable(pair: tuple[str, str], error: Exception) -> UsageError:
    """The sentence for files that OpenSSL does not take."""
    return UsageError(f"The certificate {pair[0]} with the key {pair[1]} cannot be used ({error}): give PEM files that belong together.")


def asking(settings: Settings) -> ssl.SSLContext:
    """The context of Esper's own programs: they trust the very certificate that the settings name, whoever issued it, and no other.

    Its names do not matter on the loopback interface: whoever holds its private key is the part.

    Raises:
        UsageError: the certificate cannot be read.
    """
    if not settings.service.certificate:
        return ssl.create_default_context()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(settings.service.certificate)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"The certificate {settings.service.certificate} cannot be read ({error}): set ESPER_SERVICE__CERTIFICATE."
        ) from error
    return context


def probing() -> ssl.SSLContext:
    """The context of a probe, which sends no secret and only asks whether a part lives: it takes any certificate, also one just replaced."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
