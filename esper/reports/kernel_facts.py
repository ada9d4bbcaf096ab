"""Kernels that a run grafted: what they are, where they come from, what became of them. Pure."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from esper.events import JournalEvent
from esper.events.records import (
    KernelPublished,
    KernelValidated,
    RunForked,
    RunRolledBack,
    SeedTransitioned,
)
from esper.reports.decision_trail import StageFacts
from esper.reports.material import KernelCopy, Material

RESTORED: Final = "restored with the state"
_WITH_KERNEL: Final = frozenset({"TRAINING", "BLENDING", "SHADOWING", "PROBATIONARY", "FOSSILIZED"})


@dataclass(frozen=True, slots=True)
class ValidationFacts:
    """One check that the foundry made of a kernel before it was published."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, slots=True)
class GraftFacts:
    """A kernel in one place, from its graft to its end.

    `to_step` is the step at which it was given up, or the last of its timeline that the journal
    has; `stage` the last that it was in.
    """

    timeline: int
    layer: str
    seed: int
    decision_id: str
    from_step: int
    to_step: int
    stage: str
    path: tuple[StageFacts, ...]


@dataclass(frozen=True, slots=True)
class KernelFacts:
    """One kernel. None is what neither its artefact nor its publication at hand says.

    `blueprint` is the canonical JSON that its id and weights prove; `parents` are the kernels that
    it descends from; `checks` what the foundry verified.
    """

    kernel_id: str
    family: str
    parameters: int | None
    flops: int | None
    blueprint_id: str | None
    blueprint: Any
    sha256: str | None
    size_bytes: int | None
    parents: tuple[str, ...] | None
    checks: tuple[ValidationFacts, ...] | None
    grafts: tuple[GraftFacts, ...]


def kernel_facts(material: Material) -> tuple[KernelFacts, ...]:
    """Every kernel that the run grafted, in the order of the first graft."""
    grafts = grafts_of(material.journal)
    families = _families(material.journal)
    published = {one.kernel_id: one for one in reversed(material.every(KernelPublished))}
    validated = {one.kernel_id: one for one in material.every(KernelValidated)}
    return tuple(
        _kernel(
            kernel_id,
            families.get(kernel_id, ""),
            material.kernels.get(kernel_id),
            published.get(kernel_id),
            validated.get(kernel_id),
            tuple(graft for one, graft in grafts if one == kernel_id),
        )
        for kernel_id in dict.fromkeys(one for one, _ in grafts)
    )


def _families(journal: Sequence[JournalEvent]) -> dict[str, str]:
    named: dict[str, str] = {}
    for event in journal:
        if isinstance(event, RunForked | RunRolledBack):
            named |= {seed.kernel_id: seed.family for seed in event.seeds if seed.kernel_id}
        elif isinstance(event, SeedTransitioned) and event.kernel_id:
            named[event.kernel_id] = event.family
    return named


def steps_trained(kernels: Sequence[KernelFacts]) -> list[tuple[int, int | None]]:
    """Of each graft: the steps that its kernel was trained, and its operations a sample."""
    return [
        (max(0, graft.to_step - graft.from_step), kernel.flops)
        for kernel in kernels
        for graft in kernel.grafts
    ]


def _kernel(
    kernel_id: str,
    family: str,
    copy: KernelCopy | None,
    published: KernelPublished | None,
    validated: KernelValidated | None,
    grafts: tuple[GraftFacts, ...],
) -> KernelFacts:
    # the artefact first: its id proves it
    source = copy or published
    return KernelFacts(
        kernel_id=kernel_id,
        family=family,
        parameters=source.parameters if source else None,
        flops=source.flops if source else None,
        blueprint_id=source.blueprint_id if source else None,
        blueprint=json.loads(copy.blueprint) if copy else None,
        sha256=source.sha256 if source else None,
        size_bytes=source.size_bytes if source else None,
        parents=published.parents if published else None,
        checks=None
        if validated is None
        else tuple(ValidationFacts(one.name, one.passed, one.detail) for one in validated.checks),
        grafts=grafts,
    )


@dataclass(slots=True)
class _Live:
    """A kernel in its place while the journal is read."""

    kernel_id: str
    timeline: int
    layer: str
    seed: int
    decision_id: str
    from_step: int
    path: list[StageFacts]

    def ended(self, step: int) -> tuple[str, GraftFacts]:
        """Its graft, which ends at a step."""
        return self.kernel_id, GraftFacts(
            self.timeline,
            self.layer,
            self.seed,
            self.decision_id,
            self.from_step,
            max(step, self.from_step),
            self.path[-1].stage,
            tuple(self.path),
        )


_Places = dict[tuple[str, int], _Live]


def grafts_of(journal: Sequence[JournalEvent]) -> list[tuple[str, GraftFacts]]:
    """Kernels in their places, by the order of their graft: from TRAINING on to the end.

    A fork has those of its parent from its first step on, a rollback those that its snapshot keeps.
    """
    return sorted(_grafts(journal), key=lambda one: one[1].path[0].event)


def _grafts(journal: Sequence[JournalEvent]) -> Iterator[tuple[str, GraftFacts]]:
    live: _Places = {}
    step = 0
    for event in journal:
        if isinstance(event, RunRolledBack):
            yield from [one.ended(event.from_step) for one in live.values()]
            live = _restored(event, {"FOSSILIZED"})
        elif isinstance(event, RunForked):
            live = _restored(event, _WITH_KERNEL)
        elif isinstance(event, SeedTransitioned):
            yield from _moved(event, live)
        step = event.step
    yield from [one.ended(step) for one in live.values()]


def _restored(event: RunForked | RunRolledBack, stages: Container[str]) -> _Places:
    """The kernels that a restored state has in one of these stages."""
    return {
        (seed.layer, seed.seed): _Live(
            seed.kernel_id,
            event.timeline,
            seed.layer,
            seed.seed,
            seed.decision_id,
            event.step,
            [StageFacts(event.sequence, event.epoch, event.step, seed.stage, RESTORED)],
        )
        for seed in event.seeds
        if seed.kernel_id and seed.stage in stages
    }


def _moved(event: SeedTransitioned, live: _Places) -> Iterator[tuple[str, GraftFacts]]:
    place = (event.layer, event.seed)
    if event.to_stage == "TRAINING":
        live[place] = _Live(
            event.kernel_id, event.timeline, *place, event.decision_id, event.step, []
        )
    if place not in live:
        return
    live[place].path.append(
        StageFacts(event.sequence, event.epoch, event.step, event.to_stage, event.reason)
    )
    if event.to_stage not in _WITH_KERNEL:
        yield live.pop(place).ended(event.step)
