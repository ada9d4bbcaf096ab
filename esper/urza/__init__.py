"""Urza, the asset store: artefacts in an object store, and a catalogue that is the fold of
`compilation.kernels`.
"""

from __future__ import annotations

from esper.urza.artefact import Artefact, Sealed, address_of, fetch, read, seal
from esper.urza.catalogue import Catalogue
from esper.urza.local import LocalStore
from esper.urza.store import Store

__all__ = [
    "Artefact",
    "Catalogue",
    "LocalStore",
    "Sealed",
    "Store",
    "address_of",
    "fetch",
    "read",
    "seal",
]
