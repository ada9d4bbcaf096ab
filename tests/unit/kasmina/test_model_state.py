"""A grown model is data: its `state_dict`, its pickle and its copies give it back."""

from __future__ import annotations

import copy
import io
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from esper.errors import UsageError
from esper.events.geometry import parse
from esper.karn import generate
from esper.karn.ir import Budget
from esper.kasmina import GrowingModel, KernelTraining, Place, Slot, germinate, harvest
from esper.kasmina.seeded.structure import KEY, state_tensors
from esper.kernels.build import module_of
from esper.tolaria.step.evaluation import parameters_digest
from tests.unit.kasmina.cases import CASES, Case, graft


def families(geometry: str) -> tuple[str, str]:
    """Two families for a geometry: one that replaces its chunk, one that adds to it."""
    if geometry.startswith(("conv2d", "conv_transpose2d")):
        return "conv2d" if geometry.startswith("conv2d") else "pool", "norm"
    return ("conv1d", "depthwise") if geometry.startswith("conv1d") else ("mlp", "low_rank")


def foundry_slot(growing: GrowingModel, place: Place, family: str, alpha: float) -> Slot:
    reads, width, geometry = growing.shapes()[place]
    ir = generate(
        in_features=reads,
        out_features=width,
        family=family,
        budget=Budget.of(20_000, 64),
        seed=1,
        geometry=parse(geometry),
    )
    assert ir is not None
    slot = Slot(ir.blueprint_id, family, module_of(ir), ir.blend, ir.tap, ir.alpha_target)
    growing.graft(place, slot)
    slot.alpha.fill_(alpha)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in slot.kernel.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return slot


def grown(case: Case, *, double: bool = False) -> GrowingModel:
    """A model with a fossilised kernel, a live one under way, and one that is only in training."""
    model = germinate(case.host(), seeds=3)
    growing = GrowingModel(model.double() if double else model, training=KernelTraining())
    x = case.inputs(3)
    growing.probe(x.double() if double else x)
    first, second = case.places
    replaces, adds = families(growing.shapes()[first][2])
    kept = foundry_slot(growing, first, replaces, 0.3)
    kept.live = kept.fossilised = True
    foundry_slot(growing, (first[0], (first[1] + 1) % 3), adds, 0.7).live = True
    foundry_slot(growing, second, families(growing.shapes()[second][2])[1], 0.0)
    model.train()
    growing(x.double() if double else x)  # moves running statistics
    model.eval()
    assert not growing.switches.notes.raised
    return growing


def assert_same(model: nn.Module, growing: GrowingModel, x: Tensor) -> None:
    """Outputs, digest and structure are the same, and seeds go on as they would."""
    model.eval()
    assert torch.equal(model(x), growing.module(x))
    assert parameters_digest(model) == parameters_digest(growing.module)
    other = {name: layer for name, layer in model.named_modules() if hasattr(layer, "seeds")}
    assert other.keys() == growing.layers.keys()
    for name, layer in growing.layers.items():
        assert other[name].seeds.note() == layer.seeds.note()
        assert other[name].seeds.busy == layer.seeds.busy
    switches = {id(layer.seeds.switches) for layer in other.values()}
    assert len(switches) == 1
    # a harvest of it is the same, too
    with pytest.warns(UserWarning, match="are left out"):
        plain = harvest(model)
    with pytest.warns(UserWarning, match="are left out"):
        assert torch.equal(plain.eval()(x), harvest(growing.module).eval()(x))


def through_torch(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    found: dict[str, Any] = torch.load(file, weights_only=True)
    return found


WAYS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "as it is": dict,
    "torch.save": through_torch,
    "safetensors": lambda state: load(save(state)),
}


@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("name", list(CASES))
def test_a_state_dict_carries_what_has_grown(name: str, way: str) -> None:
    """Loaded into a freshly germinated model of the class, through any file for tensors, it gives
    the grown model back: kernels that are kept, live, or in training, for each kind of host.
    """
    case = CASES[name]
    growing = grown(case)
    fresh = germinate(case.make(), seeds=3)
    assert str(fresh.load_state_dict(WAYS[way](growing.module.state_dict()))) == (
        "<All keys matched successfully>"
    )
    assert_same(fresh, growing, case.inputs(3))
    # once more, into the model that holds these kernels: the same objects get the weights
    kernels = [part for part in fresh.modules() if hasattr(part, "ir")]
    fresh.load_state_dict(growing.module.state_dict())
    assert kernels == [part for part in fresh.modules() if hasattr(part, "ir")]
    assert len(kernels) == 3


def test_kernels_come_back_in_the_type_that_they_were_saved_in() -> None:
    """A model in double precision loses no digit, on its way into one in double precision."""
    case = CASES["features"]
    growing = grown(case)
    growing.module.double()
    with torch.no_grad():
        for parameter in growing.module.parameters():
            parameter.add_(1e-12)
    fresh = germinate(case.make(), seeds=3).double()
    fresh.load_state_dict(growing.module.state_dict())
    assert parameters_digest(fresh) == parameters_digest(growing.module)


@pytest.mark.parametrize(
    ("saved", "own"),
    [
        (torch.float64, torch.float32),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float64),
        (torch.float32, torch.bfloat16),
    ],
)
def test_kernels_fit_a_host_of_another_type_than_they_were_saved_in(
    saved: torch.dtype, own: torch.dtype
) -> None:
    """As torch casts the host's weights: no kernel is left out in silence."""
    case = CASES["features"]
    growing, x = grown(case), case.inputs(3)
    wanted = growing.module(x).detach()
    state = copy.deepcopy(growing.module).to(saved).state_dict()
    fresh = germinate(case.make(), seeds=3).to(own).eval()
    fresh.load_state_dict(state)
    plain = case.make().to(own).eval()
    plain.load_state_dict({name: state[name] for name in plain.state_dict()})
    found = fresh(x.to(own)).float()
    low = torch.bfloat16 in (saved, own) or torch.float16 in (saved, own)
    assert torch.allclose(found, wanted, atol=5e-2 if low else 1e-5)
    assert (found - plain(x.to(own)).float()).abs().max() > (found - wanted).abs().max()
    with pytest.warns(UserWarning, match="are left out"):
        assert torch.isfinite(harvest(fresh)(x.to(own))).all()


@pytest.mark.parametrize("name", list(CASES))
def test_a_dormant_model_s_keys_are_the_plain_ones(name: str) -> None:
    """Checkpoints of plain and germinated models go into each other, strictly."""
    case = CASES[name]
    plain, germinated = case.host(), germinate(case.make(), seeds=3)
    germinated.load_state_dict(plain.state_dict())
    assert torch.equal(germinated.eval()(case.inputs(3)), plain.eval()(case.inputs(3)))
    again = case.make()
    again.load_state_dict(germinated.state_dict())
    assert list(again.state_dict()) == list(germinated.state_dict())


def broken(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], None]:
    """What is noted of the first layer, changed."""

    def apply(state: dict[str, Any]) -> None:
        note = json.loads(bytes(state[f"0.{KEY}"]))
        change(note)
        state[f"0.{KEY}"] = torch.tensor(list(json.dumps(note).encode()), dtype=torch.uint8)

    return apply


def nested(note: dict[str, Any], **values: Any) -> None:
    next(iter(note["kernels"].values())).update(values)


def with_kernel_of_another_layer(state: dict[str, Any]) -> Tensor:
    first, other = (json.loads(bytes(state[f"{layer}.{KEY}"])) for layer in ("0", "4"))
    first["kernels"]["2"] = other["kernels"]["0"]
    return torch.tensor(list(json.dumps(first).encode()), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda state: state.update({f"0.{KEY}": torch.zeros(3)}), "is no JSON in bytes"),
        (
            lambda state: state.update({f"0.{KEY}": torch.full((9,), 91, dtype=torch.uint8)}),
            "nested deeper|no JSON",
        ),
        (broken(lambda note: note.update(version=2)), "version Input should be 1"),
        (broken(lambda note: note.update(more=1)), "more Extra inputs are not permitted"),
        (broken(lambda note: note.update(chunks=[4, 5, 3])), "germinate it as it was"),
        (broken(lambda note: note.update(kind="Conv1d")), "germinate it as it was"),
        (
            broken(lambda note: note["kernels"].update({"7": note["kernels"]["1"]})),
            "a kernel is in no seed",
        ),
        (broken(lambda note: nested(note, ir="{}")), "has no blueprint that can be built"),
        (broken(lambda note: nested(note, ir="")), "was not built from a blueprint"),
        (broken(lambda note: nested(note, family="gate")), "a blueprint of another kernel"),
        (broken(lambda note: nested(note, alpha="NaN")), "alpha"),
        (broken(lambda note: nested(note, kernel_id="../x")), "kernel_id"),
        (
            lambda state: state.update({f"0.{KEY}": with_kernel_of_another_layer(state)}),
            r"kernel at 0\[2\] has a blueprint for another layer",
        ),
        (lambda state: state.pop("0.kernel_1.linear1.weight"), "Missing key"),
        (
            lambda state: state.update({"0.kernel_1.linear1.weight": torch.zeros(2, 2)}),
            "size mismatch",
        ),
        (lambda state: state.update({"1.kernel_1.x": torch.zeros(2)}), "Unexpected key"),
    ],
)
def test_a_state_dict_that_does_not_match_is_refused(
    change: Callable[[dict[str, Any]], object], sentence: str
) -> None:
    """Each in a sentence, as torch's error for a state_dict."""
    case = CASES["features"]
    state = dict(grown(case).module.state_dict())
    change(state)
    with pytest.raises(RuntimeError, match=sentence) as raised:
        germinate(case.make(), seeds=3).load_state_dict(state)
    if "key" not in sentence:
        assert "key" not in str(raised.value)


def test_a_model_with_other_kernels_or_seeds_is_not_overwritten() -> None:
    """Kernels that are there already stay, and so do optimizers that hold them."""
    case = CASES["features"]
    state = grown(case).module.state_dict()
    with pytest.raises(RuntimeError, match=r"Layer 0 is of kind Linear with seeds on \(6, 6\)"):
        germinate(case.make(), seeds=2).load_state_dict(state)
    other = GrowingModel(germinate(case.make(), seeds=3), training=KernelTraining())
    other.probe(case.inputs(3))
    held = foundry_slot(other, ("0", 1), "gate", 0.5)
    with pytest.raises(RuntimeError, match=r"kernel at 0\[1\] is another one here.*just germin"):
        other.module.load_state_dict(state)
    assert other.layers["0"].seeds.slots == [None, held, None]
    # a kernel built by hand: its weights are loaded where it is, and nowhere else
    by_hand = GrowingModel(germinate(case.make(), seeds=3), training=KernelTraining())
    graft(by_hand, ("0", 1), alpha=0.5)
    by_hand.module.load_state_dict(by_hand.module.state_dict())
    with pytest.raises(RuntimeError, match=r"at 0\[1\] was not built from a blueprint"):
        germinate(case.make(), seeds=3).load_state_dict(by_hand.module.state_dict())


def test_digests_and_tensors_of_runs_leave_the_structure_out() -> None:
    """A digest is over parameters and buffers alone, as in journals of before."""
    growing = grown(CASES["features"])
    tensors = state_tensors(growing.module)
    assert growing.module.state_dict().keys() - tensors.keys() == {f"0.{KEY}", f"4.{KEY}"}
    named = [*growing.module.named_parameters(), *growing.module.named_buffers()]
    assert {name: value.data_ptr() for name, value in named} == {
        name: value.data_ptr() for name, value in tensors.items()
    }


def test_a_state_that_is_no_tensor_is_refused() -> None:
    """`get_extra_state` of a module of the user's cannot be part of a snapshot; a tensor can."""

    class Counting(nn.Linear):
        calls: object = 3

        def get_extra_state(self) -> object:
            return self.calls

        def set_extra_state(self, state: object) -> None:
            self.calls = state

    model = germinate(nn.Sequential(Counting(4, 4)), seeds=2)
    with pytest.raises(UsageError, match=r"0\._extra_state of the model is no tensor.*a buffer"):
        parameters_digest(model)
    model[0].calls = torch.tensor(3)  # type: ignore[index]
    assert parameters_digest(model)


def saved_whole(model: nn.Module) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Callable[[nn.Module], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),  # noqa: S301  # made here
    "old pickle": lambda model: pickle.loads(pickle.dumps(model, 2)),  # noqa: S301  # as above
    "torch.save": saved_whole,
}


@pytest.mark.parametrize("way", list(COPIES))
@pytest.mark.parametrize("name", list(CASES))
def test_germinated_and_grown_models_are_copied_whole(name: str, way: str) -> None:
    """Copies compute the same, share nothing with the original, and go on growing."""
    case = CASES[name]
    x = case.inputs(3)
    dormant = germinate(case.host(), seeds=3).eval()
    assert torch.equal(COPIES[way](dormant)(x), dormant(x))
    growing = grown(case)
    other = COPIES[way](growing.module)
    assert_same(other, growing, x)
    want = growing.module(x)
    assert {type(part) for part in other.modules()} == {
        type(part) for part in growing.module.modules()
    }
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert torch.equal(growing.module(x), want)
    # a run that begins with a copy of a dormant model has every seed
    again = GrowingModel(COPIES[way](dormant), training=KernelTraining())
    again.probe(x)
    assert list(again.places()) == list(growing.places())


def test_a_pickled_model_is_loaded_in_a_fresh_process(tmp_path: Path) -> None:
    """The classes that were made at run time are made again there, for a class of the user's,
    too, which is found by its name.
    """
    (tmp_path / "users_own.py").write_text(
        "from torch import nn\n\n\nclass Doubled(nn.Linear):\n"
        "    def forward(self, x):\n        return super().forward(x) * 2\n"
    )
    program = """
import sys, torch
from torch import nn
if sys.argv[1] == "save":
    from esper.kasmina import GrowingModel, KernelTraining, germinate
    from tests.unit.kasmina.test_model_state import foundry_slot
    from users_own import Doubled
    growing = GrowingModel(
        germinate(nn.Sequential(Doubled(8, 12)), seeds=2), training=KernelTraining()
    )
    x = torch.randn(5, 8)
    growing.probe(x)
    foundry_slot(growing, ("0", 1), "mlp", 0.5).live = True
    torch.save((growing.module, x, growing.module(x)), "model.pt")
else:
    model, x, want = torch.load("model.pt", weights_only=False)
    assert torch.equal(model(x), want)
    model[0].seeds.slots[1].live = False
    assert not torch.equal(model(x), want)
    assert "Doubled" in [one.__name__ for one in type(model[0]).__mro__]
"""
    root = Path(__file__).parents[3]
    for step in ("save", "load"):
        subprocess.run(
            [sys.executable, "-c", program, step],
            check=True,
            timeout=300,
            cwd=tmp_path,
            env={"PYTHONPATH": f"{tmp_path}:{root}:{root / 'processors'}"},
        )


def test_a_class_that_pickles_itself_is_refused() -> None:
    """Its pickle would leave out the seeds without a word."""

    class Own(nn.Linear):
        def __reduce__(self) -> Any:
            return nn.Linear, (self.in_features, self.out_features)

    with pytest.raises(UsageError, match="Own, the class of layer 0, pickles itself"):
        pickle.dumps(germinate(nn.Sequential(Own(4, 4)), seeds=2))


def test_a_kind_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickled model of a package's kind of layer needs that package."""
    from esper.kasmina.seeded import hosts  # noqa: PLC0415

    content = pickle.dumps(germinate(nn.Sequential(nn.Linear(4, 4)), seeds=2))
    hosts.known()
    without = {name: kind for name, kind in hosts._registered.items() if name != "Linear"}
    monkeypatch.setattr(hosts, "_registered", without)
    with pytest.raises(UsageError, match="layers of kind Linear, which nobody has registered"):
        pickle.loads(content)  # noqa: S301  # made here


class Encoder(nn.Module):
    """Torch's encoder, with padded positions, whose layers have a fast path in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.zeros(x.shape[:2], dtype=torch.bool)
        mask[:, -1] = True
        found: Tensor = self.encoder(x, src_key_padding_mask=mask)
        return found[:, :-1]


def encoded() -> tuple[GrowingModel, Tensor]:
    """An encoder with a kernel in a layer of its fast path, and an input."""
    torch.manual_seed(0)
    growing = GrowingModel(germinate(Encoder().eval(), seeds=2), training=KernelTraining())
    x = torch.randn(3, 5, 8)
    growing.probe(x)
    slot = foundry_slot(growing, ("encoder.layers.1.linear2", 1), "mlp", 0.7)
    slot.live = slot.fossilised = True
    return growing, x


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_kernels_in_a_fast_path_run_wherever_the_model_comes_from() -> None:
    """In evaluation, after `load_state_dict`, in copies, and in a harvest, which keeps no hook of
    Esper's.
    """
    growing, x = encoded()
    with torch.no_grad():
        want = growing.module(x)
        fresh = germinate(Encoder().eval(), seeds=2)
        assert not torch.allclose(fresh(x), want, atol=1e-2)
        fresh.load_state_dict(growing.module.state_dict())
        for model in (fresh, COPIES["torch.save"](fresh), harvest(fresh)):
            assert torch.equal(model(x), want)
    assert b"esper" not in pickle.dumps(harvest(fresh))


def test_a_model_that_is_one_layer_is_a_model() -> None:
    """The root itself may have seeds: its names have no prefix."""
    growing = GrowingModel(germinate(nn.Linear(8, 12), seeds=2), training=KernelTraining())
    x = torch.randn(5, 8)
    growing.probe(x)
    slot = foundry_slot(growing, ("", 1), "mlp", 0.7)
    slot.live = slot.fossilised = True
    fresh = germinate(nn.Linear(8, 12), seeds=2)
    fresh.load_state_dict(through_torch(growing.module.state_dict()))
    for model in (fresh, COPIES["pickle"](growing.module), harvest(growing.module)):
        assert torch.equal(model(x), growing.module(x))


def test_a_second_run_over_a_grown_model_keeps_what_it_has_or_is_refused() -> None:
    """Seeds would be dormant to the second run, and the first one's kernels replaced: it is told to
    harvest first, after which both grow.
    """
    case = CASES["features"]
    growing = grown(case)
    for slot in (one.slot for one in growing.kernels.values()):
        slot.live = slot.fossilised = True
    model, x = growing.module, case.inputs(3)
    with pytest.raises(UsageError, match=r"Layer 0 holds kernels .* harvest the model"):
        GrowingModel(model, training=KernelTraining()).probe(x)
    again = GrowingModel(germinate(harvest(model), seeds=3), training=KernelTraining())
    again.probe(x)
    again.module.eval()
    assert torch.allclose(again(x), model(x), atol=1e-6)
