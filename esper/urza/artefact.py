"""A kernel artefact: one safetensors file, weights as tensors, blueprint and format version as
metadata. Nothing in it can execute.

No torch in here: whoever fetches and verifies kernels beside a training process starts fast.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from esper.bounded import DEFAULT, Limits, json_of, tensors_header
from esper.bounded.names import KERNEL_ID, MALFORMED
from esper.errors import BuildError, CorruptError, printable
from esper.karn.ir import BlueprintIR, parse
from esper.urza.store import Store

FORMAT = "esper-kernel/1"
_ID = re.compile(KERNEL_ID, re.ASCII)
# a single metadata key: the order of several is not fixed by safetensors, and bytes have to be
# reproducible
_METADATA = "esper"


@dataclass(frozen=True)
class Artefact:
    """What a verified artefact holds: the blueprint, and its weights by parameter name (float32, as
    `BlueprintIR.parameter_shapes`).
    """

    kernel_id: str
    ir: BlueprintIR
    weights: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Sealed:
    """An artefact's bytes, ready for the store."""

    kernel_id: str
    content: bytes
    sha256: str

    @property
    def address(self) -> str:
        """Key in the object store."""
        return address_of(self.kernel_id)


def address_of(kernel_id: str) -> str:
    """Key of a kernel's artefact in the object store.

    Raises:
        CorruptError: an event has named a kernel by what is no name.
    """
    if not _ID.fullmatch(kernel_id):
        raise CorruptError(f"{printable(kernel_id)[:80]!r} is no id of a kernel.")
    return f"kernels/{kernel_id}.safetensors"


def kernel_id_of(ir: BlueprintIR, weights: Mapping[str, np.ndarray]) -> str:
    """SHA-256, in hexadecimal, over format, blueprint and weights: independent of how a file lays
    them out.
    """
    digest = hashlib.sha256()
    for part in (FORMAT, ir.json):
        # lengths in front: no other parts can run together to the same bytes
        digest.update(f"{len(part)}\x1f{part}".encode())
    for name in sorted(weights):
        tensor = weights[name]
        # dtype.str names the byte order too
        digest.update(f"{name}\x1f{tensor.dtype.str}\x1f{tensor.shape}\x1f".encode())
        digest.update(np.ascontiguousarray(tensor).tobytes())
    return digest.hexdigest()


def seal(ir: BlueprintIR, weights: Mapping[str, np.ndarray]) -> Sealed:
    """The artefact of a blueprint and its weights; the same bytes each time.

    Raises:
        BuildError: the weights are not those of the blueprint.
    """
    if fault := _fault(ir, weights):
        raise BuildError(f"The {ir.family} blueprint {ir.blueprint_id} cannot be sealed: {fault}.")
    metadata = json.dumps({"format": FORMAT, "ir": ir.json}, sort_keys=True, separators=(",", ":"))
    content = save(
        {name: np.ascontiguousarray(weights[name]) for name in sorted(weights)},
        {_METADATA: metadata},
    )
    return Sealed(kernel_id_of(ir, weights), content, hashlib.sha256(content).hexdigest())


def read(content: bytes, *, kernel_id: str, sha256: str, limits: Limits = DEFAULT) -> Artefact:
    """The artefact in `content`, once every claim about it has been verified.

    Raises:
        CorruptError: bytes, format, blueprint, weights or identity are not what they should be, or
            it is larger than the limits allow.
    """
    # before anything is parsed: a parser sees only bytes that were published
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise CorruptError(
            f"The artefact of kernel {kernel_id} is damaged: its SHA-256 is {digest}, not "
            f"{sha256}. {_REMEDY}"
        )
    what = f"The artefact of kernel {kernel_id}"
    limits.object.require(len(content), f"{what} has bytes,")
    try:
        header = tensors_header(content, limits, what)
        metadata = json_of(
            header["__metadata__"][_METADATA].encode(),
            limits,
            f"The metadata of kernel {kernel_id}",
        )
        known = metadata["format"] == FORMAT
        ir, weights = (parse(metadata["ir"]), load(content)) if known else (None, {})
    except (*MALFORMED, SafetensorError, BuildError, CorruptError) as error:
        raise CorruptError(
            f"{what} is no kernel: {type(error).__name__}: {printable(str(error))}. {_REMEDY}"
        ) from error
    if ir is None:
        raise CorruptError(
            f"{what} has format {printable(repr(metadata['format']))[:40]}; this Esper "
            f"reads {FORMAT!r}."
        )
    if fault := _fault(ir, weights):
        raise CorruptError(
            f"The artefact of kernel {kernel_id} contradicts itself: {fault}. {_REMEDY}"
        )
    if (actual := kernel_id_of(ir, weights)) != kernel_id:
        raise CorruptError(
            f"The artefact of kernel {kernel_id} holds another kernel, {actual}. {_REMEDY}"
        )
    return Artefact(kernel_id, ir, weights)


def fetch(store: Store, *, kernel_id: str, address: str, sha256: str) -> Artefact:
    """A published kernel's artefact, verified.

    Raises:
        CorruptError: it is missing or damaged.
        UnavailableError: the store cannot be reached.
    """
    return read(
        content_of(store, kernel_id=kernel_id, address=address), kernel_id=kernel_id, sha256=sha256
    )


def content_of(store: Store, *, kernel_id: str, address: str) -> bytes:
    """A published kernel's bytes as the store has them, not verified.

    Raises:
        CorruptError: it is missing.
        UnavailableError: the store cannot be reached.
    """
    content = store.get(address)
    if content is None:
        raise CorruptError(
            f"The artefact of kernel {kernel_id} is not in the store under {address}. {_REMEDY}"
        )
    return content


_REMEDY = "The foundry builds it anew when a field report next asks for it."


def _fault(ir: BlueprintIR, weights: Mapping[str, np.ndarray]) -> str | None:
    """What is wrong with the weights of a blueprint, or None."""
    if set(weights) != set(ir.parameter_shapes):
        return (
            f"it has weights {', '.join(sorted(weights))}, its blueprint "
            f"{', '.join(sorted(ir.parameter_shapes))}"
        )
    for name, shape in ir.parameter_shapes.items():
        tensor = weights[name]
        if tensor.shape != shape or tensor.dtype != np.float32:
            return f"{name} is {tensor.dtype} {tensor.shape}, its blueprint says float32 {shape}"
        if not np.isfinite(tensor).all():
            return f"{name} has values that are not finite"
    return None
