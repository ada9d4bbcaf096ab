"""Snapshots come back bit for bit, cost nothing where nothing changed, and are refused when anything of them is not what its hash says."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from esper.checkpoint import Snapshot, Stored, TensorStore, chunks
from esper.errors import CorruptError, EsperError
from esper.urza.local import LocalStore

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
MIB = 1 << 20


def tensors() -> dict[str, Tensor]:
    """Every type and form that a snapshot may meet."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, 8, 4, generator=generator)
    return {
        **{f"model/{dtype}".replace(".", "_"): torch.randn(3, 5, generator=generator).to(dtype) for dtype in FLOATS},
        **{f"model/{dtype}".replace(".", "_"): torch.randint(0, 100, (7,), generator=generator).to(dtype) for dtype in INTEGERS},
        "model/bool": torch.tensor([True, False, True]),
        "model/complex": torch.randn(4, generator=generator, dtype=torch.complex64),
        "model/scalar": torch.tensor(3.5),
        "model/count": torch.tensor(7, dtype=torch.int64),
        "model/empty": torch.empty(0, 4),
        "model/nothing": torch.empty(0, dtype=torch.bool),
        "model/channels_last": images.contiguous(memory_format=torch.channels_last),
        "model/transposed": torch.randn(6, 9, generator=generator).T,
        "model/not_finite": torch.tensor([float("nan"), float("inf"), -0.0, 1e-45]),
        "host/0/exp_avg": torch.randn(90, 100, generator=generator),
        "random/torch": torch.get_rng_state(),
    }


def same(one: Tensor, other: Tensor) -> bool:
    """Equal in type, shape and every bit."""
    plain = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other)]
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(*plain)


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert same(found[name], tensor), name


def test_every_type_and_form_comes_back_bit_for_bit(tmp_path: Path) -> None:
    """Each dtype, 0 dimensions, empty, NaN, and memory formats other than contiguous; notes as they were."""
    notes = {"state": "{}", "list": [1, 2.5, None, True], "deep": {"ü": [float("1e-300")]}}
    store = LocalStore(tmp_path)
    stored = TensorStore(store).write(Snapshot(tensors(), notes))
    found = TensorStore(store).read(stored.address, stored.sha256)
    assert_same(found.tensors, tensors())
    assert found.notes == notes
    assert stored.tensors == len(tensors())
    assert stored.size_bytes == sum(one.numel() * one.element_size() for one in tensors().values())
    assert stored.address == f"manifests/{stored.sha256}.json"
    assert stored.stored_bytes == sum((tmp_path / key).stat().st_size for key in store.list())
    found.tensors["model/scalar"].add_(1)  # what was read is the reader's own
    assert_same(TensorStore(store).read(stored.address, stored.sha256).tensors, tensors())


def test_what_did_not_change_costs_nothing(tmp_path: Path) -> None:
    """The same snapshot again stores no byte; with one large tensor changed, that tensor's chunks and a manifest; with notes changed, a manifest."""
    store = LocalStore(tmp_path)
    values = {"model/large": torch.randn(100_000), "model/other": torch.randn(100_000), "model/small": torch.randn(3)}
    first = TensorStore(store).write(Snapshot(values, {"step": 1}))
    assert first.stored_bytes > 700_000
    assert TensorStore(store).write(Snapshot(values, {"step": 1})) == Stored(first.address, first.sha256, 3, first.size_bytes, 0)
    manifest = TensorStore(store).write(Snapshot(values, {"step": 2})).stored_bytes
    assert 0 < manifest < 1_000
    changed = TensorStore(store).write(Snapshot({**values, "model/other": torch.randn(100_000)}, {"step": 2})).stored_bytes
    assert 300_000 < changed < 410_000


def test_large_tensors_are_cut_into_pieces(tmp_path: Path) -> None:
    """A tensor of 20 MiB and a bit has three pieces; a change at its end costs the last of them."""
    store, value = LocalStore(tmp_path), torch.arange(20 * MIB // 4 + 3, dtype=torch.int32)
    stored = TensorStore(store).write(Snapshot({"model/large": value}, {}))
    assert len(list(store.list("chunks"))) == 3
    assert_same(TensorStore(store).read(stored.address, stored.sha256).tensors, {"model/large": value})
    value[-1] = 0
    again = TensorStore(store).write(Snapshot({"model/large": value}, {}))
    assert len(list(store.list("chunks"))) == 4
    assert again.stored_bytes < stored.stored_bytes / 3
    exact = torch.zeros(8 * MIB, dtype=torch.uint8)
    stored = TensorStore(store).write(Snapshot({"model/exact": exact, "model/tail": torch.empty(0)}, {}))
    assert_same(TensorStore(store).read(stored.address, stored.sha256).tensors, {"model/exact": exact, "model/tail": torch.empty(0)})


def test_many_small_tensors_that_fill_more_than_a_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tensors of one kind share chunks, also where one lies across the end of a piece."""
    monkeypatch.setattr(chunks, "PIECE_BYTES", 1000)
    values = {f"model/{number:03}": torch.full((number % 97,), float(number)) for number in range(200)}
    values |= {f"host/{number}/step": torch.tensor(float(number)) for number in range(250)}  # 1,000 bytes: a piece to the last byte
    store = LocalStore(tmp_path)
    stored = TensorStore(store).write(Snapshot(values, {}))
    assert_same(TensorStore(store).read(stored.address, stored.sha256).tensors, values)


def flipped(content: bytes, position: int, bit: int) -> bytes:
    """The same bytes with one bit changed."""
    return content[:position] + bytes([content[position] ^ 1 << bit]) + content[position + 1 :]


def test_any_change_of_any_object_is_refused_by_name(tmp_path: Path) -> None:
    """Bits flipped, ends cut off or added, objects deleted or swapped: in manifest and chunks, each is refused in a sentence that names it.

    A flipped bit that zstd has no meaning for may stand; what is read is then what was written.
    """
    chance, store = random.Random(7), LocalStore(tmp_path)  # noqa: S311  # bits to flip
    values = tensors() | {"model/wide": torch.randn(300, 100), "model/constant": torch.zeros(30_000)}
    stored = TensorStore(store).write(Snapshot(values, {"note": "x" * 200}))
    addresses = list(store.list())
    assert len(addresses) >= 6
    sentences: list[tuple[str, str]] = []

    def attempt(key: str, *, must: bool = True) -> None:
        try:
            found = TensorStore(store).read(stored.address, stored.sha256)
        except CorruptError as error:
            sentences.append((key if key.startswith("manifests") else key.rpartition("/")[2], str(error)))
        else:
            assert not must, key
            assert_same(found.tensors, values)

    for key in addresses:
        path, before = tmp_path / key, (tmp_path / key).read_bytes()
        size = len(before)
        for position in {*range(10), size - 1, *chance.sample(range(size), min(size, 12))}:
            for bit in range(8) if position < 10 else (chance.randrange(8),):
                path.write_bytes(flipped(before, position, bit))
                attempt(key, must=key.startswith("manifests"))
        for length in {0, 1, size // 2, size - 1}:
            path.write_bytes(before[:length])
            attempt(key)
        path.write_bytes(before + bytes(9))
        attempt(key)
        path.unlink()
        attempt(key)
        path.write_bytes(before)
    assert len(sentences) > 400
    assert all(name in sentence and sentence.endswith(".") for name, sentence in sentences)
    mine = [key for key in addresses if key.startswith("chunks")]
    for one, other in itertools.pairwise(mine):
        contents = [(tmp_path / key).read_bytes() for key in (one, other)]
        (tmp_path / one).write_bytes(contents[1])
        attempt(one)
        (tmp_path / one).write_bytes(contents[0])
    assert_same(TensorStore(store).read(stored.address, stored.sha256).tensors, values)


def test_a_manifest_of_another_snapshot_or_format_is_refused(tmp_path: Path) -> None:
    """The journal's hash binds the manifest; a later format is named with what this Esper reads."""
    store = LocalStore(tmp_path)
    first, second = (TensorStore(store).write(Snapshot({"model/a": torch.tensor(number)}, {})) for number in (1, 2))
    with pytest.raises(CorruptError, match=f"^Manifest {first.address} is damaged: its content has another hash than the journal gives"):
        TensorStore(store).read(first.address, second.sha256)
    with pytest.raises(
        CorruptError, match=r"^Manifest manifests/none\.json is not in the store: it was deleted, or the store is another one\.$"
    ):
        TensorStore(store).read("manifests/none.json", first.sha256)
    import hashlib  # noqa: PLC0415
    import json  # noqa: PLC0415

    later = json.dumps({**json.loads((tmp_path / first.address).read_bytes()), "format": 2}).encode()
    store.put_if_absent("manifests/later.json", later)
    with pytest.raises(CorruptError, match=r"^Manifest manifests/later\.json has format 2; this Esper reads format 1\.$"):
        TensorStore(store).read("manifests/later.json", hashlib.sha256(later).hexdigest())


def test_only_errors_of_esper_leave_a_damaged_snapshot() -> None:
    """CorruptError has the exit code of corruption."""
    assert issubclass(CorruptError, EsperError)
    assert CorruptError.exit_code == 5
