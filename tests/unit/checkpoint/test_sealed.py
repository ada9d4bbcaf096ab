"""What lies in the store says nothing without the keys, and no change of it goes unnoticed: every
bit, every swap, by name.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pydantic import SecretStr

from esper.checkpoint import Snapshot, Stored, TensorStore, open_tensors
from esper.config import CheckpointSettings, Settings
from esper.errors import CorruptError
from esper.urza.local import LocalStore
from esper.vault.family_keys import family_id

HEADS = 90  # bytes in which every bit is flipped: all fields before the ciphertext, and more
SAMPLED = 100  # bits flipped in the rest of each object
RUN = "a-run-with-a-name"


def values() -> dict[str, torch.Tensor]:
    """A small state: a tensor of zeros, which zstd shrinks, one of noise, which it does not, and
    small ones that share a chunk.
    """
    generator = torch.Generator().manual_seed(1)
    return {
        "model/noise_of_a_layer": torch.randn(90, 70, generator=generator),
        "model/zeros": torch.zeros(9_000),
        "model/bias": torch.randn(7, generator=generator),
        "host/0/step": torch.tensor(3.0),
    }


def settings(home: Path) -> Settings:
    """An installation whose master key is given, so that a test may read the store's files anew
    often.
    """
    return Settings(home=home, checkpoints=CheckpointSettings(master_key=SecretStr("A" * 43 + "=")))


def read(home: Path, stored: Stored, run: str = RUN) -> Snapshot:
    """Everything anew, as another process would."""
    return open_tensors(settings(home), run).read(stored.address, stored.sha256)


def written(home: Path, run: str = RUN) -> Stored:
    return open_tensors(settings(home), run).write(
        Snapshot(values(), {"state": "secret-state", "cursor": {"step": 17}})
    )


def bits(size: int, chance: random.Random) -> Iterator[int]:
    """Every bit of the head, a sample of those behind it, and the last byte's."""
    yield from range(min(size, HEADS) * 8)
    if size > HEADS:
        yield from chance.sample(range(HEADS * 8, size * 8), min(SAMPLED, (size - HEADS) * 8))
        yield from range(size * 8 - 8, size * 8)


def name_of(key: str) -> str:
    """What a sentence about an object of the store has to say."""
    return key.rpartition("/")[2] if key.startswith("chunks") else key


def test_every_flipped_bit_is_detected_and_named(tmp_path: Path) -> None:
    """Family file, manifest and chunks: each bit of every field, sampled in long ciphertexts, one
    at a time; then ends cut off and added.
    """
    stored, chance, flips = written(tmp_path), random.Random(7), 0  # noqa: S311  # bits to flip
    tensors = open_tensors(settings(tmp_path), RUN)
    store = LocalStore(tmp_path / "store")
    keys = list(store.list())
    assert sorted({key.partition("/")[0] for key in keys}) == ["chunks", "families", "manifests"]
    assert len(keys) == 6
    for key in keys:
        path, before = tmp_path / "store" / key, store.get(key)
        assert before is not None
        changes = itertools.chain(
            (
                before[: bit // 8]
                + bytes([before[bit // 8] ^ 1 << bit % 8])
                + before[bit // 8 + 1 :]
                for bit in bits(len(before), chance)
            ),
            (
                before[:length]
                for length in {0, 1, 4, 13, 72, 73, len(before) // 2, len(before) - 1}
            ),
            (before + b"\0", b"\0" + before),
        )
        for content in changes:
            path.write_bytes(content)
            with pytest.raises(CorruptError) as refused:
                (
                    open_tensors(settings(tmp_path), RUN) if key.startswith("families") else tensors
                ).read(stored.address, stored.sha256)
            assert name_of(key) in str(refused.value)
            flips += 1
        path.write_bytes(before)
    assert flips > 4_500
    assert all(
        torch.equal(tensor, values()[name])
        for name, tensor in read(tmp_path, stored).tensors.items()
    )


def test_swaps_between_chunks_runs_and_families_are_detected_and_named(tmp_path: Path) -> None:
    """What is whole, but stands under another's name, is refused: chunks of one snapshot, manifests
    of one run, and anything of another family.
    """
    stored, second = written(tmp_path), written(tmp_path)
    other = written(tmp_path, "another-run")
    store, root = LocalStore(tmp_path / "store"), tmp_path / "store"
    mine, theirs = (
        [key for key in store.list() if f"/{family_id(run)}/" in key]
        for run in (RUN, "another-run")
    )
    assert (len(mine), len(theirs)) == (7, 6)
    pairs = [
        pair
        for pair in itertools.permutations(store.list(), 2)
        if pair[0] in mine and pair[0] != second.address
    ]
    assert len(pairs) == 6 * 12
    for key, instead in pairs:
        before = (root / key).read_bytes()
        (root / key).write_bytes((root / instead).read_bytes())
        with pytest.raises(CorruptError) as refused:
            read(tmp_path, stored)
        assert name_of(key) in str(refused.value), instead
        (root / key).write_bytes(before)
    with pytest.raises(
        CorruptError, match=f"^Manifest {other.address}, read as one of {RUN}, is damaged"
    ):
        read(tmp_path, other)
    assert read(tmp_path, stored).notes["cursor"] == {"step": 17}


def test_nothing_of_a_run_can_be_read_without_the_keys(tmp_path: Path) -> None:
    """No object holds a name, a shape, a note or a weight, nor does a key of the store.

    Two families share no address for the same tensors.
    """
    written(tmp_path)
    written(tmp_path, "another-run")
    store = LocalStore(tmp_path / "store")
    everything = b"".join(key.encode() + (store.get(key) or b"") for key in store.list())
    plain = values()["model/noise_of_a_layer"].numpy().tobytes()
    for secret in (
        RUN.encode(),
        b"another-run",
        b"noise_of_a_layer",
        b"secret-state",
        b"cursor",
        b"float32",
        plain[:16],
        plain[-16:],
        bytes(32),
    ):
        assert secret not in everything
    addresses = [name_of(key) for key in store.list("chunks")]
    assert len(addresses) == len(set(addresses)) == 8


def test_an_address_is_the_hmac_of_the_plain_bytes_and_each_chunk_has_its_own_data_key(
    tmp_path: Path,
) -> None:
    """So that whoever has no family key cannot try guesses.

    The same bytes in another store are sealed to other bytes.
    """
    one, other = (open_tensors(settings(tmp_path / place), RUN) for place in ("one", "other"))
    other = TensorStore(other.store, one.family)
    content = torch.randn(90, 70)
    for tensors in (one, other):
        tensors.write(Snapshot({"model/a": content}, {}))
    keys = [list(tensors.store.list("chunks")) for tensors in (one, other)]
    assert keys[0] == keys[1]
    assert (
        name_of(keys[0][0])
        == hmac.new(one.family.key, content.numpy().tobytes(), hashlib.sha256).hexdigest()
    )
    sealed = [tensors.store.get(keys[0][0]) for tensors in (one, other)]
    assert sealed[0] is not None
    assert sealed[1] is not None
    assert sealed[0][:13] == sealed[1][:13]  # magic, codec, length
    assert not any(sealed[0][at : at + 8] in sealed[1] for at in range(13, 300))
