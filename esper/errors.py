"""The one error tree.

Classes are named for what the caller does next; a message is one sentence with the remedy.
"""

from __future__ import annotations


class EsperError(Exception):
    """Something that a user can mend.

    The command line prints the message alone and exits with `exit_code`.
    """

    exit_code = 1


class UsageError(EsperError):
    """Input that Esper cannot take: an unknown recipe, key, type or run."""

    exit_code = 2


class KeyMissingError(UsageError):
    """What is asked for is sealed under a key that is not at hand: give the key, or ask for what
    needs none.
    """


class UnavailableError(EsperError):
    """A part that is needed cannot be reached: no broker, no history, a port in use.

    Try again once it is back.
    """

    exit_code = 3


class DeniedError(UsageError):
    """A server knows the caller or refuses to, and does not let it do what it asked: give it the
    right or the right key, then try again.
    """


class BackpressureError(EsperError):
    """A bounded queue is full: slow down, or drop and count."""


class FencedError(EsperError):
    """Another writer has taken over this run: stop within a step and write nothing more."""

    exit_code = 4


class CorruptError(EsperError):
    """Bytes are not what their hash, schema or sequence says: refuse them, by name."""

    exit_code = 5


class StorageFullError(EsperError):
    """The disk has no room left: free some; nothing that was acknowledged is lost."""

    exit_code = 6


class PoisonError(EsperError):
    """One message cannot be decoded or applied: dead-letter it and go on with the next."""


class RejectedError(EsperError):
    """A command that the lifecycle or the guardrails do not allow in the present state.

    The state is unchanged.
    """


class BuildError(EsperError):
    """A blueprint that cannot be built or does not pass verification: try another configuration."""


def printable(text: str) -> str:
    """Text for a terminal: what is no printable character is written as its escape, so that a name
    cannot move the cursor or hide itself.
    """
    return "".join(
        character
        if character.isprintable() or character == "\n"
        else character.encode("unicode_escape").decode()
        for character in text
    )
