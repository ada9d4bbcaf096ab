"""Routes by HTTP: a webhook whose bodies are signed, and Alertmanager's API v2."""

from __future__ import annotations

import hashlib
import hmac
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from email.message import Message
from http.client import HTTPException
from typing import IO, Any, Final
from urllib.parse import urlsplit

from esper.anomalies.anomaly import Severity
from esper.clock import Clock
from esper.events.records import AlertResolved
from esper.json_text import json_text
from esper_processors.nissa.alerting.instants import text_of
from esper_processors.nissa.alerting.notices import Notice
from esper_processors.nissa.alerting.routes import TIMEOUT_S, DeliveryError, sentence_of
from esper_processors.nissa.alerting.secret_files import secret_in

TIMESTAMP: Final = "X-Esper-Timestamp"
SIGNATURE: Final = "X-Esper-Signature"
_EXPIRES_US: Final = 180_000_000
"""How long Alertmanager believes an alert that it is not told of again: three of our minutes."""
_LATER: Final = 500
"""From this status on it is the server's fault; and with 429 it asks for patience."""


def signature(secret: bytes, timestamp: str, body: bytes) -> str:
    """HMAC-SHA256 over timestamp, a full stop and body: an old request cannot be sent again under
    a new time.
    """
    digest = hmac.new(secret, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    return f"sha256={digest}"


def as_json(notice: Notice) -> dict[str, Any]:
    """A notice for other programs: every field of its event."""
    return {"event": notice.NAME, **notice.to_avro(), "summary": sentence_of(notice)}


class Webhook:
    """Posts each notice as JSON to a URL, signed with a secret that both sides know."""

    name = "webhook"
    resends = False

    def __init__(self, url: str, secret_file: str, severity: Severity, clock: Clock) -> None:
        self.severity = severity
        self._url, self._secret_file, self._clock = url, secret_file, clock

    def deliver(self, notices: Sequence[Notice]) -> None:
        """Post them one by one.

        Raises:
            DeliveryError: one was not taken.
        """
        secret = secret_in(self._secret_file).encode()
        for notice in notices:
            body = json_text(as_json(notice)).encode()
            stamp = str(self._clock.now_us() // 1_000_000)
            headers = {TIMESTAMP: stamp, SIGNATURE: signature(secret, stamp, body)}
            post(self._url, body, headers)


class Alertmanager:
    """Tells Prometheus' Alertmanager what holds and what is over, by its API v2."""

    name = "alertmanager"
    resends = True

    def __init__(self, url: str, severity: Severity, clock: Clock) -> None:
        self.severity = severity
        self._url = url.rstrip("/") + "/api/v2/alerts"
        self._clock = clock

    def deliver(self, notices: Sequence[Notice]) -> None:
        """Post them together.

        Raises:
            DeliveryError: they were not taken.
        """
        body = json_text([self._alert(notice) for notice in notices]).encode()
        post(self._url, body, {})

    def _alert(self, notice: Notice) -> dict[str, Any]:
        ends = (
            notice.resolved_at
            if isinstance(notice, AlertResolved)
            # a Nissa that is gone cannot say that it is over
            else self._clock.now_us() + _EXPIRES_US
        )
        labels = {
            "alertname": notice.detector,
            "severity": notice.severity.lower(),
            "run": notice.run_id,
            "layer": notice.layer,
            "seed": str(notice.seed) if notice.seed >= 0 else "",
            "job": "esper-nissa",
        }
        return {
            # to Alertmanager an empty label is none
            "labels": {name: value for name, value in labels.items() if value},
            "annotations": {"summary": notice.sentence, "alert_id": notice.alert_id},
            "startsAt": text_of(notice.raised_at),
            "endsAt": text_of(ends),
        }


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """An alert goes where the settings say, and nowhere that a server names."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Message,
        newurl: str,
    ) -> None:
        """None: the answer counts as an error."""
        del req, fp, code, msg, headers, newurl


def post(url: str, body: bytes, headers: Mapping[str, str]) -> None:
    """Post a JSON body.

    Raises:
        DeliveryError: the server does not answer, or answers with another status than 2xx.
    """
    # the rest of the URL may be a secret, as chat services have it
    host = urlsplit(url).netloc.rpartition("@")[2]
    request = urllib.request.Request(  # noqa: S310  # http or https: the settings refuse others
        url, body, {"Content-Type": "application/json", "User-Agent": "esper-nissa", **headers}
    )
    opener = urllib.request.build_opener(_NoRedirect)
    try:
        with opener.open(request, timeout=TIMEOUT_S):
            return
    except urllib.error.HTTPError as error:
        with error:
            code = error.code
        later = code >= _LATER or code == 429
        raise DeliveryError(f"{host} answers with status {code}.", transient=later) from None
    except HTTPException as error:
        # its text may repeat the URL
        kind = type(error).__name__
        raise DeliveryError(f"{host} does not answer in HTTP ({kind}).", transient=True) from None
    except OSError as error:
        raise DeliveryError(f"{host} does not answer: {error}.", transient=True) from None
