"""Kinds of host layer: one object says all that Esper asks about a layer's class."""

from __future__ import annotations

import ast
import copy
import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import esper
from esper import plugins
from esper.errors import BuildError, UsageError
from esper.events.geometry import Geometry
from esper.kasmina import GrowingModel, HostKind, KernelTraining, germinate, harvest, register
from esper.kasmina.seeded import hosts
from esper.kasmina.seeded.built_in_hosts import BUILT_IN
from esper.tolaria.recipes.recipe import OWNER, load
from esper.tolaria.recipes.sources import modules_of
from esper.tolaria.run.trainee import model_of
from tests.plugins import HOST, install
from tests.unit.kasmina.cases import CASES, graft
from tests.unit.nissa.journal import Run
from tests.waiting import PATIENCE_S


@pytest.fixture(autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers ends with it."""
    monkeypatch.setattr(hosts, "_registered", dict(hosts.known()))


@pytest.fixture
def package() -> dict[str, Any]:
    """The names of a package that brings layers which keep their weight as [in, out]."""
    names: dict[str, Any] = {"__name__": "esper_folded"}
    exec(HOST, names)  # noqa: S102  # the source of the package that other tests install
    return names


def test_every_kind_has_a_model_in_the_tests() -> None:
    """A kind that is added and not tested is found here: CASES has a host with layers of it."""
    there = {type(layer) for case in CASES.values() for layer in case.host().modules()}
    assert {kind.layer for kind in BUILT_IN} <= there


def test_one_module_knows_the_classes_of_host_layers() -> None:
    """Nothing else in Esper names a convolution's class; recipes, starters and benchmarks make
    models.
    """
    root = Path(esper.__file__).parent
    allowed = {root / "kasmina" / "seeded" / "built_in_hosts.py"}
    makes_models = {root / "bench", root / "starters", root / "tolaria" / "recipes"}
    classes = {kind.layer.__name__ for kind in BUILT_IN} - {"Linear"}  # kernels are made of those
    for path in root.rglob("*.py"):
        if path in allowed or makes_models & {*path.parents}:
            continue
        named = {
            node.attr
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "nn"
        }
        assert not named & classes, path


def test_a_kind_that_is_registered_grows_like_esper_s_own(package: dict[str, Any]) -> None:
    """Dormant it is the plain layer; a kernel blends into its own channels; statistics see each
    chunk's columns; a harvested linear map is part of the matrix.
    """
    model = package["model"]
    register(package["FOLDED"])
    torch.manual_seed(2)
    plain = model()
    growing = GrowingModel(germinate(copy.deepcopy(plain), seeds=4), training=KernelTraining())
    x = torch.randn(5, 40)
    assert growing.probe(x) == {}
    assert torch.equal(growing.module(x), plain(x))
    assert [(one.kind, one.in_features, one.chunks) for one in growing.inventory()] == [
        ("Folded", 40, (25, 25, 25, 25)),
        ("Folded", 100, (3, 3, 2, 2)),
    ]
    growing(x).square().sum().backward()
    growing.observe_gradients()
    gradient = growing.module.get_submodule("second").matrix.grad
    assert isinstance(gradient, Tensor)
    found = growing.read_statistics()[("second", 1)].gradient_norm
    assert found == pytest.approx(gradient[:, 3:6].norm().item(), rel=1e-5)

    kernel = nn.Sequential(nn.Linear(40, 2, bias=False), nn.Linear(2, 25))
    slot = graft(growing, ("first", 1), kernel, blend="RESIDUAL", alpha=0.3)
    slot.fossilised = True
    hidden = plain[0](x)
    hidden[:, 25:50] += 0.3 * kernel(x)
    assert torch.allclose(growing.module[0](x), hidden, atol=1e-6)  # type: ignore[index]
    result = harvest(growing.module)
    assert type(result[0]) is package["Folded"]  # type: ignore[index]
    assert torch.allclose(result[0](x), hidden, atol=1e-5)  # type: ignore[index]
    assert sum(one.numel() for one in result.parameters()) == sum(
        one.numel() for one in plain.parameters()
    )


def test_the_gradient_of_a_transposed_convolution_is_by_output_channel() -> None:
    """Its weight is [in, out / groups, ...]: rows are those of the output channels, whatever the
    groups, as differences of the loss in one channel alone show.
    """
    (kind,) = (one for one in BUILT_IN if one.name == "ConvTranspose2d")
    for groups in (1, 2):
        layer = nn.ConvTranspose2d(4, 6, 3, stride=2, groups=groups)
        for channel in range(6):
            layer.zero_grad()
            layer(torch.randn(2, 4, 5, 5))[:, channel].square().sum().backward()
            found = hosts.gradient(kind, layer)
            assert found is not None
            assert found.shape == (6, 4 // groups, 3, 3)
            assert [index for index in range(6) if found[index].any()] == [channel]
            whole = layer.weight.grad
            assert whole is not None
            assert found[channel].norm().item() == pytest.approx(whole.norm().item(), rel=1e-5)


@pytest.fixture
def bring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Install the package with a kind beside Esper, under a name and from a source."""

    def do(entry: str = "Folded", source: str = HOST, what: str = "FOLDED") -> None:
        groups = {plugins.HOST_KINDS: {entry: what}}
        monkeypatch.syspath_prepend(install(tmp_path / "site", "esper_folded", source, groups))
        hosts._install.cache_clear()

    yield do
    hosts._install.cache_clear()
    sys.modules.pop("esper_folded", None)


def test_an_installed_package_brings_a_kind(bring: Callable[..., None]) -> None:
    """Its layers have seeds without a call, and its source is among those that a run keeps."""
    assert modules_of(load("mnist1d")) == []
    bring()
    model = importlib.import_module("esper_folded").model()
    growing = GrowingModel(germinate(model, seeds=2), training=KernelTraining())
    growing.probe(torch.randn(3, 40))
    assert {one.kind for one in growing.inventory()} == {"Folded"}
    assert modules_of(load("mnist1d")) == ["esper_folded"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"entry": "folded"}, "'folded' of esper.host_kinds has a kind of the name 'Folded': both"),
        ({"what": "model"}, "'Folded' of package esper_folded .* has to be a HostKind"),
        ({"source": "import nothing_like_it"}, r"cannot be loaded \(ModuleNotFoundError: "),
        ({"source": HOST.replace('"Folded", Folded', '"F!", Folded')}, "'F!' is no name of a kind"),
        ({"source": HOST.replace('"Folded", Folded', '"Folded", nn.Linear')}, "two kinds of host"),
    ],
)
def test_a_package_whose_kind_cannot_be_used_is_named(
    bring: Callable[..., None], given: dict[str, str], sentence: str
) -> None:
    """Nothing is germinated, and one sentence says what to do."""
    bring(**given)
    with pytest.raises(UsageError, match=sentence):
        germinate(nn.Sequential(nn.Linear(2, 2)))


def test_a_run_with_layers_of_an_unknown_kind_is_refused() -> None:
    """Before its model is made, and where the model's module cannot be imported either; a run of
    known kinds, or one that has not begun, is not.
    """
    started = Run("r").started()
    layer = replace(started.layers[0], kind="Folded")
    events = [replace(started, layers=(layer,))]
    sentence = "layers of the kind Folded, which is not known here: install the package"
    here = load("mnist1d")
    gone = here.model_copy(update={"model": "esper_gone:model"})
    for recipe in (here, gone):
        with pytest.raises(UsageError, match=sentence):
            model_of(recipe, OWNER, events)
    with pytest.raises(UsageError, match="module esper_gone cannot be imported"):
        model_of(gone, OWNER, [])
    linear = [replace(started, layers=(replace(layer, kind="Linear"),))]
    assert model_of(here, OWNER, linear) is model_of(here, OWNER, [])


def test_sequences_on_a_registered_kind_are_seen(package: dict[str, Any]) -> None:
    """[batch, length, features] is a sequence on it, as on a Linear layer."""
    register(package["FOLDED"])
    growing = GrowingModel(germinate(package["model"]()), training=KernelTraining())
    growing.probe(torch.randn(3, 7, 40))
    assert {one.geometry for one in growing.inventory()} == {"sequence in 7"}


def test_a_kernel_is_not_merged_where_the_layer_does_more() -> None:
    """A user's subclass with its own forward, a parametrised weight, and one that layers share keep
    the kernel beside the layer; the model computes what it did.
    """

    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:  # noqa: A002
            return 2 * super().forward(input)

    def shared() -> nn.Module:
        model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
        model[1].weight = model[0].weight
        return model

    normed = nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))
    for model in (nn.Sequential(Doubled(6, 6)), shared(), nn.Sequential(normed)):
        growing = GrowingModel(germinate(model, seeds=2), training=KernelTraining())
        x = torch.randn(4, 6)
        growing.probe(x)
        slot = graft(growing, ("0", 1), nn.Sequential(nn.Linear(6, 3)), alpha=0.5)
        slot.fossilised = True
        result = harvest(growing.module)
        assert isinstance(result[0].kept_0, torch.fx.GraphModule)  # type: ignore[index]
        assert torch.allclose(result(x), growing.module(x), atol=1e-6)


def test_the_nearest_class_decides() -> None:
    """A kind of a subclass goes before that of its parent, whatever their order."""

    class Own(nn.Linear):
        pass

    register(HostKind("Own", Own, lambda layer: (layer.in_features, layer.out_features)))
    kinds = [hosts.kind_of(layer) for layer in (Own(2, 2), nn.Linear(2, 2), nn.ReLU())]
    assert [kind.name if kind else None for kind in kinds] == ["Own", "Linear", None]


def test_two_kinds_of_a_name_or_class_are_refused(package: dict[str, Any]) -> None:
    """Both are named; the same one again, as a notebook's cell does it, takes the place."""
    folded = register(package["FOLDED"])
    again = replace(folded)
    assert register(again) is hosts.known()["Folded"] is again
    with pytest.raises(UsageError, match=r"two kinds of host layer 'Linear' .* and 'Linear'"):
        register(replace(folded, name="Linear"))
    with pytest.raises(UsageError, match=r"'Straight' \(torch.nn.*Linear\) and 'Linear'"):
        register(replace(folded, name="Straight", layer=nn.Linear))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"name": "No name"}, "is no name of a kind of layer"),
        ({"name": ""}, "is no name of a kind of layer"),
        ({"layer": 3}, "has to be a class of torch.nn.Module"),
        ({"channel_dim": 1}, "channel_dim of kind Folded is 1; it is -1"),
    ],
)
def test_a_kind_that_makes_no_sense_is_refused(
    package: dict[str, Any], wrong: dict[str, Any], sentence: str
) -> None:
    """One sentence, when it is made."""
    with pytest.raises(UsageError, match=sentence):
        replace(package["FOLDED"], **wrong)


def fails(*_: object) -> Any:
    raise ZeroDivisionError("of the package")


def refuses(*_: object) -> Any:
    raise BuildError("it is too odd")


def image(*_: object) -> Geometry:
    return Geometry("conv2d", (4, 4), (1, 1), (1, 1), (0, 0), (1, 1))


def none_runs(owner: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    if type(owner).__name__ == "Folded":
        yield owner, "its owner says so"


def too_long(*_: object) -> tuple[int, int]:
    return (40, 101)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"channels": fails}, "Host kind Folded of esper_folded.Folded has failed .*ZeroDivision"),
        ({"geometry": fails}, "Host kind Folded .* has failed"),
        ({"gradient": fails}, "Host kind Folded .* has failed"),
        ({"refuses": fails}, "Host kind Folded .* has failed"),
        ({"merge": fails}, "Host kind Folded .* has failed"),
        ({"geometry": image}, "no geometry of layers with their channels in dimension -1"),
        ({"geometry": lambda *_: None}, "Host kind Folded .* says None, which is no geometry"),
        ({"geometry": refuses}, "No layer can grow: first: it is too odd"),
        ({"refuses": none_runs}, "No .* layer matches"),
        ({"channels": too_long}, r"No layer can grow: first: it turns \(5, 40\) into \(5, 100\)"),
    ],
)
def test_what_a_package_s_kind_does_wrong_is_said_of_it(
    package: dict[str, Any], wrong: dict[str, Any], sentence: str
) -> None:
    """Whatever one of its functions does, one sentence names the kind or the layer."""
    register(replace(package["FOLDED"], **wrong))

    def live() -> None:
        growing = GrowingModel(germinate(package["model"]()), training=KernelTraining())
        growing.probe(torch.randn(5, 40))
        growing(torch.randn(5, 40)).sum().backward()
        growing.observe_gradients()
        graft(growing, ("first", 0), nn.Sequential(nn.Linear(40, 25)), alpha=0.5).fossilised = True
        harvest(growing.module)

    with pytest.raises(UsageError, match=sentence):
        live()


def test_a_librarys_kind_is_known_once_the_library_is_imported_or_a_run_wants_it() -> None:
    """Nobody pays for a library that the model does not use; a run that was recorded with its
    layers finds their kind before its model is made.
    """
    program = """
import sys
from esper.kasmina.seeded.hosts import known
assert "TransformersConv1D" not in known()
assert "transformers" not in sys.modules
wanted = known(["TransformersConv1D", "Linear", "Nobody"])
from transformers.pytorch_utils import Conv1D
assert wanted["TransformersConv1D"].layer is Conv1D
assert "Nobody" not in wanted
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
