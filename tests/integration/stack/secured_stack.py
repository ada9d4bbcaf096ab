"""A supervisor with the real broker, the real history and the real foundry: a stack without the
processors.
"""

from __future__ import annotations

import os
import sys

from esper.config import Settings
from esper.stack.processes.parts import default_parts
from esper.stack.supervisor import serve

if __name__ == "__main__":
    settings = Settings()
    parts = [part for part in default_parts(settings) if part.name in {"history", "foundry"}]
    sys.exit(serve(settings, parts, environment=os.environ, record_aot=False))
