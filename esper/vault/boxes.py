"""Boxes: what an installation keeps at rest beside its snapshots, sealed.

One box a purpose, all under the key of one family of the store.

A sealed thing is `ESB1`, nonce, ciphertext, tag; the seal is bound to purpose and name, so that no
file can stand in for another. The family's key lies in the store with those of snapshots, wrapped
by the master key: `esper keys rotate` rewraps it, and nothing has to be sealed again. Installations
that share a store share its master key.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from esper.config import Settings
from esper.vault.family_keys import Objects, any_in, made
from esper.vault.masters import held, masters
from esper.vault.sealing import OVERHEAD_BYTES, seal, unseal

INSTALLATION: Final = "esper installation"
"""The family of everything that is no run's own; the blank keeps any run from having its name."""

KERNELS: Final = "kernels"
MODELS: Final = "models"

_MAGIC: Final = b"ESB1"
BOX_BYTES: Final = len(_MAGIC) + OVERHEAD_BYTES
"""What a sealed thing has more than the plain one."""


@dataclass(frozen=True, slots=True)
class Box:
    """Seals and opens the things of one purpose."""

    purpose: str
    key: bytes = field(repr=False)

    def sealed(self, name: str, content: bytes) -> bytes:
        """The content under a name, sealed: other bytes each time."""
        return seal(self.key, content, self._bound(name), head=_MAGIC)

    def opened(self, name: str, content: bytes) -> bytes:
        """What was sealed under this name.

        What was never sealed, because an older Esper wrote it, comes out as it is.

        Raises:
            CorruptError: it was changed, or sealed under another name, for another purpose, or with
                another key.
        """
        if not is_sealed(content):
            return content
        return bytes(
            unseal(
                self.key,
                memoryview(content)[len(_MAGIC) :],
                self._bound(name),
                what=f"{name} of the {self.purpose}",
            )
        )

    def _bound(self, name: str) -> bytes:
        return f"{self.purpose}\x1f{name}".encode()


def is_sealed(content: bytes) -> bool:
    """Whether bytes are a sealed thing: neither safetensors nor anything else that was kept in the
    clear begins so.
    """
    return content.startswith(_MAGIC)


def open_box(settings: Settings, store: Objects, purpose: str) -> Box:
    """The box of a purpose; its key is made when the store has none.

    Raises:
        KeyMissingError: the master key is missing or another one.
        CorruptError: the family's file or the master key's was changed.
        UnavailableError, StorageFullError: the store cannot be used.
    """
    with held(settings.master_key_path):
        keys = masters(settings, make=not any_in(store))
        return Box(purpose, made(store, keys, INSTALLATION).derived(f"esper {purpose}".encode()))
