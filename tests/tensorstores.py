"""Tensor stores whose family key is fixed, for tests that are not about keys."""

from __future__ import annotations

import hashlib

from esper.checkpoint import TensorStore
from esper.urza.store import Store
from esper.vault.family_keys import FamilyKey


def family(name: str = "family") -> FamilyKey:
    """A family whose key comes from its name."""
    return FamilyKey(name, hashlib.sha256(name.encode()).digest())


def tensors_in(store: Store, name: str = "family") -> TensorStore:
    """The tensor store of such a family."""
    return TensorStore(store, family(name))
