"""Claims about what Esper's processes write to their logs."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.waiting import PATIENCE_S

SCRIPT = """
import logging
import esper
assert not logging.getLogger().handlers, "an import configures nothing"
from esper import logs
logs.configure()
logging.getLogger("esper.history").info("serving at %s", "a url")
logging.getLogger("esper.oona.bus.kafka").info("an outage")
logging.getLogger("somebody").info("small talk")
logging.getLogger("somebody").warning("trouble")
quoted = "quoted\\n2026-01-01T00:00:00.000Z INFO esper.stack: forged \\x1b[31m"
logging.getLogger("esper.stack").warning("%s", quoted)
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("esper.tezzeret").exception("crashed")
"""


def test_every_process_writes_one_form_of_line() -> None:
    """Esper's notes and everybody's warnings, in UTC, a line each.

    Nothing that is quoted begins a line; a traceback follows its message.
    """
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    )
    lines = done.stderr.splitlines()
    stamped = [
        line.partition(" ")
        for line in lines
        if re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ", line)
    ]
    assert [rest for _, _, rest in stamped] == [
        "INFO esper.history: serving at a url",
        "WARNING somebody: trouble",
        r"WARNING esper.stack: quoted\n2026-01-01T00:00:00.000Z INFO esper.stack: forged \x1b[31m",
        "ERROR esper.tezzeret: crashed",
    ]
    assert lines[-1] == "ZeroDivisionError: division by zero"
    assert done.stdout == ""
