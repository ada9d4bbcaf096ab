"""A model that is wrapped after `germinate`, or germinated in several calls, grows as one that was
not.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

import esper
from esper.errors import UsageError
from esper.kasmina import GrowingModel, KernelTraining, Place, germinate
from esper.kasmina.seeded.shadow import left_out, standing_in
from tests.unit.kasmina.cases import graft


class Classifier(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(x))
        return logits


class Holder(nn.Module):
    """As a trainer's module holds the model that it trains."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits


def backbone() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16))


def in_two_calls() -> nn.Module:
    model = backbone()
    germinate(model, seeds=2, include=["0"])
    germinate(model, seeds=2, include=["2"])
    return model


def compiled(model: nn.Module) -> nn.Module:
    torch._dynamo.reset()
    made: nn.Module = torch.compile(model, backend="eager")  # type: ignore[assignment]
    return made


def compiled_and_run(model: nn.Module) -> nn.Module:
    made = compiled(model)
    made(inputs())
    return made


def inputs() -> Tensor:
    return torch.randn(20, 12, generator=torch.Generator().manual_seed(1))


@contextmanager
def one_rank() -> Iterator[None]:
    """A process group of this process alone, on a free port of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    before = os.environ.get("GLOO_SOCKET_IFNAME")
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1
    )
    try:
        yield
    finally:
        distributed.destroy_process_group()
        if before is None:
            del os.environ["GLOO_SOCKET_IFNAME"]
        else:
            os.environ["GLOO_SOCKET_IFNAME"] = before


# what is trained, and the name of its first layer
WAYS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "as it is": (lambda: Classifier(germinate(backbone(), seeds=2)), "backbone.0"),
    "a part germinated": (lambda: germinate(Classifier(backbone()), seeds=2), "backbone.0"),
    "two calls": (in_two_calls, "0"),
    "held": (lambda: Holder(germinate(Classifier(backbone()), seeds=2)), "model.backbone.0"),
    "DataParallel": (
        lambda: nn.DataParallel(germinate(Classifier(backbone()), seeds=2)),
        "module.backbone.0",
    ),
    "compiled": (
        lambda: compiled(germinate(Classifier(backbone()), seeds=2)),
        "_orig_mod.backbone.0",
    ),
    "compiled and run": (
        lambda: compiled_and_run(germinate(Classifier(backbone()), seeds=2)),
        "_orig_mod.backbone.0",
    ),
    "held and compiled": (
        lambda: Holder(compiled(germinate(Classifier(backbone()), seeds=2))),
        "model._orig_mod.backbone.0",
    ),
}


def check(model: nn.Module, first: str) -> None:
    growing = GrowingModel(model, training=KernelTraining(warmup_steps=0))
    x = inputs()
    assert growing.probe(x[:3]) == {}
    place: Place = (first, 1)
    assert next(iter(growing.layers)) == first
    assert {layer.name for layer in growing.inventory()} == set(growing.layers)
    with torch.no_grad():
        host = model(x)
        slot = graft(growing, place, alpha=0.0)
        slot.live = False
        assert torch.equal(model(x), host)
        with standing_in(growing.switches, place):
            assert not torch.equal(model(x), host)
        slot.live = True
        slot.alpha.fill_(1.0)
        assert not torch.equal(model(x), host)
        with left_out(growing.switches, place):
            assert torch.equal(model(x), host)
        with growing.switches.set_aside(frozenset({place})):
            assert torch.equal(model(x), host)
    slot.live = False
    # several steps: the host by its own backward, the kernel by shadow passes between them
    before = slot.kernel.state_dict()["0.weight"].clone()
    for step in range(3):
        functional.cross_entropy(model(x), torch.zeros(20, dtype=torch.long)).backward()
        own = [parameter.grad for parameter in growing.host_parameters]
        kept = [None if gradient is None else gradient.clone() for gradient in own]
        growing.shadow_step(place, step, lambda: model(x).square().mean())
        assert not growing.switches.notes.raised
        for gradient, copy in zip(own, kept, strict=True):
            assert gradient is not None
            assert torch.equal(gradient, copy if copy is not None else gradient)
        growing.optimise({place: growing.kernels[place].norm(1.0)}, 1.0)
        growing.zero_gradients()
    assert not torch.equal(slot.kernel.state_dict()["0.weight"], before)


@pytest.mark.parametrize("way", list(WAYS))
def test_shadow_passes_and_fallbacks_reach_kernels_of_a_wrapped_model(way: str) -> None:
    """A kernel stands in, is left out and set aside, and learns beside the host's own gradients;
    names are those of what is trained.
    """
    make, first = WAYS[way]
    check(make(), first)


def test_a_model_of_one_process_under_ddp_grows() -> None:
    """Its reducer waits for the gradients of all parameters: shadow passes go past it."""
    with one_rank():
        model = nn.parallel.DistributedDataParallel(germinate(Classifier(backbone()), seeds=2))
        check(model, "module.backbone.0")


def test_copies_of_a_model_are_refused() -> None:
    """A kernel is on one device of one process; what runs copies is refused in a sentence."""
    model = nn.DataParallel(germinate(backbone()))
    model.device_ids = [0, 1]
    with pytest.raises(UsageError, match="copies of the model on 2 GPUs"):
        GrowingModel(model, training=KernelTraining())
    with one_rank():
        ddp = nn.parallel.DistributedDataParallel(germinate(backbone()))
        ddp.process_group = type("Two", (), {"size": lambda _: 2})()
        with pytest.raises(UsageError, match="in 2 processes"):
            GrowingModel(ddp, training=KernelTraining())


def test_the_last_growing_model_has_the_layers() -> None:
    """Whoever wraps the model once more and grows that, reaches the same kernels by new names."""
    inner = germinate(Classifier(backbone()), seeds=2)
    GrowingModel(inner, training=KernelTraining())
    check(Holder(inner), "model.backbone.0")
    rows = [row for row in esper.inventory(inner) if row.seeds]
    assert [row.name for row in rows] == ["backbone.0", "backbone.2", "head"]
