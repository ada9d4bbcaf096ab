"""Roles: viewer reads, operator changes runs, admin does what cannot be undone.

Each includes those before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Role = Literal["viewer", "operator", "admin"]
ROLES: Final[tuple[Role, ...]] = ("viewer", "operator", "admin")
"""From the least to the most powerful."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Subject and role of a valid token."""

    subject: str
    role: Role

    def may(self, role: Role) -> bool:
        """Whether this caller's role includes `role`."""
        return ROLES.index(self.role) >= ROLES.index(role)
