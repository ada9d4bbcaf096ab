"""A schema registry that speaks Confluent's protocol: asked for the ids of Esper's schemas, and
given those that it lacks.

Source: Confluent Schema Registry API reference. Subjects are named by TopicRecordName, as Esper's
own registry names them.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from fastavro.schema import (
    SchemaParseException,
    UnknownType,
    parse_schema,
    to_parsing_canonical_form,
)

from esper.config import RegistrySettings
from esper.errors import UnavailableError, UsageError
from esper.events.schemas import WireSchema

MEDIA_TYPE: Final = "application/vnd.schemaregistry.v1+json"
_LARGEST_ANSWER: Final = 4 << 20  # bytes; Esper's largest schema has 20 KB


class Registry:
    """The registry of the settings.

    Every request has a time-out, and opens a connection of its own.
    """

    def __init__(self, settings: RegistrySettings) -> None:
        self._settings = settings
        self.url = settings.url.rstrip("/")
        if urllib.parse.urlsplit(self.url).scheme not in {"http", "https"}:
            raise UsageError(
                f"ESPER_REGISTRY__URL is {settings.url!r}, which is not the http or "
                "https address of a schema registry."
            )

    def id_of(self, wire: WireSchema) -> int | None:
        """The id that the registry has given to a schema under its subject.

        None where it does not have it.

        Raises:
            UnavailableError: the registry does not answer, or not as a registry.
            UsageError: it refuses the credentials.
        """
        answer = self._ask(
            "POST", f"/subjects/{_quoted(wire.subject)}", {"schema": json.dumps(wire.schema)}
        )
        return None if answer is None else self._id(answer)

    def register(self, wire: WireSchema) -> int:
        """The id of a schema under its subject, which is registered where it is not yet.

        Raises as `id_of`.
        """
        answer = self._ask(
            "POST",
            f"/subjects/{_quoted(wire.subject)}/versions",
            {"schema": json.dumps(wire.schema)},
        )
        if answer is None:
            raise UnavailableError(
                f"{self.url} has no path /subjects: ESPER_REGISTRY__URL needs a registry's "
                "complete address, with its path."
            )
        return self._id(answer)

    def fingerprint(self, schema_id: int) -> str:
        """The SHA-256 of the parsing canonical form of the schema with this id.

        Empty where there is none, or no Avro schema. Raises as `id_of`.
        """
        answer = self._ask("GET", f"/schemas/ids/{schema_id}", None)
        try:
            schema = json.loads(answer["schema"]) if isinstance(answer, dict) else None
            return (
                ""
                if schema is None
                else hashlib.sha256(
                    to_parsing_canonical_form(parse_schema(schema)).encode()
                ).hexdigest()
            )
        except (KeyError, ValueError, TypeError, RecursionError, SchemaParseException, UnknownType):
            return ""

    def _id(self, answer: Any) -> int:
        number = answer.get("id") if isinstance(answer, dict) else None
        # four bytes of the frame hold it; JSON's true is an int in Python
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 1 << 32:
            raise UnavailableError(
                f"{self.url} answers without a schema id: ESPER_REGISTRY__URL does "
                "not name a schema registry."
            )
        return number

    def _ask(self, method: str, path: str, body: Any) -> Any:
        """The answer as JSON; None for 404."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310 -- checked at construction
            self.url + path, data=data, headers=self._headers, method=method
        )
        try:
            with self._opener.open(request, timeout=self._settings.timeout_s) as response:
                # bounded: an address that is no registry may send without end
                return json.loads(response.read(_LARGEST_ANSWER))
        except urllib.error.HTTPError as error:
            with error:
                if error.code == http.HTTPStatus.NOT_FOUND:
                    return None
                raise self._refused(error) from error
        except (ValueError, RecursionError) as error:
            raise UnavailableError(
                f"{self.url} does not answer in JSON: ESPER_REGISTRY__URL does not name "
                "a schema registry."
            ) from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise UnavailableError(
                f"The schema registry at {self.url} does not answer ({reason}): start it, "
                "or correct ESPER_REGISTRY__URL."
            ) from error

    def _refused(self, error: urllib.error.HTTPError) -> UsageError | UnavailableError:
        if error.code in {http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN}:
            who = self._settings.username or "an anonymous caller"
            return UsageError(
                f"The schema registry at {self.url} refuses {who} ({error.code}): correct "
                "ESPER_REGISTRY__USERNAME and __PASSWORD, "
                "or let that user read and register schemas."
            )
        return UnavailableError(
            f"The schema registry at {self.url} answers {error.code}: {_message(error)}"
        )

    @cached_property
    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": MEDIA_TYPE, "Accept": f"{MEDIA_TYPE}, application/json"}
        if self._settings.username:
            pair = f"{self._settings.username}:{self._password()}".encode()
            headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        return headers

    def _password(self) -> str:
        if not self._settings.password_file:
            return self._settings.password.get_secret_value()
        try:
            # only the line's end: spaces may belong to the password
            return Path(self._settings.password_file).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"ESPER_REGISTRY__PASSWORD_FILE {self._settings.password_file} cannot be "
                f"read: {error}."
            ) from error

    @cached_property
    def _opener(self) -> urllib.request.OpenerDirector:
        context = self._context() if self.url.startswith("https:") else None
        return urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), _Stay())

    def _context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self._settings.ca or None)
            if self._settings.certificate:
                context.load_cert_chain(
                    self._settings.certificate, self._settings.private_key or None
                )
        except (OSError, ssl.SSLError) as error:
            raise UsageError(
                "A PEM file of ESPER_REGISTRY__CA, __CERTIFICATE or __PRIVATE_KEY cannot "
                f"be used ({error}): name one that can."
            ) from error
        return context


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: urllib would take the credentials along to wherever it leads."""

    def redirect_request(self, *_: Any) -> None:
        """None: the redirection becomes an error."""


def _quoted(subject: str) -> str:
    # a slash in a subject would be another path
    return urllib.parse.quote(subject, safe="")


def _message(error: urllib.error.HTTPError) -> str:
    """What a registry says of its refusal, as one line."""
    try:
        answer = json.loads(error.read(_LARGEST_ANSWER))
        text = str(answer["message"])
    except (OSError, ValueError, RecursionError, KeyError, TypeError, http.client.HTTPException):
        text = str(error.reason)
    return " ".join(text.split())[:300]
