"""`python -m esper.service.transport.probe PORT [--ready]`: whether the part on this port lives, or
is ready. For containers, whose images have no curl.
"""

from __future__ import annotations

import http.client
import ssl
import sys

from esper.config import Settings

_ANSWER_S = 4.0
_OK = 200
_STARTING = 503


def main(arguments: list[str]) -> int:
    """The exit code: 0 if it lives, and with --ready if it is ready; else 1."""
    port, ready = int(arguments[0]), "--ready" in arguments
    tls = Settings.load().scheme == "https"
    connection: http.client.HTTPConnection = (
        http.client.HTTPSConnection("127.0.0.1", port, timeout=_ANSWER_S, context=_any())
        if tls
        else http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_S)
    )
    try:
        connection.request("GET", "/health")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 1
    finally:
        connection.close()
    return 0 if status == _OK or (status == _STARTING and not ready) else 1


def _any() -> ssl.SSLContext:
    """It sends no secret and only asks whether a part lives, so it takes any certificate, also one
    just replaced.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
