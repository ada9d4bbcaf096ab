"""What grew in a run, or why nothing did, in a sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from esper.events.records import SeedTransitioned
from esper.kasmina.growth import Place
from esper.lifecycle import LIVE, RunState, SeedState


def growth(
    state: RunState, paths: Mapping[Place, Sequence[SeedTransitioned]], *, asked: bool, offered: int
) -> str:
    """The sentence.

    `asked` says whether Tamiyo was, `offered` how many kernels are known that fit the model's
    layers.
    """
    fossilised = [seed for seed in state.seeds if seed.stage == "FOSSILIZED"]
    working = [
        seed
        for seed in state.seeds
        if seed.stage not in ("DORMANT", "EMBARGOED", "CULLED", "FOSSILIZED", "TERMINATED")
    ]
    tried = [path for path in paths.values() if path]
    if fossilised:
        return f"Grew {_named(fossilised)}{f'; {_under_way(working)}' if working else ''}."
    if working:
        return f"No kernel was kept yet; {_under_way(working)}."
    if not tried:
        if not asked:
            return "Nothing was grafted: Tamiyo was not asked (tamiyo.enabled = false)."
        if offered:
            return "Nothing was grafted: Tamiyo saw no reason to."
        return "Nothing was grafted: no kernel that fits these layers was offered in time."
    culled = Counter(
        event.family for path in tried for event in path if event.to_stage == "TRAINING"
    )
    last = max((path[-1] for path in tried), key=lambda event: event.sequence)
    reasons = [event.reason for path in tried for event in path if event.to_stage == "CULLED"]
    trials = ", ".join(f"{count} {family}" for family, count in culled.most_common())
    return (
        f"No kernel was kept of those tried ({trials or 'none was loaded'}); the last: "
        f"{reasons[-1] if reasons else last.reason}."
    )


def _under_way(working: Sequence[SeedState]) -> str:
    """The kernels that are not settled, and of those that the model computes with, that harvest
    leaves them out.
    """
    live = [seed for seed in working if seed.stage in LIVE]
    beside = f" (harvest leaves out {_named(live)})" if live else ""
    return f"under way: {_named(working)}{beside}"


def _named(seeds: Iterable[SeedState]) -> str:
    return ", ".join(f"{seed.family} at {seed.layer}[{seed.seed}]" for seed in seeds)
