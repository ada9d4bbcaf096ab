"""Artefacts: one file, verified to the last bit."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load, save

from esper.errors import BuildError, CorruptError
from esper.karn import BlueprintIR
from esper.urza.artefact import Sealed, fetch, read, seal
from esper.urza.memory import MemoryStore
from esper.urza.publish import store_artefact
from tests.unit.karn.cases import CASES, blueprint


def make(family: str, layer: str = "") -> tuple[BlueprintIR, dict[str, np.ndarray]]:
    """A blueprint with weights."""
    ir = blueprint(family, layer)
    numbers = np.random.default_rng(0)
    return ir, {
        name: numbers.normal(size=shape).astype(np.float32)
        for name, shape in ir.parameter_shapes.items()
    }


@pytest.mark.parametrize(("family", "layer"), CASES)
def test_an_artefact_gives_back_what_was_sealed(family: str, layer: str) -> None:
    """Blueprint, geometry and weights survive, and sealing again gives the same bytes."""
    ir, weights = make(family, layer)
    sealed = seal(ir, weights)
    found = read(sealed.content, kernel_id=sealed.kernel_id, sha256=sealed.sha256)
    assert found.ir == ir
    assert set(found.weights) == set(weights)
    assert all(np.array_equal(found.weights[name], weights[name]) for name in weights)
    assert seal(ir, dict(reversed(weights.items()))) == sealed


def test_an_artefact_is_a_plain_safetensors_file() -> None:
    """Any safetensors reader opens it, and its metadata says format and blueprint in JSON."""
    ir, weights = make("conv1d")
    content = seal(ir, weights).content
    assert set(load(content)) == set(weights)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert json.loads(header["__metadata__"]["esper"]) == {
        "format": "esper-kernel/1",
        "ir": ir.json,
    }


def test_weights_and_blueprint_make_the_kernels_identity() -> None:
    """One changed bit of a weight, or another alpha in the blueprint, is another kernel."""
    ir, weights = make("low_rank")
    nudged = {name: tensor.copy() for name, tensor in weights.items()}
    nudged["linear1.weight"].flat[0] = np.nextafter(nudged["linear1.weight"].flat[0], np.float32(9))
    changed = BlueprintIR(
        ir.family, ir.in_features, ir.out_features, ir.tap, ir.blend, 0.5, ir.seed, ir.nodes
    )
    assert (
        len(
            {
                seal(ir, weights).kernel_id,
                seal(ir, nudged).kernel_id,
                seal(changed, weights).kernel_id,
            }
        )
        == 3
    )


def test_every_flipped_bit_is_refused() -> None:
    """A damaged artefact is refused wherever the damage is: 300 random bits, the first 64 bytes, a
    cut.
    """
    sealed = seal(*make("conv1d"))
    numbers = np.random.default_rng(7)
    places = {*range(64), *(int(numbers.integers(len(sealed.content))) for _ in range(300))}
    for place in places:
        damaged = bytearray(sealed.content)
        damaged[place] ^= 1 << int(numbers.integers(8))
        with pytest.raises(CorruptError, match=f"kernel {sealed.kernel_id} is damaged"):
            read(bytes(damaged), kernel_id=sealed.kernel_id, sha256=sealed.sha256)
    with pytest.raises(CorruptError, match="is damaged"):
        read(sealed.content[:-1], kernel_id=sealed.kernel_id, sha256=sealed.sha256)


def _honest(content: bytes, sealed: Sealed) -> tuple[bytes, str, str]:
    """Bytes with their own right SHA-256: what a faulty publisher would announce."""
    return content, sealed.kernel_id, hashlib.sha256(content).hexdigest()


def test_a_right_checksum_does_not_excuse_wrong_contents() -> None:
    """Even when the announced SHA-256 is that of the bytes: no kernel, another format, weights that
    do not belong, another kernel.
    """
    ir, weights = make("mlp")
    sealed = seal(ir, weights)

    def metadata(**change: str) -> dict[str, str]:
        return {"esper": json.dumps({"format": "esper-kernel/1", "ir": ir.json} | change)}

    other = {**weights, "linear1.bias": weights["linear1.bias"] + 1}
    for content, sentence in (
        (b"", "is no kernel"),
        (b"\x80\x04pickle", "is no kernel"),
        (save(weights), "is no kernel: KeyError"),
        (
            save(weights, metadata(format="esper-kernel/9")),
            "has format 'esper-kernel/9'; this Esper reads 'esper-kernel/1'",
        ),
        (save(weights, metadata(ir='{"op": "eval"}')), "is no kernel: BuildError"),
        (
            save({"linear1.bias": weights["linear1.bias"]}, metadata()),
            "contradicts itself: it has weights linear1.bias",
        ),
        (
            save({**weights, "linear1.bias": np.zeros(2, np.float32)}, metadata()),
            "contradicts itself: linear1.bias is float32",
        ),
        (
            save(
                {**weights, "linear1.bias": weights["linear1.bias"].astype(np.float64)}, metadata()
            ),
            "contradicts itself",
        ),
        (
            save({**weights, "linear1.bias": weights["linear1.bias"] * np.nan}, metadata()),
            "values that are not finite",
        ),
        (save(other, metadata()), "holds another kernel"),
    ):
        found, kernel_id, sha256 = _honest(content, sealed)
        with pytest.raises(CorruptError, match=f"kernel {sealed.kernel_id}.*{sentence}"):
            read(found, kernel_id=kernel_id, sha256=sha256)


def test_weights_that_are_not_the_blueprints_are_not_sealed() -> None:
    """Sealing refuses what reading would refuse."""
    ir, weights = make("mlp")
    with pytest.raises(BuildError, match="cannot be sealed: it has weights"):
        seal(ir, {})
    with pytest.raises(BuildError, match="values that are not finite"):
        seal(ir, {**weights, "linear1.bias": np.full_like(weights["linear1.bias"], np.inf)})


def test_a_missing_artefact_is_named() -> None:
    """Fetching says which kernel is missing, where, and what to do."""
    sealed = seal(*make("gate"))
    with pytest.raises(
        CorruptError,
        match=(
            rf"{sealed.kernel_id} is not in the store under {sealed.address}\. The foundry "
            r"builds it anew"
        ),
    ):
        fetch(
            MemoryStore(), kernel_id=sealed.kernel_id, address=sealed.address, sha256=sealed.sha256
        )


def test_a_damaged_artefact_is_replaced_and_a_good_one_left() -> None:
    """Storing twice changes nothing; storing over damage mends it."""
    sealed, store = seal(*make("gate")), MemoryStore()
    store.put_if_absent(sealed.address, sealed.content[:-3])
    for _ in range(2):
        store_artefact(store, sealed)
        assert store.get(sealed.address) == sealed.content


def test_reading_artefacts_needs_no_torch() -> None:
    """A process beside the trainer can fetch and verify kernels without paying for torch."""
    command = (
        "import sys, esper.urza, esper.urza.publish, esper.karn; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", command], check=False, timeout=600).returncode == 0
