"""`python -m esper.stack`: the supervisor in the foreground.

`esper.stack.up` starts it in the background.
"""

from __future__ import annotations

import os
import sys

from esper.config import Settings
from esper.errors import EsperError
from esper.stack.processes.parts import default_parts
from esper.stack.supervisor import serve


def main() -> int:
    """Supervise until SIGTERM; the exit code."""
    try:
        settings = Settings.load()
    except EsperError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return serve(settings, default_parts(settings), environment=os.environ)


if __name__ == "__main__":
    sys.exit(main())
