"""Secrets of routes, each read anew when it is used, so that it can be changed at any time."""

from __future__ import annotations

from pathlib import Path

from esper_processors.nissa.alerting.routes import DeliveryError


def secret_in(path: str) -> str:
    """The secret in a file, without white space around it.

    Raises:
        DeliveryError: there is none.
    """
    try:
        secret = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise DeliveryError(f"{path} cannot be read: {why}.", transient=False) from None
    if not secret:
        raise DeliveryError(f"{path} is empty: write the secret into it.", transient=False)
    return secret
