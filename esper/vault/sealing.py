"""AES-256-GCM (NIST SP 800-38D), a slice at a time: `cryptography` keeps Python's lock while it
works, and training threads want it too.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from esper.errors import CorruptError

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
OVERHEAD_BYTES: Final = NONCE_BYTES + TAG_BYTES
"""What a sealed text has more than the plain one: a random nonce before it, a tag behind it."""

_SLICE_BYTES: Final = 256 << 10  # 0.2 ms


def seal(key: bytes, content: bytes | memoryview, bound: bytes, *, head: bytes = b"") -> bytes:
    """`head` as it is, then nonce, ciphertext and tag.

    `bound` is what the content belongs to: unsealing needs the same again.
    """
    # Random, so that no counter has to survive a crash.
    nonce, at = os.urandom(NONCE_BYTES), len(head) + NONCE_BYTES
    sealed = bytearray(at + len(content) + TAG_BYTES)
    sealed[:at] = head + nonce
    encryptor = Cipher(algorithms.AES256(key), modes.GCM(nonce)).encryptor()
    encryptor.authenticate_additional_data(bound)
    _sliced(encryptor.update_into, memoryview(content), memoryview(sealed)[at:])
    encryptor.finalize()
    sealed[at + len(content) :] = encryptor.tag
    return bytes(sealed)


def unseal(key: bytes, sealed: memoryview, bound: bytes, *, what: str) -> memoryview:
    """The content of what `seal` made, without its head. `what` names it in the sentence.

    Raises:
        CorruptError: it was changed or cut off, or belongs to something else, or was sealed with
            another key.
    """
    length = len(sealed) - OVERHEAD_BYTES
    if length < 0:
        raise CorruptError(f"{what} is damaged: it is cut off.")
    decryptor = Cipher(algorithms.AES256(key), modes.GCM(bytes(sealed[:NONCE_BYTES]))).decryptor()
    decryptor.authenticate_additional_data(bound)
    plain = memoryview(
        bytearray(length + TAG_BYTES)
    )  # the cipher asks for room behind the last byte
    _sliced(decryptor.update_into, sealed[NONCE_BYTES : NONCE_BYTES + length], plain)
    try:
        decryptor.finalize_with_tag(bytes(sealed[NONCE_BYTES + length :]))
    except InvalidTag:
        raise CorruptError(
            f"{what} is damaged: it is not what was sealed under this name with this key."
        ) from None
    return plain[:length]


def _sliced(
    update_into: Callable[[memoryview, memoryview], int], content: memoryview, into: memoryview
) -> None:
    for begin in range(0, len(content), _SLICE_BYTES):
        update_into(content[begin : begin + _SLICE_BYTES], into[begin:])
