"""What an installation keeps beside its snapshots lies sealed, under one key that a rotation
rewraps.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file
from torch import nn

import esper
from esper.checkpoint.rotation import rotate
from esper.cli.runs.model import decrypt, model
from esper.config import Settings
from esper.errors import CorruptError, KeyMissingError, UnavailableError, UsageError
from esper.events.records import RunCompleted
from esper.tolaria.session.model_file import read_model
from esper.tolaria.step.evaluation import parameters_digest
from esper.urza.local import LocalStore
from esper.urza.opening import open_store
from esper.urza.publish import store_artefact
from esper.urza.sealed import PREFIX, SealedKernels, open_kernels, seal_kernels
from esper.vault.boxes import BOX_BYTES, KERNELS, MODELS, Box, is_sealed, open_box
from esper.vault.family_keys import listed
from esper.vault.masters import held, masters
from tests.unit.tolaria import laboratory
from tests.unit.tolaria.laboratory import GROWTH, Laboratory, recipe, sealed

BOX = Box(KERNELS, b"k" * 32)
PLAIN = laboratory.model  # a test puts another in its place


def test_what_is_sealed_opens_under_its_name_purpose_and_key_alone() -> None:
    """Any other of the three, a bit turned or an end cut off is refused.

    What was never sealed comes out as it is.
    """
    content = b"weights" * 1000
    kept = BOX.sealed("a", content)
    assert BOX.opened("a", kept) == content
    assert len(kept) == len(content) + BOX_BYTES
    assert is_sealed(kept)
    assert content[:16] not in kept
    assert BOX.sealed("a", content) != kept
    turned = bytearray(kept)
    turned[len(turned) // 2] ^= 1
    for box, name, found in (
        (BOX, "b", kept),
        (Box(MODELS, BOX.key), "a", kept),
        (Box(KERNELS, b"l" * 32), "a", kept),
        (BOX, "a", bytes(turned)),
        (BOX, "a", kept[:-1]),
        (BOX, "a", kept[:8]),
    ):
        with pytest.raises(CorruptError):
            box.opened(name, found)
    assert BOX.opened("a", b"{}") == b"{}"
    assert "k" * 8 not in repr(BOX)


def test_a_store_holds_kernels_sealed_and_gives_them_plain(tmp_path: Path) -> None:
    """Put once, under the id of the plain kernel; the same kernel stored again is the same.

    A damaged one is replaced.
    """
    store = LocalStore(tmp_path)
    kernels, artefact = SealedKernels(store, BOX), sealed("first")
    store_artefact(kernels, artefact)
    before = store.get(artefact.address)
    store_artefact(kernels, artefact)
    assert store.get(artefact.address) == before
    assert before is not None
    assert is_sealed(before)
    assert kernels.get(artefact.address) == artefact.content
    assert hashlib.sha256(artefact.content).hexdigest() == artefact.sha256
    (tmp_path / artefact.address).write_bytes(before[:-1] + b"x")
    with pytest.raises(CorruptError):
        kernels.get(artefact.address)
    store_artefact(kernels, artefact)
    assert kernels.get(artefact.address) == artefact.content
    kernels.put_if_absent("other/thing", b"as it is")
    assert store.get("other/thing") == b"as it is"


def test_two_processes_of_an_installation_have_one_key_and_a_rotation_keeps_it(
    tmp_path: Path,
) -> None:
    """The key comes out the same each time, under another master key too.

    Without the master key nothing opens.
    """
    settings = Settings(home=tmp_path)
    kernels, artefact = open_kernels(settings), sealed("first")
    store_artefact(kernels, artefact)
    assert open_kernels(settings).box == kernels.box
    assert open_box(settings, open_store(settings), MODELS).key != kernels.box.key
    before = (tmp_path / "store" / artefact.address).read_bytes()
    done = rotate(settings)
    assert (done.rewrapped, done.sealed) == (1, 0)
    assert {one.master_id for one in listed(open_store(settings), masters(settings))} == {
        done.current
    }
    assert (tmp_path / "store" / artefact.address).read_bytes() == before
    assert open_kernels(settings).get(artefact.address) == artefact.content
    settings.master_key_path.unlink()
    with pytest.raises(KeyMissingError):
        open_kernels(settings)


def test_kernels_of_an_older_esper_are_read_and_sealed_by_a_rotation(tmp_path: Path) -> None:
    """They lie in the clear until then; afterwards none does, and each is what it was."""
    settings = Settings(home=tmp_path)
    plain = [sealed("first"), sealed("second")]
    for artefact in plain:
        open_store(settings).put_if_absent(artefact.address, artefact.content)
        assert open_kernels(settings).get(artefact.address) == artefact.content
    assert rotate(settings).sealed == 2
    store = open_store(settings)
    assert all(is_sealed(store.get(key) or b"") for key in store.list(PREFIX))
    assert [open_kernels(settings).get(artefact.address) for artefact in plain] == [
        artefact.content for artefact in plain
    ]
    assert seal_kernels(open_kernels(settings)) == 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    """A short run with its final model."""
    laboratory = Laboratory(
        tmp_path_factory.mktemp("trained"),
        recipe(run={"epochs": 1, "batch_size": 20}),
        run_id="run-1",
    )
    laboratory.run()
    return laboratory


def test_a_final_model_lies_sealed_and_comes_out_by_one_command(
    trained: Laboratory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`esper model`, `esper decrypt` and `esper.load_model` give the tensors of the end, with the
    hash that the journal has; nobody else may read the file.
    """
    monkeypatch.setenv("ESPER_HOME", str(trained.folder))
    path = trained.settings.runs_dir / "run-1" / "model.safetensors"
    assert is_sealed(path.read_bytes())
    out = tmp_path / "model.safetensors"
    model("run-1", out=out)
    (completed,) = [event for event in trained.journal() if isinstance(event, RunCompleted)]
    assert hashlib.sha256(out.read_bytes()).hexdigest() == completed.model_sha256
    assert completed.model_sha256 in capsys.readouterr().out
    assert out.stat().st_mode & 0o777 == 0o600
    found = esper.load_model("run-1")
    assert found.keys() == load_file(out).keys()
    assert all(found[name].equal(tensor) for name, tensor in load_file(out).items())
    with pytest.raises(UsageError, match="exists already; name another file with --out"):
        model("run-1", out=out)
    decrypt(path, out=tmp_path / "again", as_json=True)
    assert (tmp_path / "again").read_bytes() == out.read_bytes()
    with pytest.raises(
        UsageError, match=r"There is no model in .*the run has not ended, or ran elsewhere"
    ):
        esper.load_model("run-2")


def test_a_model_of_an_older_esper_is_read_as_it_is_and_that_of_another_run_is_refused(
    trained: Laboratory, tmp_path: Path
) -> None:
    """A seal is bound to run and file."""
    box = open_box(trained.settings, open_store(trained.settings), MODELS)
    path = trained.settings.runs_dir / "run-1" / "model.safetensors"
    plain = read_model(path, box)
    assert load(plain)
    for run, content in (("old", plain), ("other", path.read_bytes())):
        (tmp_path / run).mkdir()
        (tmp_path / run / "model.safetensors").write_bytes(content)
    assert read_model(tmp_path / "old" / "model.safetensors", box) == plain
    with pytest.raises(CorruptError, match="is not what was sealed under this name"):
        read_model(tmp_path / "other" / "model.safetensors", box)


def test_nothing_of_a_run_lies_in_the_clear_but_its_journal_and_state(trained: Laboratory) -> None:
    """No file under ESPER_HOME is a safetensors file, and none has the bytes of a tensor of the
    model; but for kernels that the test itself put there.
    """
    box = open_box(trained.settings, open_store(trained.settings), MODELS)
    weights = (
        load(read_model(trained.settings.runs_dir / "run-1" / "model.safetensors", box))[
            "first.weight"
        ]
        .numpy()
        .tobytes()
    )
    for path in (
        one for one in trained.folder.rglob("*") if one.is_file() and "kernels" not in one.parts
    ):
        content = path.read_bytes()
        assert b'"dtype":"F32"' not in content, path
        assert weights[:64] not in content, path


def test_a_key_in_a_folder_that_nobody_can_write_is_used_without_a_lock(tmp_path: Path) -> None:
    """As a mounted secret is.

    Where there is no key, the folder has to be writable, and the sentence says so.
    """
    unwritable = Path("/sys/kernel")
    file = next(path for path in sorted(unwritable.iterdir()) if path.is_file())
    with held(file):
        pass
    with (
        pytest.raises(UnavailableError, match="make its folder writable"),
        held(unwritable / "master.key"),
    ):
        pass
    with held(tmp_path / "keys" / "master.key"):
        assert (tmp_path / "keys" / ".master.key.lock").exists()


def shared_model() -> nn.Module:
    """The laboratory's, with a layer under two names, tied weights, and buffers that are views."""
    middle, tied = nn.Linear(8, 8), nn.Linear(8, 8)
    tied.weight = middle.weight
    parts = dict(PLAIN().named_children())
    last = parts.pop("third")
    host = nn.Sequential(OrderedDict(**parts, middle=middle, again=middle, tied=tied, third=last))
    table = torch.ones(2, 4)
    for row, name in enumerate(("first_row", "second_row")):
        host.register_buffer(name, table[row])
    return host


@pytest.mark.parametrize("make", [PLAIN, shared_model])
def test_a_run_s_model_goes_into_a_model_of_its_class(
    make: Callable[[], nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`esper.load` takes the final model where it lies sealed, and as `esper model` writes it, with
    kernels that were live at the end: the digest is the run's, also where tensors share memory.
    """
    monkeypatch.setattr(laboratory, "model", make)
    trained = Laboratory(
        tmp_path / "home", recipe(run={"epochs": 5, "batch_size": 20}), GROWTH, "run-1"
    )
    _, session = trained.run()
    live = [place for place, one in session.parts.growing.kernels.items() if one.slot.live]
    assert live
    monkeypatch.setenv("ESPER_HOME", str(trained.folder))
    (completed,) = [event for event in trained.journal() if isinstance(event, RunCompleted)]
    written = trained.settings.runs_dir / "run-1" / "model.safetensors"
    model("run-1", out=tmp_path / "out")
    for path in (written, tmp_path / "out"):
        loaded = esper.load(path, make())
        assert parameters_digest(loaded) == completed.digest
        for layer, index in live:
            assert loaded.get_submodule(layer).seeds.slots[index].live  # type: ignore[union-attr, index]
