"""The foundry process: `python -m esper.tezzeret`.

Ends cleanly on SIGTERM or Ctrl-C, within 5 s whatever it is doing.
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
from esper.karn.templates import known
from esper.oona.bus.access import Access
from esper.oona.bus.kafka import KafkaBus
from esper.oona.durable.audit_trail import AuditTrail
from esper.service import Server
from esper.service.transport.signing import Keyring
from esper.tezzeret.answer import SENDER
from esper.tezzeret.api import build
from esper.tezzeret.compiler_process import CompilerProcess
from esper.tezzeret.service import Foundry
from esper.urza.sealed import open_kernels
from esper.urza.shelf import follow_outcomes

_log = logging.getLogger("esper.tezzeret")
# a third of a trainer's share where cores are short: enough to answer, little enough not to be felt
_NICENESS = 5
_GRACE_S = 3.5
_LOOK_S = 5.0  # between two looks at whether the compiler is still wanted


def main() -> int:
    """Wire the foundry and run it until a signal comes. Gives the exit code."""
    os.nice(_NICENESS)
    logs.configure()
    settings = Settings.load()
    if not settings.kafka.bootstrap:
        raise UsageError(
            "The foundry needs a broker: set ESPER_KAFKA__BOOTSTRAP, or start the whole "
            "stack with `esper up`."
        )
    known()  # a family of an installed package that cannot be used is said now, not at a report
    clock = SystemClock()
    compiler = CompilerProcess(clock)
    store = open_kernels(settings)
    bus = KafkaBus(Access.of(settings, SENDER))
    foundry = Foundry(bus=bus, store=store, clock=clock, compiler=compiler)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    crashed: list[BaseException] = []
    with AuditTrail(
        bus, sender_id=SENDER, clock=clock, folder=settings.audit_dir, keys=settings.keys_dir
    ) as audit:
        app = build(foundry, settings=settings, clock=clock, audit=audit)
        server = Server(
            app, settings=settings, port=settings.urza.port, clock=clock, setting="ESPER_URZA__PORT"
        )
        server.start()
        _log.info("listening at %s; kernels are in %s", server.url, settings.store_location)
        worker = threading.Thread(
            target=_guarded, args=(foundry, stopping, crashed), name=SENDER, daemon=True
        )
        worker.start()
        threading.Thread(
            target=follow_outcomes,
            args=(
                foundry.shelf,
                bus,
                clock,
                stopping,
                foundry.refusals,
                Keyring(settings.keys_dir).trust,
            ),
            name="outcomes",
            daemon=True,
        ).start()
        # a new installation will need it at once; others start training sooner without it
        if next(iter(store.list("kernels/")), None) is None:
            compiler.start()
        while not stopping.wait(_LOOK_S):
            compiler.rest()
        foundry.stop.set()
        server.stop()
        worker.join(_GRACE_S)
        compiler.stop()
    _log.info("ended in mid-answer" if worker.is_alive() else "ended")
    return 1 if crashed else 0


def _guarded(foundry: Foundry, stopping: threading.Event, crashed: list[BaseException]) -> None:
    try:
        foundry.run()
    except BaseException as error:  # noqa: BLE001 -- the process ends with it, and the supervisor starts another
        crashed.append(error)
        _log.exception("crashed")
    finally:
        stopping.set()


def _run() -> int:
    try:
        return main()
    except EsperError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code


if __name__ == "__main__":
    code = _run()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a thread may wait for the compiler; an answer survives a kill at any moment
