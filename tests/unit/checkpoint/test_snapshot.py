"""Snapshots come back bit for bit, cost nothing where nothing changed, and are refused when
anything of them is not what its hash says.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from esper.checkpoint import Snapshot, Stored, chunks
from esper.checkpoint.manifest import manifest_at, sealed_manifest
from esper.errors import CorruptError, EsperError
from esper.urza.local import LocalStore
from tests.tensorstores import family, tensors_in

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
MIB = 1 << 20


def tensors() -> dict[str, Tensor]:
    """Every type and form that a snapshot may meet."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, 8, 4, generator=generator)
    return {
        **{
            f"model/{dtype}".replace(".", "_"): torch.randn(3, 5, generator=generator).to(dtype)
            for dtype in FLOATS
        },
        **{
            f"model/{dtype}".replace(".", "_"): torch.randint(0, 100, (7,), generator=generator).to(
                dtype
            )
            for dtype in INTEGERS
        },
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
    """Each dtype, 0 dimensions, empty, NaN, and memory formats other than contiguous.

    Notes as they were.
    """
    notes = {"state": "{}", "list": [1, 2.5, None, True], "deep": {"ü": [float("1e-300")]}}
    store = LocalStore(tmp_path)
    stored = tensors_in(store).write(Snapshot(tensors(), notes))
    found = tensors_in(store).read(stored.address, stored.sha256)
    assert_same(found.tensors, tensors())
    assert found.notes == notes
    assert stored.tensors == len(tensors())
    assert stored.size_bytes == sum(one.numel() * one.element_size() for one in tensors().values())
    assert stored.address == f"manifests/{family().id}/{stored.sha256}"
    assert stored.stored_bytes == sum((tmp_path / key).stat().st_size for key in store.list())
    found.tensors["model/scalar"].add_(1)  # what was read is the reader's own
    assert_same(tensors_in(store).read(stored.address, stored.sha256).tensors, tensors())


def bytes_of(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def test_a_snapshot_goes_to_another_process_bit_for_bit() -> None:
    """As bytes that outlive the process that made it."""
    tensors = {
        "model/half": torch.tensor([1.5, -0.0, float("nan")], dtype=torch.bfloat16),
        "model/turned": torch.arange(6.0).reshape(2, 3).t(),
        "model/one": torch.ones((), dtype=torch.bool),
        "model/none": torch.empty(0, 4, dtype=torch.int64),
        "model/complex": torch.tensor([1 + 2j]),
    }
    found = pickle.loads(pickle.dumps(Snapshot(tensors, {"cursor": {"step": 3}})))  # noqa: S301  # ours
    assert found.notes == {"cursor": {"step": 3}}
    assert found.tensors.keys() == tensors.keys()
    for name, one in tensors.items():
        assert (found.tensors[name].dtype, found.tensors[name].shape) == (one.dtype, one.shape)
        assert bytes_of(found.tensors[name]) == bytes_of(one)


def test_what_did_not_change_costs_nothing(tmp_path: Path) -> None:
    """The same snapshot again, or with other notes, stores a manifest.

    With one large tensor changed, that tensor's chunks too.
    """
    store = LocalStore(tmp_path)
    values = {
        "model/large": torch.randn(100_000),
        "model/other": torch.randn(100_000),
        "model/small": torch.randn(3),
    }
    first = tensors_in(store).write(Snapshot(values, {"step": 1}))
    assert first.stored_bytes > 700_000
    for step in (1, 2):
        again = tensors_in(store).write(Snapshot(values, {"step": step}))
        assert again.sha256 != first.sha256  # a manifest is sealed anew each time
        assert 0 < again.stored_bytes < 1_000
    changed = (
        tensors_in(store)
        .write(Snapshot({**values, "model/other": torch.randn(100_000)}, {"step": 2}))
        .stored_bytes
    )
    assert 300_000 < changed < 410_000


def test_only_the_kinds_that_are_asked_for_are_read(tmp_path: Path) -> None:
    """Tensors of other kinds are not there, and their chunks are not read: they may even
    be gone.
    """
    store = LocalStore(tmp_path)
    stored = tensors_in(store).write(Snapshot({"model/a": torch.randn(9_000)}, {}))
    mine = set(store.list("chunks"))
    values = {
        "model/a": torch.randn(9_000),
        "model/b": torch.randn(3),
        "host/0/step": torch.tensor(1.0),
        "random/torch": torch.get_rng_state(),
    }
    stored = tensors_in(store).write(Snapshot(values, {"step": 3}))
    found = tensors_in(store).read(stored.address, stored.sha256, kinds={"host", "random"})
    assert_same(found.tensors, {name: values[name] for name in ("host/0/step", "random/torch")})
    assert found.notes == {"step": 3}
    model = tensors_in(store).write(
        Snapshot({name: values[name] for name in ("host/0/step", "random/torch")}, {})
    )
    assert model.stored_bytes < 1_000
    needed = {chunk.key(family()) for chunk in _chunks_of(store, model)}
    for key in set(store.list("chunks")) - needed - mine:
        store.delete(key)
    assert_same(
        tensors_in(store).read(stored.address, stored.sha256, kinds={"host", "random"}).tensors,
        found.tensors,
    )
    assert tensors_in(store).read(stored.address, stored.sha256, kinds=()).tensors == {}
    with pytest.raises(CorruptError, match="is not in the store"):
        tensors_in(store).read(stored.address, stored.sha256)


def _chunks_of(store: LocalStore, stored: Stored) -> list[chunks.Chunk]:
    manifest = manifest_at(store, family(), stored.address, stored.sha256)
    return [chunks.Chunk(**one) for one in manifest["chunks"]]


def test_large_tensors_are_cut_into_pieces(tmp_path: Path) -> None:
    """A tensor of 20 MiB and a bit has three pieces; a change at its end costs the last of them."""
    store, value = LocalStore(tmp_path), torch.arange(20 * MIB // 4 + 3, dtype=torch.int32)
    stored = tensors_in(store).write(Snapshot({"model/large": value}, {}))
    assert len(list(store.list("chunks"))) == 3
    assert_same(
        tensors_in(store).read(stored.address, stored.sha256).tensors, {"model/large": value}
    )
    value[-1] = 0
    again = tensors_in(store).write(Snapshot({"model/large": value}, {}))
    assert len(list(store.list("chunks"))) == 4
    assert again.stored_bytes < stored.stored_bytes / 3
    exact = torch.zeros(8 * MIB, dtype=torch.uint8)
    stored = tensors_in(store).write(
        Snapshot({"model/exact": exact, "model/tail": torch.empty(0)}, {})
    )
    assert_same(
        tensors_in(store).read(stored.address, stored.sha256).tensors,
        {"model/exact": exact, "model/tail": torch.empty(0)},
    )


def test_many_small_tensors_that_fill_more_than_a_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small tensors of one kind share chunks, also where one lies across the end of a piece."""
    monkeypatch.setattr(chunks, "PIECE_BYTES", 1000)
    values = {
        f"model/{number:03}": torch.full((number % 97,), float(number)) for number in range(200)
    }
    values |= {
        f"host/{number}/step": torch.tensor(float(number)) for number in range(250)
    }  # 1,000 bytes: a piece to the last byte
    store = LocalStore(tmp_path)
    stored = tensors_in(store).write(Snapshot(values, {}))
    assert_same(tensors_in(store).read(stored.address, stored.sha256).tensors, values)


def test_a_manifest_of_another_snapshot_family_or_format_is_refused(tmp_path: Path) -> None:
    """The journal's hash binds the manifest; another family's is not opened.

    A later format is named with what this Esper reads.
    """
    store = LocalStore(tmp_path)
    first, second = (
        tensors_in(store).write(Snapshot({"model/a": torch.tensor(number)}, {}))
        for number in (1, 2)
    )
    with pytest.raises(
        CorruptError,
        match=(
            f"^Manifest {first.address} is damaged: its content has another hash than the "
            "journal gives"
        ),
    ):
        tensors_in(store).read(first.address, second.sha256)
    with pytest.raises(
        CorruptError,
        match=(
            r"^Manifest manifests/none is not in the store: it was deleted, or the store is "
            r"another one\.$"
        ),
    ):
        tensors_in(store).read("manifests/none", first.sha256)
    with pytest.raises(
        CorruptError, match=f"^Manifest {first.address}, read as one of other, is damaged"
    ):
        tensors_in(store, "other").read(first.address, first.sha256)
    for content, sentence in (
        (
            sealed_manifest(
                family(), {**manifest_at(store, family(), first.address, first.sha256), "format": 3}
            ),
            "has format 3; this Esper reads format 2",
        ),
        (b'{"format":1}', "is none that this Esper reads: it does not begin as one of format 2"),
    ):
        store.delete("manifests/later")
        store.put_if_absent("manifests/later", content)
        with pytest.raises(CorruptError, match=rf"^Manifest manifests/later {sentence}\.$"):
            tensors_in(store).read("manifests/later", hashlib.sha256(content).hexdigest())


def test_only_errors_of_esper_leave_a_damaged_snapshot() -> None:
    """CorruptError has the exit code of corruption."""
    assert issubclass(CorruptError, EsperError)
    assert CorruptError.exit_code == 5
