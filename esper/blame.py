"""Whose mistake an exception is: where a user's own code stands in its traceback.

A model, data function, task, optimizer or schedule is a user's, and what it raises is mended there,
not in Esper.
"""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from esper.errors import EsperError, UsageError, printable

T = TypeVar("T")
_OWN: Final = f"{Path(__file__).resolve().parent}/"
_LIBRARIES: Final = tuple(
    f"{Path(sysconfig.get_path(name)).resolve()}/"
    for name in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")
)
_PACKAGES: Final = {"site-packages", "dist-packages"}
_LONGEST: Final = 500  # characters of a message that is passed on


def own_code(what: str, call: Callable[[], T]) -> T:
    """`call()`, which runs a user's code; `what` names it in messages, such as `model = 'm:net'`.

    Raises:
        UsageError: it raised, or left the process; the sentence says what and where.
    """
    try:
        return call()
    except EsperError:
        raise
    except (Exception, SystemExit) as error:
        raise mistake(what, error) from error


def mistake(what: str, error: BaseException) -> UsageError:
    """What to tell the user whose code raised `error`."""
    where = place_of(error)
    remedy = f"in {where}; correct it there." if where else "; --debug shows where."
    return UsageError(f"{what} raised {said(error)}{' ' if where else ''}{remedy}")


def located(error: BaseException) -> str:
    """Where a user's own code raised `error`, in brackets for the end of a clause; else empty."""
    where = place_of(error)
    return f" ({where})" if where else ""


def said(error: BaseException) -> str:
    """Type and message of an exception, on one line, shortened."""
    message = " ".join(printable(str(error)).split())
    if len(message) > _LONGEST:
        message = f"{message[:_LONGEST]}..."
    return f"{type(error).__name__}: {message.rstrip('.') or 'no message'}"


def place_of(error: BaseException) -> str:
    """File and line of the innermost call in a user's own code; empty where there is none.

    Own is what is neither Esper's, nor Python's, nor an installed package's. A syntax error is
    where it is written.
    """
    if isinstance(error, SyntaxError) and error.filename and not is_foreign(error.filename):
        return f"{error.filename}, line {error.lineno}"
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not is_foreign(frame.filename)
    ]
    return f"{own[-1].filename}, line {own[-1].lineno}" if own else ""


def is_own(error: BaseException) -> bool:
    """Whether an exception that nobody expected was raised by a user's code, or by a library that
    it called: not by a line of Esper's.
    """
    frames = traceback.extract_tb(error.__traceback__)
    esper_s = bool(frames) and str(Path(frames[-1].filename).resolve()).startswith(_OWN)
    return bool(place_of(error)) and not esper_s


def is_foreign(filename: str) -> bool:
    """Whether a file of code is Esper's, Python's or an installed package's, or none at all."""
    # no file, such as <frozen importlib._bootstrap> or <string>
    if filename.startswith("<"):
        return True
    path = str(Path(filename).resolve())
    return path.startswith((_OWN, *_LIBRARIES)) or not _PACKAGES.isdisjoint(Path(path).parts)
