"""Esper trains PyTorch models that grow while they train, and keeps the whole run as events."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esper.kasmina import germinate, harvest
    from esper.library import grow, load_model

__all__ = ["germinate", "grow", "harvest", "load_model"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the library form on first use, so that `esper --help` never imports torch."""
    if name in __all__:
        return getattr(import_module("esper.library" if name in ("grow", "load_model") else "esper.kasmina"), name)
    raise AttributeError(f"module 'esper' has no attribute {name!r}")
