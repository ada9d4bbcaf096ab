"""Journals: read them from Kafka or a file, fold them, and compare the fold with what the trainer
had.
"""

from __future__ import annotations

from esper.journal.replay import FoldReport, fold_journal, live_state, save_state

__all__ = ["FoldReport", "fold_journal", "live_state", "save_state"]
