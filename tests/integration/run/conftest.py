"""Fixtures of the whole."""

from __future__ import annotations

from tests.integration.run.whole import home, lockstep

__all__ = ["home", "lockstep"]
