"""Publication: one conditional put.

The event that makes it known follows from the caller, and only after this has returned.
"""

from __future__ import annotations

from esper.errors import CorruptError, UnavailableError
from esper.events.records import KernelPublished
from esper.urza.artefact import Sealed, fetch
from esper.urza.store import Store

_ATTEMPTS = 3


def store_artefact(store: Store, sealed: Sealed) -> None:
    """Make sure that the store has exactly these bytes under the kernel's address.

    A damaged object there is replaced.

    Raises:
        StorageFullError: no room.
        UnavailableError: the store cannot be reached, or others keep changing this very object.
    """
    for _ in range(_ATTEMPTS):
        if store.put_if_absent(sealed.address, sealed.content) or _has(store, sealed):
            return
        # delete and put are two steps: another foundry may put between them, hence the loop
        store.delete(sealed.address)
    raise UnavailableError(
        f"The artefact of kernel {sealed.kernel_id} cannot be stored: others keep changing "
        f"{sealed.address}. Try again."
    )


def _has(store: Store, sealed: Sealed) -> bool:
    try:
        return store.get(sealed.address) == sealed.content
    except CorruptError:  # its seal does not open
        return False


def intact(store: Store, entry: KernelPublished) -> bool:
    """Whether a published kernel's artefact is there, and is what the entry says.

    Raises:
        UnavailableError: the store cannot be reached.
    """
    try:
        fetch(store, kernel_id=entry.kernel_id, address=entry.address, sha256=entry.sha256)
    except CorruptError:
        return False
    return True
