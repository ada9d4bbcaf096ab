"""`esper harvest` writes files that give a model its kernels in a process without Esper."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from esper.bounded import DEFAULT
from esper.errors import UsageError
from esper.events.geometry import parse
from esper.karn import families_for
from esper.kasmina import GrowingModel, KernelTraining, germinate, harvest
from esper.kasmina.plain.files import ModelFile, packed, unpacked
from esper.kasmina.plain.source import harvested
from tests.unit.kasmina.cases import graft
from tests.unit.kasmina.test_harvest import HOSTS
from tests.unit.kasmina.test_model_state import Encoder, encoded, foundry_slot

GEOMETRIES = [
    "",
    "sequence in 6",
    "conv1d k3 s2 p1 d1 g1 in 12",
    "conv2d k3x3 s2x1 p1x1 d1x1 g2 in 8x6",
    "conv2d k3x3 s1x1 psame d2x2 g1 in 6x6",
    "conv_transpose2d k3x2 s2x1 p1x0 o1x0 d1x2 g2 in 5x4",
]

PROGRAM = """
import importlib.util, pathlib, sys
sys.modules["esper"] = None  # any import of it fails
import torch
for folder in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    spec = importlib.util.spec_from_file_location("model", folder / "model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["model"] = module
    host, x, want = torch.load(folder / "host.pt", weights_only=False)
    classes = [type(part) for part in host.modules()]
    assert not torch.equal(host(x), want), folder
    model = module.load(host)
    assert torch.equal(model(x), want), folder
    assert torch.equal(model(input=x), want), folder
    assert [type(part) for part in host.modules()][: len(classes)] == classes
    torch.save(model, folder / "whole.pt")
    assert torch.equal(torch.load(folder / "whole.pt", weights_only=False)(x), want), folder
assert not [name for name in sys.modules if name.startswith("esper.")]
"""


def without_esper(folder: Path) -> None:
    """Load every pair of files below a folder, and compare what the models compute."""
    subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, str(folder)],
        check=True,
        timeout=600,
        cwd=folder,
    )


def written(folder: Path, growing: GrowingModel, host: nn.Module, x: Tensor) -> None:
    """The files of a harvest, the host with other weights, an input, and what is to be computed."""
    folder.mkdir()
    found = harvested(of(growing.module), module="model", saved_as="model.safetensors")
    save_file(dict(found.tensors), folder / "model.safetensors")
    (folder / "model.py").write_text(found.source)
    with torch.no_grad():
        for parameter in host.parameters():
            parameter.zero_()
    torch.save((host, x, growing.module(x).detach()), folder / "host.pt")


def of(model: nn.Module) -> ModelFile:
    return unpacked(packed(model), DEFAULT, "the model")


def layer_of(text: str) -> tuple[nn.Module, Tensor]:
    """A layer of a geometry, and an input."""
    geometry = parse(text)
    if not geometry.convolves:
        return nn.Linear(16, 12), torch.randn(3, *geometry.size, 16)
    window: dict[str, Any] = {
        "stride": geometry.stride,
        "padding": "same" if geometry.padding is None else geometry.padding,
        "dilation": geometry.dilation,
        "groups": geometry.groups,
    }
    if geometry.output_padding:
        window["output_padding"] = geometry.output_padding
    host: nn.Module = HOSTS[geometry.kind](16, 12, geometry.kernel_size, **window)
    return host, torch.randn(3, 16, *geometry.size)


def test_kernels_of_every_family_run_without_esper(tmp_path: Path) -> None:
    """For each kind of layer and each family that has something for it: two kernels in the layer,
    of which one is beside it, bit for bit, and the whole model can be pickled there.
    """
    for number, text in enumerate(GEOMETRIES):
        for family in families_for(parse(text).kind):
            layer, x = layer_of(text)
            host = nn.Sequential(layer)
            model = germinate(nn.Sequential(layer_of(text)[0]), seeds=3)
            growing = GrowingModel(model, training=KernelTraining())
            growing.probe(x)
            for seed, alpha in ((0, 0.4), (2, 0.7)):
                slot = foundry_slot(growing, ("0", seed), family, alpha)
                slot.live = slot.fossilised = True
            model.eval()
            written(tmp_path / f"{number}-{family}", growing, host.eval(), x)
    without_esper(tmp_path)


def test_a_model_that_was_harvested_before_keeps_its_older_kernels() -> None:
    """Harvested, germinated and grown again: the files have the kernels of both lives, and a name
    that a layer has is never taken.
    """
    torch.manual_seed(0)
    x = torch.randn(3, 16)
    host: nn.Module = nn.Sequential(nn.Linear(16, 12))
    for family, shift in (("mlp", 0.0), ("gate", 0.3)):
        model = germinate(host, seeds=3)
        growing = GrowingModel(model, training=KernelTraining())
        growing.probe(x)
        slot = foundry_slot(growing, ("0", 1), family, 0.5)
        with torch.no_grad():
            for parameter in slot.kernel.parameters():
                parameter.add_(shift)
        slot.live = slot.fossilised = True
        model.eval()
        host = host if family == "gate" else harvest(model)
    found = harvested(of(growing.module), module="model", saved_as="model.safetensors")
    names = {name.split(".")[1] for name in found.tensors if "kept" in name}
    assert names == {"kept_0", "kept_1"}
    own = {name: value for name, value in found.tensors.items() if "kept_0" in name}
    older = {name: value for name, value in host.state_dict().items() if "kept_0" in name}
    assert own.keys() == older.keys()
    assert all(torch.equal(own[name], older[name]) for name in own)
    assert "has a {child} already" in found.source


class Own(nn.Module):
    """Layers with names that are no Python, one of them under two names, and a nested one."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"größe x'y/日": nn.Linear(8, 8), 'q"[0]:1': nn.Linear(8, 8)})
        self.again = self.parts["größe x'y/日"]
        self.register_buffer("kept_0", torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.parts.values():
            x = torch.tanh(layer(x))
        found: Tensor = self.again(x)
        return found


def test_names_of_layers_and_what_is_kept() -> None:
    """Names are written as Python reads them; the tensors are those of `esper.harvest`, and what
    is left out is named.
    """
    growing = GrowingModel(germinate(Own(), seeds=2), training=KernelTraining())
    x = torch.randn(5, 8)
    growing.probe(x)
    first, second = growing.layers
    for place, family in (((first, 1), "mlp"), ((second, 0), "gate")):
        slot = foundry_slot(growing, place, family, 0.5)
        slot.live = slot.fossilised = True
    foundry_slot(growing, (second, 1), "low_rank", 0.2).live = True
    foundry_slot(growing, (first, 0), "low_rank", 0.0)
    found = harvested(of(growing.module), module="model", saved_as="model.safetensors")
    # a layer under two names is told of under both
    assert set(found.kept) == {f"mlp at {first}[1]", "mlp at again[1]", f"gate at {second}[0]"}
    assert found.left_out == (f"low_rank at {second}[1]",)
    with pytest.warns(UserWarning, match="are left out"):
        plain = harvest(growing.module)
    assert found.tensors.keys() == plain.state_dict().keys()
    assert all(found.tensors[name].equal(value) for name, value in plain.state_dict().items())
    names: dict[str, Any] = {"__file__": "model.py"}
    exec(found.source, names)  # noqa: S102  # made here
    assert set(names["LAYERS"]) == {first, second, "again"}


def test_a_kernel_without_a_blueprint_cannot_be_written() -> None:
    """It is named; one that is not kept is left out."""
    model = germinate(nn.Sequential(nn.Linear(8, 12)), seeds=2)
    growing = GrowingModel(model, training=KernelTraining())
    graft(growing, ("0", 1), alpha=0.5)
    assert harvested(of(growing.module), module="m", saved_as="m").left_out == ("test at 0[1]",)
    growing.kernels[("0", 1)].slot.fossilised = True
    with pytest.raises(UsageError, match=r"kernel at 0\[1\] was not built from a blueprint"):
        harvested(of(growing.module), module="m", saved_as="m")


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_kernels_in_a_fast_path_run_in_the_written_model(tmp_path: Path) -> None:
    """Torch would run the whole encoder layer past them in evaluation, with a nested tensor."""
    growing, x = encoded()
    found = harvested(of(growing.module), module="model", saved_as="model.safetensors")
    save_file(dict(found.tensors), tmp_path / "model.safetensors")
    names: dict[str, Any] = {"__file__": str(tmp_path / "model.py")}
    exec(found.source, names)  # noqa: S102  # made here
    with torch.no_grad():
        assert torch.equal(names["load"](Encoder().eval())(x), growing.module(x))
