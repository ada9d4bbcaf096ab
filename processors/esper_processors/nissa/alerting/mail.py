"""The route by e-mail (SMTP)."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Sequence
from contextlib import suppress
from email.message import EmailMessage

from esper.anomalies.anomaly import Severity
from esper.config import AlertSettings
from esper.errors import printable
from esper.events.records import AlertResolved
from esper_processors.nissa.alerting.instants import text_of
from esper_processors.nissa.alerting.notices import Notice
from esper_processors.nissa.alerting.routes import TIMEOUT_S, DeliveryError, sentence_of
from esper_processors.nissa.alerting.secret_files import secret_in

_SUBJECT = 150
"""Characters of a subject that mail programs show."""
_PORT = 25


class Mail:
    """Sends a mail for each notice."""

    name = "mail"
    resends = False

    def __init__(self, settings: AlertSettings) -> None:
        self.severity: Severity = settings.mail_severity
        self._settings = settings

    def deliver(self, notices: Sequence[Notice]) -> None:
        """Send them in one connection.

        Raises:
            DeliveryError: the server does not answer, or refuses.
        """
        settings = self._settings
        host, _, port = settings.smtp_server.partition(":")
        password = secret_in(settings.smtp_password_file) if settings.smtp_user else ""
        try:
            server = smtplib.SMTP(host, int(port or _PORT), timeout=TIMEOUT_S)
            try:
                if settings.smtp_starttls:
                    server.starttls(context=ssl.create_default_context())
                if settings.smtp_user:
                    server.login(settings.smtp_user, password)
                for notice in notices:
                    server.send_message(self._message(notice))
            finally:
                # what was taken is taken, however the server says goodbye
                with suppress(OSError, smtplib.SMTPException):
                    server.quit()
        except smtplib.SMTPResponseException as error:
            # RFC 5321, 4.2.1: 4yz asks to try again, 5yz not to
            said = error.smtp_error
            text = said.decode(errors="replace") if isinstance(said, bytes) else said
            raise DeliveryError(
                f"{host} answers with {error.smtp_code}: {text}.", transient=error.smtp_code < 500
            ) from None
        except smtplib.SMTPRecipientsRefused as error:
            raise DeliveryError(
                f"{host} takes no mail for {', '.join(error.recipients)}.", transient=False
            ) from None
        except smtplib.SMTPNotSupportedError as error:
            raise DeliveryError(
                f"{host} cannot do what is set: {error}.", transient=False
            ) from None
        except (OSError, smtplib.SMTPException) as error:
            raise DeliveryError(f"{host} does not answer: {error}.", transient=True) from None

    def _message(self, notice: Notice) -> EmailMessage:
        mail = EmailMessage()
        mail["From"] = self._settings.mail_from
        mail["To"] = self._settings.mail_to
        # one line: a name that somebody chose cannot add headers
        mail["Subject"] = f"[Esper] {sentence_of(notice)}"[:_SUBJECT]
        mail["Message-ID"] = f"<{notice.event_id}@esper.invalid>"
        mail.set_content(_text(notice))
        return mail


def _text(notice: Notice) -> str:
    """What a mail says."""
    lines = [
        printable(notice.sentence),
        "",
        f"Severity:  {notice.severity}",
        f"Detector:  {notice.detector}",
        f"Run:       {notice.run_id or 'none: it is about the stack'}",
    ]
    if notice.layer:
        seed = f"[{notice.seed}]" if notice.seed >= 0 else ""
        lines.append(f"Layer:     {printable(notice.layer)}{seed}")
    if notice.step >= 0:
        lines.append(f"Step:      {notice.step:,} (epoch {notice.epoch})")
    lines.append(f"Since:     {text_of(notice.raised_at)}")
    if isinstance(notice, AlertResolved):
        lines.append(f"Over:      {text_of(notice.resolved_at)} ({notice.why})")
    lines += [f"Anomalies: {notice.count:,}", f"Events:    {', '.join(notice.evidence) or 'none'}"]
    return "\n".join(lines) + "\n"
