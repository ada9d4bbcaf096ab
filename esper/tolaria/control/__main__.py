"""`python -m esper.tolaria.control`: Tolaria's control API.

Ends on SIGTERM or Ctrl-C, and its trainers with it.

`--embedded` says that this is a part of a stack with an embedded broker, which trainers find by
ESPER_HOME.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading

from esper import logs
from esper.clock import SystemClock
from esper.config import Settings
from esper.errors import EsperError, UsageError
from esper.oona.bus.access import Access
from esper.oona.bus.kafka import KafkaBus
from esper.oona.durable.audit_trail import AuditTrail
from esper.oona.inbound.dead_letters import DeadLetters
from esper.oona.inbound.intake import Intake
from esper.service import Server, create_app
from esper.service.transport.signing import Keyring
from esper.tolaria.control.api import Control, add_routes
from esper.tolaria.control.requests import SENDER, RequestSender
from esper.tolaria.control.run_ledger import RunLedger
from esper.tolaria.control.sweeping import Sweeps
from esper.tolaria.control.trainers import Trainers
from esper.tolaria.recipes.allowed import Allowed

_GRACE_S = 4.0
_log = logging.getLogger("esper.tolaria.control")


def main() -> int:
    """Serve until a signal comes; the exit code."""
    logs.configure()
    settings, clock = Settings.load(), SystemClock()
    if not settings.kafka.bootstrap:
        raise UsageError(
            "Tolaria's control API needs a broker: set ESPER_KAFKA__BOOTSTRAP, or start "
            "the whole stack with `esper up`."
        )
    signalled = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: signalled.set())
    bus = KafkaBus(Access.of(settings, SENDER))
    trainers = Trainers(
        settings, environment=os.environ, embedded="--embedded" in sys.argv[1:], clock=clock
    )
    with (
        bus.producer(sender_id=SENDER) as producer,
        AuditTrail(
            bus, sender_id=SENDER, clock=clock, folder=settings.audit_dir, keys=settings.keys_dir
        ) as trail,
    ):
        ledger = RunLedger(
            bus, Intake.of(DeadLetters(producer, SENDER, clock), Keyring(settings.keys_dir).trust)
        )
        control = Control(
            ledger, trainers, RequestSender(producer), clock, Allowed.of(settings.service.recipes)
        )
        app = create_app(
            title="Tolaria trains",
            part=SENDER,
            settings=settings,
            clock=clock,
            ready=lambda: {"journal": ledger.caught_up, "progress": ledger.progress.well()},
            details=ledger.details,
            audit=trail,
        )
        add_routes(app, control)
        server = Server(app, settings=settings, port=settings.tolaria.port, clock=clock)
        sweeps = Sweeps(settings, environment=os.environ, clock=clock)
        ledger.start()
        server.start()
        sweeps.start()
        signalled.wait()
        sweeps.stop()
        for trainer in trainers.end(_GRACE_S):
            _log.warning(
                "The trainer of run %s (process %s) is still ending; it does so by itself.",
                trainer.run_id,
                trainer.process.pid,
            )
        server.stop()
        ledger.stop()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EsperError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
