"""How a broker receives a client of librdkafka: what it refuses becomes one sentence, and a changed
password reaches clients that live.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final, TypeVar

from confluent_kafka import KafkaError, KafkaException

from esper.errors import DeniedError, UsageError
from esper.oona.bus.access import Access

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_log.addHandler(
    logging.NullHandler()
)  # librdkafka's own lines must not tear a live view on the terminal

FORBIDDEN: Final = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "this topic",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "this consumer group",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "the cluster",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "this transactional id",
}
"""What the error codes of a missing right are about."""
_REFUSED: Final = frozenset(
    {
        KafkaError._AUTHENTICATION,  # noqa: SLF001
        KafkaError._SSL,  # noqa: SLF001
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
        KafkaError.ILLEGAL_SASL_STATE,
    }
)
_BAD_CERTIFICATE: Final = re.compile(
    "certificate|verif|alert|hostname", re.IGNORECASE
)  # the rest is a connection that broke
_KEPT: Final = 1_000
"""Errors and lines that a client says within one call; of more, the last ones."""
FATAL: Final = (KafkaException, SystemError)
"""How the client library raises a fatal error: SystemError where it has called a callback all the
same.
"""
_ROTATION_S: Final = 30.0
"""How long a client that was let in once is refused before it says so: a password may change at the
broker before it does in its file.
"""


class BrokerStanding:
    """What the clients of one bus share: whether the broker has ever let one in, and since when it
    refuses them.
    """

    def __init__(self) -> None:
        self.let_in = False
        self.refused_since: float | None = None


class CallbackQueue:
    """What a client of librdkafka says in callbacks, kept until the call that they came in has
    ended.

    confluent-kafka goes on to call back while a fatal error waits to be raised, and then every call
    that a callback makes acts and fails: a lock that it takes is never given back. So a callback
    puts what it is told into a queue, and does nothing else. Nor does it hold the client: in a
    cycle a client would live on unused, and destroyed within its own callback it would hang.
    """

    def __init__(self) -> None:
        # bounded, unlike deliveries: those are bounded by the producer's queue, and each has to be
        # counted
        self.errors: deque[KafkaError] = deque(maxlen=_KEPT)
        self.lines: deque[tuple[Any, ...]] = deque(maxlen=_KEPT)
        self.deliveries: deque[tuple[str, KafkaError | None, Any]] = deque()

    def error(self, error: KafkaError) -> None:
        """The client's `error_cb`."""
        self.errors.append(error)

    def log(self, *line: Any) -> None:
        """The client's `logger`: level, pattern and what stands in it."""
        self.lines.append(line)

    def delivery(self, topic: str) -> Callable[[KafkaError | None, Any], None]:
        """An `on_delivery` for messages to `topic`."""
        # the deque and not `self`, so that a client's callbacks hold nothing that holds the client
        deliveries = self.deliveries

        def note(error: KafkaError | None, message: Any) -> None:  # noqa: ARG001 - a call of its method may raise
            deliveries.append((topic, error, None))

        return note

    def message(self, error: KafkaError | None, message: Any) -> None:
        """An `on_delivery` that keeps the message, with the offset that it was given."""
        self.deliveries.append(("", error, message))


class ClientDoor:
    """How one client is received: lets a new password in when the broker refuses the old one, and
    remembers a refusal that stays.
    """

    def __init__(self, access: Access, standing: BrokerStanding) -> None:
        self.access = access
        self._standing = standing
        self.client: Any = None
        """The librdkafka client, once it is made."""
        self._password = ""
        self.told = CallbackQueue()
        self._lock = threading.Lock()
        self._inside = False
        self._refusal: KafkaError | None = None

    def config(self) -> dict[str, Any]:
        """What every client is made with.

        Raises:
            UsageError: a file that the settings name cannot be read.
        """
        config = {
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 1_000,
            "socket.keepalive.enable": True,
            "logger": self.told,
            "error_cb": self.told.error,
            **self.access.librdkafka(),
        }
        self._password = config.get("sasl.password", "")
        return config

    def let_in(self) -> None:
        """The broker has answered."""
        self.hear()
        # errors from before this answer are heard first, or they would refuse a client that is in
        if not self._inside:
            self._inside, self._refusal = True, None
            self._standing.let_in, self._standing.refused_since = True, None

    def hear(self) -> None:
        """Log what the client has said since, and remember whether the broker refuses it.

        Not for callbacks.
        """
        for line in drained(self.told.lines):
            _log.log(*line)
        for error in drained(self.told.errors):
            self._heed(error)

    def require(self) -> None:
        """Do nothing unless the broker refuses this client, and goes on to if it let it in before.

        Not for callbacks: see `renew`.

        A broker whose certificate stops being good is no refusal to who was let in before: it is
        away, as one that has died is.

        Raises:
            DeniedError: it does.
        """
        self.renew()
        refusal, since = self._refusal, self._standing.refused_since
        if refusal is None:
            return
        if self._standing.let_in:
            if refusal.code() == KafkaError._SSL:  # noqa: SLF001 - one broker's certificate has expired: it is away until it has a new one
                return
            if since is not None and time.monotonic() - since < _ROTATION_S:
                return
        raise self.refused(refusal)

    def renew(self) -> None:
        """Give a client that was refused the password that stands in the file now, if it is another
        one.

        Called between two calls of the client, never from a callback of it: a call within a call
        aborts the interpreter.
        """
        self.hear()
        if self._refusal is None:
            return
        with self._lock:
            if self._renewed():
                self._refusal = None

    def refused(self, error: KafkaError) -> DeniedError:
        """The sentence for a connection that the broker did not accept."""
        return _refused(self.access, error)

    def forbidden(self, error: KafkaError, what: str = "") -> DeniedError:
        """The sentence for what this principal has no right to.

        `what` is the operation with its object.
        """
        access = self.access
        return DeniedError(
            f"Kafka at {access.bootstrap} does not allow {access.user} to "
            f"{what or f'use {FORBIDDEN[error.code()]}'} ({_words(error)}): "
            "give it the right (`esper topics apply` does on your own cluster), or use the "
            "principal that has it."
        )

    def _heed(self, error: KafkaError) -> None:
        if error.code() not in _REFUSED or (
            error.code() == KafkaError._SSL and not _BAD_CERTIFICATE.search(error.str())  # noqa: SLF001
        ):
            return
        # shared by the bus's clients: a new client knows that the refusal is an old one
        if self._standing.refused_since is None:
            self._standing.refused_since = time.monotonic()
            _log.warning("%s", _refused(self.access, error))
        self._inside, self._refusal = False, error

    def _renewed(self) -> bool:
        """Whether the password's file holds another one than this client was refused with, which it
        uses from now on.
        """
        if not self._password or self.client is None:
            return False
        with suppress(UsageError):  # the file is being replaced
            password = self.access.password()
            # only another one: with the same, the refusal would be forgotten at each look and never
            # reported
            if password != self._password:
                self._password = password
                self.client.set_sasl_credentials(self.access.user, password)
                return True
        return False


def drained(queue: deque[_T]) -> Iterator[_T]:
    """What lies in a queue that another thread may fill or empty."""
    with suppress(IndexError):
        while True:
            yield queue.popleft()


def cause(error: BaseException) -> KafkaError:
    """What librdkafka said, of an error that one of its calls raised.

    Raises the error itself where that is another fault.
    """
    raised = error if isinstance(error, KafkaException) else error.__cause__
    if not isinstance(raised, KafkaException):
        raise error
    return raised.args[0]  # type: ignore[no-any-return]


def _refused(access: Access, error: KafkaError) -> DeniedError:
    """The sentence for a connection that the broker did not accept."""
    if error.code() == KafkaError._SSL:  # noqa: SLF001
        remedy = (
            "renew or correct ESPER_KAFKA__CA, ESPER_KAFKA__CERTIFICATE and "
            "ESPER_KAFKA__PRIVATE_KEY"
        )
    elif access.kafka.authenticated:
        remedy = (
            "put the right secret into the file that ESPER_KAFKA__SASL_PASSWORD_FILE (or the "
            "setting in its place) names, or correct ESPER_KAFKA__SASL_MECHANISM"
        )
    else:
        remedy = "set ESPER_KAFKA__SECURITY_PROTOCOL and what it needs"
    return DeniedError(
        f"Kafka at {access.bootstrap} does not let {access.user} in ({_words(error)}): {remedy}."
    )


def _words(error: KafkaError) -> str:
    """The client library's words without its address and its timing."""
    text = str(error.str()).partition("/bootstrap: ")[2] or str(error.str())
    return text.partition(" (after ")[0].strip().rstrip(".:")
