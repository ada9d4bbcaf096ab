"""Digests of named tensors: equal exactly where names, shapes, types and every bit are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, shapes, types and bytes of tensors, names sorted, hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        plain: Tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name}\x1f{tuple(plain.shape)}\x1f{plain.dtype}\x1f".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
