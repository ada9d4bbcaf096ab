"""Oona, the message bus: its port and implementations, the outbox and inbox of a run, telemetry
that never blocks.
"""

from __future__ import annotations

from esper.oona.bus.port import Bus, JournalProducer, Producer, Reader, Received

__all__ = ["Bus", "JournalProducer", "Producer", "Reader", "Received"]
