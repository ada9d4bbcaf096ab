"""How the user calls this command, for lines that are to be typed next."""

from __future__ import annotations

import os
import shutil
import sys


def called() -> str:
    """`esper` where it is on the path; else the file that was called."""
    return "esper" if shutil.which("esper") else os.path.relpath(sys.argv[0])
