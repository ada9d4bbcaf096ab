"""`esper.load`: a file gives a plain model of the user's what was trained; what does not fit, or is
hostile, is refused in a sentence, and changes nothing.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, load_file, save, save_file
from torch import Tensor, nn

import esper
from esper.errors import CorruptError, EsperError, UsageError
from esper.kasmina import GrowingModel, KernelTraining, germinate, harvest
from esper.kasmina.plain.files import packed
from esper.kasmina.seeded.layers import SeededLayer
from esper.kasmina.seeded.structure import KEY
from esper.tolaria.step.evaluation import parameters_digest
from tests.unit.kasmina.cases import CASES
from tests.unit.kasmina.test_model_state import (
    Encoder,
    assert_same,
    encoded,
    foundry_slot,
    grown,
)

WRITTEN: dict[str, Callable[[nn.Module, Path], object]] = {
    "a run": lambda model, path: path.write_bytes(packed(model)),
    "torch": lambda model, path: torch.save(model.state_dict(), path),
    "safetensors": lambda model, path: save_file(model.state_dict(), path),
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESPER_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize("germinated", [False, True])
@pytest.mark.parametrize("way", list(WRITTEN))
@pytest.mark.parametrize("name", list(CASES))
def test_a_file_gives_a_model_what_has_grown(
    name: str, way: str, tmp_path: Path, *, germinated: bool
) -> None:
    """A plain model, or a germinated one, computes and digests as the grown one did, for each kind
    of host and of file.
    """
    case, path = CASES[name], tmp_path / "model"
    growing = grown(case)
    # what is dormant is noted by a run alone: the others have the layers with kernels
    WRITTEN[way](growing.module, path)
    model = germinate(case.make(), seeds=3) if germinated else case.make()
    assert esper.load(path, model) is model
    if not germinated and way != "a run":
        for layer_name in growing.layers.keys() - {place[0] for place in growing.kernels}:
            assert not isinstance(model.get_submodule(layer_name), SeededLayer)
        growing.layers = {place[0]: growing.layers[place[0]] for place in growing.kernels}
    assert_same(model, growing, case.inputs(3))
    assert not (tmp_path / "home").exists()


def test_a_plain_file_is_loaded_as_it_is(tmp_path: Path) -> None:
    """A file without anything of Esper, and a harvested model's, go into models of their class."""
    case = CASES["features"]
    plain = case.host()
    torch.save(plain.state_dict(), tmp_path / "plain")
    model = esper.load(tmp_path / "plain", case.make())
    assert parameters_digest(model) == parameters_digest(plain)
    assert not any(isinstance(layer, SeededLayer) for layer in model.modules())


class Shared(nn.Module):
    """Tied weights, a module under two names, and buffers that are views of one table."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Linear(8, 8)
        self.again = self.inside
        self.tied = nn.Linear(8, 8, bias=False)
        self.embedding = nn.Embedding(8, 8)
        self.tied.weight = self.embedding.weight
        self.turned = nn.Linear(8, 8)
        self.turned.weight = nn.Parameter(torch.randn(8, 8).t())
        self.table: Tensor
        self.sine: Tensor
        self.cosine: Tensor
        self.register_buffer("table", torch.randn(2, 8))
        self.register_buffer("sine", self.table[0])
        self.register_buffer("cosine", self.table[1])
        self.register_buffer("empty", torch.zeros(0))
        self.register_buffer("none", None)

    def forward(self, x: Tensor) -> Tensor:
        x = self.again(torch.tanh(self.inside(x))) * self.cosine + self.sine
        found: Tensor = self.turned(torch.tanh(self.tied(x)))
        return found


def test_what_shares_memory_is_saved_under_each_name(tmp_path: Path) -> None:
    """Tied weights, a layer with two names and views are saved, loaded by Esper and by safetensors
    alone, and shared again; in a grown model, too.
    """
    torch.manual_seed(0)
    growing = GrowingModel(germinate(Shared(), seeds=2), training=KernelTraining())
    x = torch.randn(5, 8)
    growing.probe(x)
    for layer in ("inside", "tied"):
        foundry_slot(growing, (layer, 0), "mlp", 0.5).live = True
        growing.kernels[(layer, 0)].slot.fossilised = True
    path = tmp_path / "model.safetensors"
    path.write_bytes(packed(growing.module))
    tensors = load_file(path)
    assert tensors.keys() == growing.module.state_dict().keys() - {
        f"{layer}.{KEY}" for layer in ("inside", "again", "tied")
    }
    torch.save(growing.module.state_dict(), tmp_path / "model.pt")
    for file in (path, tmp_path / "model.pt"):
        model = esper.load(file, Shared())
        assert torch.equal(model(x), growing.module(x))
        assert parameters_digest(model) == parameters_digest(growing.module)
        assert model.again is model.inside
        assert model.tied.weight is model.embedding.weight  # type: ignore[union-attr]
        assert torch.equal(harvest(model)(x), harvest(growing.module)(x))
    plain = germinate(Shared(), seeds=2)
    path.write_bytes(packed(plain))
    Shared().load_state_dict(load_file(path))


def metadata(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what a run's file notes."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    noted = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["esper"])
    change(noted)
    path.write_bytes(save(load(content), {"esper": json.dumps(noted)}))


def rewritten(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    """Change the tensors of a run's file."""

    def apply(path: Path) -> None:
        content = path.read_bytes()
        size = int.from_bytes(content[:8], "little")
        tensors = load(content)
        change(tensors)
        path.write_bytes(save(tensors, json.loads(content[8 : 8 + size])["__metadata__"]))

    return apply


def packed_small(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 1_000_000)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


class Evil:
    def __reduce__(self) -> Any:
        return print, ("executed",)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "is not there": (Path.unlink, "cannot be read: No such file"),
    "is a folder": (folder, "is no plain file"),
    "is empty": (lambda path: path.write_bytes(b""), "cut off|no JSON"),
    "is cut off": (lambda path: path.write_bytes(path.read_bytes()[:-9]), "is no safetensors file"),
    "has a header without end": (
        lambda path: path.write_bytes(b"\xff" * 7 + b"\0" + b"{"),
        "is neither a safetensors file nor one of torch.save",
    ),
    "has no JSON": (lambda path: metadata_text(path, "[{"), "nested deeper|no JSON"),
    "has a list": (lambda path: metadata_text(path, "[]"), "is no safetensors file"),
    "executes": (lambda path: torch.save({"a": Evil()}, path), "holds more than tensors"),
    "is a pickle": (
        lambda path: path.write_bytes(pickle.dumps(Evil())),
        "is neither a safetensors file nor one of torch.save",
    ),
    "is a whole model": (lambda path: torch.save(nn.Linear(2, 2), path), "holds more than tensors"),
    "is a checkpoint": (
        lambda path: torch.save({"model": {"a": torch.zeros(2)}}, path),
        "something else than a state_dict",
    ),
    "is a bomb": (packed_small, "unpacks to more than it has"),
    "is no archive": (lambda path: path.write_bytes(b"PK\x03\x04 and more"), "is damaged"),
    "is of an older Esper": (
        lambda path: metadata(
            path, lambda noted: (noted.pop("layers"), noted.update(kernels={"0/1": {}}))
        ),
        "written by an older Esper",
    ),
    "has a layer more": (
        lambda path: metadata(path, lambda noted: noted["layers"].update(x=noted["layers"]["0"])),
        "seeds in layer x, which this model does not have",
    ),
    "has a layer of another kind": (
        lambda path: metadata(
            path, lambda noted: noted["layers"].update({"1": noted["layers"]["0"]})
        ),
        "layer 1 of kind Linear, and this model's layer is another",
    ),
    "has other widths": (
        lambda path: metadata(path, lambda noted: noted["layers"]["0"].update(chunks=[9, 1, 1])),
        "seeds on 11 channels of layer 0",
    ),
    "has a wrong note": (
        lambda path: metadata(path, lambda noted: noted["layers"]["0"].update(kernels=3)),
        "notes of layer 0 is wrong: kernels",
    ),
    "has another blueprint": (
        lambda path: metadata(
            path, lambda noted: noted["layers"]["0"]["kernels"]["1"].update(ir="{}")
        ),
        r"kernel at 0\[1\] has no blueprint",
    ),
    "lacks a tensor": (rewritten(lambda tensors: tensors.pop("4.bias")), r"has no 4\.bias"),
    "lacks a kernel's": (
        rewritten(lambda tensors: tensors.pop("0.kernel_1.linear1.bias")),
        r"has no 0\.kernel_1\.linear1\.bias",
    ),
    "has a tensor more": (
        rewritten(lambda tensors: tensors.update({"4.more": torch.zeros(1)})),
        r"has 4\.more, which this model does not have",
    ),
    "has a complex one": (
        rewritten(lambda tensors: tensors.update({"4.bias": torch.zeros(5) * 1j})),
        r"4\.bias is complex in .*, and plain in this model",
    ),
    "has a sparse one": (
        lambda path: plain_but(path, torch.zeros(5).to_sparse()),
        r"4\.bias is sparse in .*, and plain in this model",
    ),
    "has one that is larger than memory": (
        lambda path: plain_but(path, torch.zeros(1).expand(1 << 50)),
        r"4\.bias is \(1125899906842624,\)",
    ),
    "has another shape": (
        rewritten(lambda tensors: tensors.update({"4.bias": torch.zeros(6)})),
        r"4\.bias is \(6,\) in .*, and \(5,\) in this model",
    ),
}


def plain_but(path: Path, bias: Tensor) -> None:
    """The plain model's `state_dict` with another tensor in it."""
    torch.save({**CASES["features"].host().state_dict(), "4.bias": bias}, path)


def metadata_text(path: Path, text: str) -> None:
    path.write_bytes(save({"a": torch.zeros(1)}, {"esper": text}))


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants:UserWarning")
@pytest.mark.parametrize("germinated", [False, True])
@pytest.mark.parametrize("fault", list(FAULTS))
def test_a_file_that_does_not_fit_is_refused_and_changes_nothing(
    fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], *, germinated: bool
) -> None:
    """Each kind in a sentence; the model is as it was, seeds and all, and nothing is executed."""
    case, path = CASES["features"], tmp_path / "model"
    path.write_bytes(packed(grown(case).module))
    change, sentence = FAULTS[fault]
    change(path)
    model = germinate(case.host(), seeds=3) if germinated else case.host()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    classes = [type(part) for part in model.modules()]
    if fault == "has other widths" and germinated:
        sentence = "germinate it as it was"
    with pytest.raises(EsperError, match=sentence) as raised:
        esper.load(path, model)
    assert isinstance(raised.value, UsageError | CorruptError)
    assert [type(part) for part in model.modules()] == classes
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(after[name].equal(value) for name, value in before.items())
    assert "executed" not in capsys.readouterr().out


def test_a_model_with_seeds_elsewhere_is_refused(tmp_path: Path) -> None:
    """Its switches are shared by all of its layers: later ones could not join."""
    case, path = CASES["features"], tmp_path / "model"
    path.write_bytes(packed(grown(case).module))
    model = germinate(case.host(), seeds=3, include=["0"])
    with pytest.raises(UsageError, match="layer 4, and this model was germinated without it"):
        esper.load(path, model)


def test_limits_are_the_installation_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A larger file than allowed is refused by the name of the setting."""
    path = tmp_path / "model"
    path.write_bytes(packed(nn.Linear(600, 600)))
    monkeypatch.setenv("ESPER_IMPORTS__FILE_MIB", "1")
    with pytest.raises(CorruptError, match="ESPER_IMPORTS__FILE_MIB"):
        esper.load(path, nn.Linear(600, 600))
    monkeypatch.setenv("ESPER_IMPORTS__FILE_MIB", "2")
    esper.load(path, nn.Linear(600, 600))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_kernels_in_a_fast_path_run_in_a_loaded_model(tmp_path: Path) -> None:
    """Torch would run the whole encoder layer past them in evaluation."""
    growing, x = encoded()
    (tmp_path / "model").write_bytes(packed(growing.module))
    with torch.no_grad():
        assert torch.equal(esper.load(tmp_path / "model", Encoder().eval())(x), growing.module(x))
    rewritten(lambda tensors: tensors.pop("encoder.layers.0.norm1.bias"))(tmp_path / "model")
    plain = Encoder()
    with pytest.raises(UsageError, match=r"has no encoder\.layers\.0\.norm1\.bias"):
        esper.load(tmp_path / "model", plain)
    assert b"esper" not in pickle.dumps(plain.encoder)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["features", "strided"])
def test_hosts_of_other_types_are_saved_and_loaded(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    """Kernels come back in their own type, and compute in it."""
    case = CASES[name]
    model = germinate(case.host().to(dtype), seeds=3)
    growing = GrowingModel(model, training=KernelTraining())
    x = case.inputs(3).to(dtype)
    growing.probe(x)
    slot = foundry_slot(growing, case.places[0], "mlp" if name == "features" else "conv2d", 0.3)
    slot.live = slot.fossilised = True
    model.eval()
    (tmp_path / "model").write_bytes(packed(model))
    loaded = esper.load(tmp_path / "model", case.make().to(dtype)).eval()
    assert torch.equal(loaded(x), model(x))
    assert parameters_digest(loaded) == parameters_digest(model)
    assert torch.equal(harvest(loaded)(x), model(x))
