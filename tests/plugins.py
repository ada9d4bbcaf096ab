"""Packages outside of the tree, as somebody would install them beside Esper."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def install(folder: Path, name: str, source: str, groups: Mapping[str, Mapping[str, str]]) -> Path:
    """A package of one module with entry points, in a folder to be put on PYTHONPATH.

    `groups` has, for each group, what an entry point is called and what of the module it names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.py").write_text(source)
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "".join(
            f"[{group}]\n" + "".join(f"{entry} = {name}:{what}\n" for entry, what in one.items())
            for group, one in groups.items()
        )
    )
    return folder


FAMILY = '''
"""A family outside of Esper: one bottleneck of half the width, at each position."""

from esper.karn import ChunkPlace, Family, Node
from esper.karn.operators import Activation, Linear


def halved(place: ChunkPlace):
    nodes = (
        Node("linear1", Linear(max(1, place.out_features // 2))),
        Node("activation1", Activation("relu"), ("linear1",)),
        Node("linear2", Linear(place.out_features, initialisation="zero"), ("activation1",)),
    )
    return place.affordable(place.on_input("halved", "RESIDUAL", nodes))


HALVED = Family("halved", {"features": halved, "sequence": halved}, frozenset({"sequence"}))
'''
"""The source of a package `esper_halved`, whose HALVED is a family."""

HOST = '''
"""A kind of host layer outside of Esper: a linear layer that keeps its weight as [in, out]."""

from collections import OrderedDict

import torch
from torch import nn

from esper.kasmina import HostKind


class Folded(nn.Module):
    def __init__(self, reads, writes):
        super().__init__()
        bound = reads**-0.5
        self.matrix = nn.Parameter(torch.empty(reads, writes).uniform_(-bound, bound))
        self.shift = nn.Parameter(torch.zeros(writes))

    def forward(self, x):
        return x @ self.matrix + self.shift


def gradient(layer):
    return None if layer.matrix.grad is None else layer.matrix.grad.T


@torch.no_grad()
def merge(layer, added):
    columns, rest, alpha = added.channels, added.rest, added.alpha
    layer.matrix[:, columns] = (
        rest * layer.matrix[:, columns].double() + alpha * added.weight.T
    ).to(layer.matrix.dtype)
    shift = 0 if added.bias is None else alpha * added.bias
    layer.shift[columns] = (rest * layer.shift[columns].double() + shift).to(layer.shift.dtype)
    return True


FOLDED = HostKind(
    "Folded", Folded, lambda layer: tuple(layer.matrix.shape), gradient=gradient, merge=merge
)


def model():
    parts = {"first": Folded(40, 100), "activation": nn.ReLU(), "second": Folded(100, 10)}
    return nn.Sequential(OrderedDict(parts))
'''
"""The source of a package `esper_folded`, whose FOLDED is a kind of host layer, and `model` a model
with layers of it.
"""

TASK = '''
"""A task outside of Esper: hinge loss, and how often the label is among the two best."""

from torch.nn import functional

from esper import Metric, Outcome, Task


def step(model, batch):
    scores, labels = model(batch[0]), batch[1]
    best = scores.detach().topk(2, dim=-1).indices
    found = (best == labels.unsqueeze(-1)).any(-1).sum()
    return Outcome(functional.multi_margin_loss(scores, labels), {"top_two": found})


RANKED = Task("ranked", step, (Metric("top_two", "fraction"),), "top_two")
'''
"""The source of a package `esper_ranked`, whose RANKED is a task."""

POLICY = '''
"""A policy and a bandit outside of Esper."""

from esper_processors.tamiyo.deciding import Bandit, CommonSettings, Plan, Policy, choices, reviewed


class Settings(CommonSettings):
    until_epoch: int = 1000


def first_open(state, packet, settings, prior, generator):
    """The first kernel of the first open seed, every epoch; no kernel is kept or culled."""
    open_arms = choices(packet, settings, state.taken())
    if not open_arms or packet.epoch > settings.until_epoch:
        return Plan((), "Nothing is open.")
    key, (choice, *_) = next(iter(open_arms.items()))
    kernel = choice.kernels[0]
    command = reviewed(
        packet,
        "GERMINATE",
        (key.layer, choice.seed.seed),
        confidence=1.0,
        urgency=1.0,
        expected_impact=0.0,
        evidence={"open": len(open_arms)},
        kernel_id=kernel.kernel_id,
        family=kernel.family,
    )
    return Plan((command,), f"Takes the first of {len(open_arms)} arms.")


FIRST_OPEN = Policy("first-open", "first-open-1", Settings, first_open)
LAST = Bandit("last", lambda arms, generator: (arms[-1][0], arms[-1][1].worth))
'''
"""The source of a package `esper_first_open`: FIRST_OPEN is a policy, LAST a bandit."""

COLLECTOR = '''
"""A collector outside of Esper: germinations by family, counted once each."""

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from esper.events.records import AdaptationApplied
from esper_processors.nissa.scene import Collector


def take(seen, event):
    if event.command == "GERMINATE":
        seen[event.decision_id] = event.family


def collect(scene, seen):
    grafts = CounterMetricFamily("grafts_begun", "Germinations by family", labels=["family"])
    for family in sorted(set(seen.values())):
        grafts.add_metric([family], sum(one == family for one in seen.values()))
    yield grafts
    yield GaugeMetricFamily("grafts_runs", "Runs that go on", value=len(scene.current))


GRAFTS = Collector("grafts", collect, (AdaptationApplied,), dict, take)
'''
"""The source of a package `esper_grafts`, whose GRAFTS is a collector of metrics."""
