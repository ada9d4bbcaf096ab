"""TLS: the certificate that parts serve on their ports.

Esper's own programs need none: they come by the Unix sockets.
"""

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
        raise UsageError(
            "HTTPS needs both: ESPER_SERVICE__CERTIFICATE and ESPER_SERVICE__PRIVATE_KEY."
        )
    for path in (certificate, key):
        if not Path(path).is_file():
            raise UsageError(
                f"There is no file {path}: set ESPER_SERVICE__CERTIFICATE and "
                "ESPER_SERVICE__PRIVATE_KEY to PEM files."
            )
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
    return UsageError(
        f"The certificate {pair[0]} with the key {pair[1]} cannot be used ({error}): give "
        "PEM files that belong together."
    )


def asking(settings: Settings) -> ssl.SSLContext:
    """The context of Esper's own programs that ask parts elsewhere: they trust the very certificate
    that the settings name, and no other.

    Its names do not matter: whoever holds its private key is the part.

    Raises:
        UsageError: the settings name none, or it cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    # OpenSSL wants a chain up to a root otherwise, and the certificate need not be one
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(settings.service.certificate)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"The certificate {settings.service.certificate!r} cannot be read ({error}): "
            "set ESPER_SERVICE__CERTIFICATE to that of the parts."
        ) from error
    return context
