"""A loop of one's own on the bus in memory: batches in structures, and what its journal records."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

from esper.config import Settings
from esper.errors import UsageError
from esper.events import decode
from esper.events.records import RunCompleted, RunStarted
from esper.kasmina import germinate
from esper.oona.bus.memory import MemoryBus
from esper.oona.durable.journal_reader import read
from esper.oona.durable.outbox import Outbox
from esper.tolaria.recipes.splits import digest_of_split
from esper.tolaria.run.own_loop import Growth
from esper.tolaria.run.own_start import OwnLoop, begin
from esper.tolaria.run.trainee import data_digest
from esper.tolaria.run.wiring import RunContext
from esper.tolaria.session.progress import Progress
from esper.tolaria.step.evaluation import evaluate
from tests.unit.kasmina.cases import graft
from tests.unit.tolaria.laboratory import CLOCK
from tests.unit.tolaria.test_built_in_tasks import Host, drawn, whole

RUN = "own-1"
X, MASK, Y = drawn(60, 6), whole(2, 60, 6).float(), whole(4, 60)


@contextmanager
def growing(
    folder: Path, host: nn.Module, held_out: Any, said: io.StringIO | None = None, **given: Any
) -> Iterator[tuple[Growth, MemoryBus, torch.optim.Optimizer]]:
    """A loop of one's own around a host, without Tamiyo."""
    settings, bus = Settings(home=folder), MemoryBus(clock=CLOCK)
    progress = Progress(Console(file=said or io.StringIO(), width=1000))
    with ExitStack() as stack:
        outbox = Outbox.open(settings.runs_dir / RUN / "outbox", clock=CLOCK)
        stack.callback(outbox.close)
        net = germinate(host, seeds=2)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        asked = OwnLoop(
            net,
            optimizer,
            held_out,
            steps=8,
            seed=given.pop("seed", 0),
            task=given.pop("task", "classification"),
            accumulate=given.pop("accumulate", 1),
            settings={"tamiyo": {"enabled": False}, **given},
        )
        place = RunContext(settings, RUN, bus, outbox, CLOCK, progress)
        growth = begin(asked, place, stack)
        yield growth, bus, optimizer
        growth.end(None)


@pytest.mark.parametrize(
    ("held_out", "batch", "task"),
    [
        ((X, Y), (X, Y), "classification"),
        ({"x": X, "mask": MASK, "labels": Y}, None, "classification"),
        (({"x": X, "mask": MASK}, Y), ({"x": X, "mask": MASK}, Y), "classification"),
        ((X, MASK, Y), (X, MASK, Y), {"name": "classification", "label_smoothing": 0.1}),
    ],
)
def test_batches_of_any_structure_train_and_are_recorded(
    tmp_path: Path, held_out: Any, batch: Any, task: Any
) -> None:
    """The loss falls, and the journal has the digest of the held-out samples."""
    losses = []
    with growing(tmp_path, Host(4), held_out, task=task) as (growth, bus, optimizer):
        for _ in range(2):
            for _ in range(4):
                optimizer.zero_grad()
                loss = growth.loss(*batch) if batch is not None else growth.loss(held_out)
                loss.backward()
                growth.step()
                optimizer.step()
                losses.append(loss.item())
            growth.epoch()
        assert growth.rigged.session.cursor.figures is not None
    assert losses[-1] < losses[0]
    events = [decode(one.value, one.headers) for one in read(bus, RUN, clock=CLOCK)]
    assert isinstance(events[0], RunStarted)
    assert isinstance(events[-1], RunCompleted)
    assert data_digest([events[0]]) == digest_of_split(held_out)
    assert digest_of_split(held_out) != digest_of_split((X + 1, Y))


def test_a_registered_scaler_says_how_gradients_are_scaled(tmp_path: Path) -> None:
    """The norm that the run reports is that of true gradients; the scaler skips what overflows, and
    goes on.
    """
    norms = []
    for scaled in (False, True):
        torch.manual_seed(0)
        with growing(tmp_path / str(scaled), Host(4), (X, Y)) as (growth, _, optimizer):
            scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14, enabled=scaled)
            growth.register(**({"scaler": scaler} if scaled else {}))
            for x, y in growth.batches((X, Y), batch_size=15, epochs=2):
                optimizer.zero_grad()
                loss = growth.loss(x, y)
                scaler.scale(loss * math.inf if scaled and growth.steps == 5 else loss).backward()
                growth.step()
                if growth.steps == 1:
                    norms.append(growth.rigged.session.cursor.sums.gradient_norm)
                scaler.step(optimizer)
                scaler.update()
            assert growth.steps == 8
        if scaled:
            assert scaler.get_scale() == 2.0**13
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


@pytest.mark.parametrize(("lossy", "around"), [(True, False), (False, True), (False, False)])
def test_validation_has_the_precision_of_the_live_pass(
    tmp_path: Path, *, lossy: bool, around: bool
) -> None:
    """The autocast of `loss` counts, not that of the call that ends an epoch."""
    seen: list[torch.dtype] = []

    def half(*, enabled: bool) -> torch.autocast:
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled)

    with growing(tmp_path, Host(4), (X, Y)) as (growth, _, optimizer):
        layer = next(iter(growth.rigged.session.parts.growing.layers.values()))
        layer.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
        for _ in range(2):
            optimizer.zero_grad()
            with half(enabled=lossy):
                loss = growth.loss(X, Y)
            growth.backward(loss)
            growth.step()
            optimizer.step()
        live = len(seen)
        with half(enabled=around):
            growth.epoch()
        assert len(seen) > live
    assert set(seen) == {torch.bfloat16 if lossy else torch.float32}


def test_backward_scales_by_what_is_registered_and_says_what_is_wrong(tmp_path: Path) -> None:
    """Gradients are those of the scaled loss; calls out of order are refused."""
    with growing(tmp_path, Host(4), (X, Y)) as (growth, _, optimizer):
        growth.register(scaler=torch.amp.GradScaler("cpu", init_scale=8.0))
        norms = []
        for ours in (True, False):
            optimizer.zero_grad()
            with pytest.raises(UsageError, match=r"once for each growth\.loss"):
                growth.backward(torch.zeros((), requires_grad=True))
            loss = growth.loss(X, Y)
            given: list[Any] = [loss.item(), loss.detach()]
            for wrong in given:
                with pytest.raises(UsageError, match=r"takes the tensor that growth\.loss"):
                    growth.backward(wrong)
            if ours:
                growth.backward(loss)
                with pytest.raises(UsageError, match=r"once for each growth\.loss"):
                    growth.backward(loss)
            else:
                loss.backward()
            parameters = growth.rigged.session.parts.growing.host_parameters
            held = [one.grad for one in parameters if one.grad is not None]
            norms.append(torch.nn.utils.get_total_norm(held).item())
            growth.step()
        assert norms[0] == norms[1] * 8


def test_what_growth_is_asked_for_is_public(tmp_path: Path) -> None:
    """Held-out figures once an epoch has ended, seeds and their stages, and what has none."""
    with growing(tmp_path, Host(4), (X, Y)) as (growth, _, optimizer):
        before = growth.validation
        assert before is None
        growth.backward(growth.loss(X, Y))
        growth.step()
        optimizer.step()
        growth.epoch()
        figures = growth.validation
        assert figures is not None
        assert (figures.epoch, figures.score_name) == (1, "accuracy")
        assert figures.score == figures.metrics["accuracy"]
        assert math.isfinite(figures.loss)
        seeded = {row.name for row in growth.inventory if row.seeds}
        assert seeded == {layer for layer, _ in growth.stages}
        assert set(growth.stages.values()) == {"DORMANT"}


@pytest.mark.parametrize(("samples", "passes"), [(0, 2), (20, 1)])
def test_held_out_passes_cost_what_is_asked_for(tmp_path: Path, samples: int, passes: int) -> None:
    """60 samples are two batches, 20 are one; the split is measured once an epoch."""
    calls: list[int] = []
    said = io.StringIO()
    given = {"validation": {"samples": samples}} if samples else {}
    with growing(tmp_path, Host(4), (X, Y), said, **given) as (growth, _, optimizer):
        parts = growth.rigged.session.parts
        growth.backward(growth.loss(X, Y))
        growth.step()
        optimizer.step()
        parts.growing.module.register_forward_hook(lambda *_: calls.append(1))
        growth.epoch()
        assert len(calls) == passes
        figures = growth.validation
        assert figures is not None
        many = samples or len(X)
        assert figures.loss == evaluate(parts.growing, (X[:many], Y[:many]), parts.task).loss
    assert ("held_out has 20 samples" in said.getvalue()) == (samples == 20)


def accumulated(folder: Path, size: int, accumulate: int) -> tuple[dict[str, Any], list[float]]:
    """Weights of host and of a TRAINING kernel after three steps, and the sums of losses."""
    losses: list[float] = []
    torch.manual_seed(0)
    with growing(folder, Host(4), (X, Y), accumulate=accumulate) as (growth, _, optimizer):
        session = growth.rigged.session
        model, journal = session.parts.growing, session.parts.journal
        for x, y in growth.batches((X, Y), batch_size=size, epochs=2, shuffle=False):
            if not growth.steps:
                # as if Tamiyo had had it grafted
                torch.manual_seed(1)
                for parameter in graft(model, ("body", 0)).kernel.parameters():
                    torch.nn.init.normal_(parameter, std=0.1)
                training = [
                    replace(one, stage="TRAINING", kernel_id="k")
                    if (one.layer, one.seed) == ("body", 0)
                    else one
                    for one in journal.state.seeds
                ]
                journal.state = replace(journal.state, seeds=tuple(training))
            growth.backward(growth.loss(x, y))
            if growth.due:
                growth.step()
                optimizer.step()
                optimizer.zero_grad()
                losses.append(session.cursor.sums.loss)
                if growth.steps == 3:  # before an uneven step, and before gates
                    break
        assert model.kernels[("body", 0)].trained == 3
        weights = {name: one.detach().clone() for name, one in model.module.named_parameters()}
    return weights, losses


def test_accumulated_batches_train_as_the_whole_batch(tmp_path: Path) -> None:
    """Host and kernel go where they go with batches of twice the size, and so does the loss, but
    for rounding.
    """
    (whole, before), (parts, after) = (
        accumulated(tmp_path / "whole", 16, 1),
        accumulated(tmp_path / "parts", 8, 2),
    )
    assert whole.keys() == parts.keys()
    assert any("kernel" in name for name in whole)
    for name, one in whole.items():
        torch.testing.assert_close(parts[name], one, rtol=0, atol=1e-4, msg=name)
    assert after == pytest.approx(before, rel=1e-5)


def test_steps_of_several_batches_say_what_is_wrong(tmp_path: Path) -> None:
    """One loss too many, a step too early, one that is left out, steps that do not fit."""
    sizes = []
    with growing(tmp_path / "many", Host(4), (X, Y), accumulate=3) as (growth, _, optimizer):
        with pytest.raises(UsageError, match="batches, 3 a step, are 4"):
            growth.batches((X, Y), batch_size=10, epochs=2)
        waiting = 0
        for x, y in growth.batches((X, Y), batch_size=6, epochs=2):
            growth.backward(growth.loss(x, y))
            waiting += 1
            if not growth.due:
                with pytest.raises(UsageError, match="This step has 3 batches"):
                    growth.step()
                continue
            with pytest.raises(UsageError, match=r"growth\.loss.* was called"):
                growth.loss(x, y)
            growth.step()
            optimizer.step()
            sizes.append(waiting)
            waiting = 0
    assert sizes == [3, 3, 3, 1] * 2
    with growing(tmp_path / "none", Host(4), (X, Y), accumulate=2) as (growth, _, _):
        batches = growth.batches((X, Y), batch_size=8, epochs=2)
        for _ in range(2):
            growth.backward(growth.loss(*next(batches)))
        with pytest.raises(UsageError, match="once for each step, when growth"):
            next(batches)
    with (
        pytest.raises(UsageError, match="give it as accumulate"),
        growing(tmp_path / "said", Host(4), (X, Y), run={"accumulate": 2}),
    ):
        pass
    with (
        pytest.raises(UsageError, match=r"run.accumulate = 0 does not fit"),
        growing(tmp_path / "zero", Host(4), (X, Y), accumulate=0),
    ):
        pass


WRONG: list[tuple[Any, dict[str, Any], str]] = [
    ((X, Y[:9]), {}, "held_out has 60 inputs and 9 labels; it needs as many of one as of the oth"),
    ((X[:0], Y[:0]), {}, "held_out has 0 inputs and 0 labels"),
    ((X.numpy(), Y), {}, r"held_out\[0\] is a numpy ndarray: give torch.from_numpy"),
    (X, {}, "held_out is one tensor: give inputs and targets"),
    ((X, Y + 1), {}, "held_out has label 4 at sample"),
    ((X / 0, Y), {}, "held_out has .* in inputs at sample 0"),
    ((X[:, :5], Y), {}, "called by task classification on held_out, in its layer body, raised"),
    ((X, Y), {"seed": -1}, "run.seed = -1 does not fit"),
    ((X, Y), {"seed": 1 << 63}, "run.seed = 9223372036854775808 does not fit"),
    ((X, Y), {"task": "regression"}, "regression needs the same shape"),
    ((X, Y), {"task": {"name": "regression", "shift": True}}, "task.shift is not for regression"),
    ((X, Y), {"task": 3}, "task = 3 does not fit"),
    ((X, Y), {"kernels": {"rate": 1}}, "Unknown key kernels.rate"),
    ((X, Y), {"run": {"precision": "bfloat16"}}, r"run.precision to the loop: put torch.autocast"),
    ((X, Y), {"run": {"epochs": 3}}, "run.epochs to the loop: give it to growth.batches"),
    ((X, Y), {"optimizer": {"name": "SGD"}}, "optimizer to the loop: make one before"),
    ((X, Y), {"kasmina": {"seeds": 3}}, "kasmina to the loop: give it to esper.germinate"),
]


@pytest.mark.parametrize(("held_out", "given", "sentence"), WRONG)
def test_what_cannot_be_is_one_sentence(
    tmp_path: Path, held_out: Any, given: dict[str, Any], sentence: str
) -> None:
    """Before a journal is begun."""
    with (
        pytest.raises(UsageError, match=sentence),
        growing(tmp_path, Host(4), held_out, **given) as (_, bus, _),
    ):
        assert not read(bus, RUN, clock=CLOCK)


def test_too_few_samples_for_any_gate_are_said(tmp_path: Path) -> None:
    """With the number that is needed."""
    said = io.StringIO()
    with growing(tmp_path, Host(4), (X[:50], Y[:50]), said):
        assert "held_out has 50 samples, one batch of 50" in said.getvalue()
        assert "51 are the least" in said.getvalue()
