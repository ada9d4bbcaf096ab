"""Say in one sentence what is wrong when this Python is too old for Esper."""

import sys

if sys.version_info < (3, 11):
    raise SystemExit(
        f"Esper needs Python 3.11 or newer; this is {sys.version.split()[0]}. Try: make "
        "PYTHON=python3.12 setup"
    )
