"""Fixtures of the whole."""

from __future__ import annotations

from tests.integration.run.whole import lockstep

__all__ = ["lockstep"]
