"""A supervisor with the real broker and real small HTTP parts: the supervisor of these tests, given
to `up` as its command line.
"""

from __future__ import annotations

import os
import sys

from esper.config import Settings
from esper.stack.processes.parts import Part
from esper.stack.supervisor import serve

PART = """
import http.server, os, socket, subprocess, sys, threading
# a child of the part, that nobody ends but the stack
subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"])
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
    def log_message(self, *_):
        pass
def serve(descriptor):
    server = http.server.HTTPServer(("127.0.0.1", 0), Health, bind_and_activate=False)
    server.socket = socket.socket(fileno=int(descriptor))
    server.serve_forever()
for descriptor in os.environ["ESPER_LISTEN_FDS"].split(","):
    threading.Thread(target=serve, args=(descriptor,)).start()
"""


def main() -> int:
    """One part that works, and one whose module does not exist."""
    settings = Settings()
    parts = (
        Part(
            "nissa",
            (sys.executable, "-I", "-S", "-c", PART),
            "ESPER_NISSA__PORT",
            9090,
            settings.nissa.port,
            silence_s=2.5,
            on_demand=settings.parts == "on_demand",
        ),
        Part(
            "tamiyo",
            (sys.executable, "-m", "esper_processors.no_such_part"),
            "ESPER_TAMIYO__PORT",
            8081,
            settings.tamiyo.port,
        ),
    )
    return serve(settings, parts, environment=os.environ, record_aot=False)


if __name__ == "__main__":
    sys.exit(main())
