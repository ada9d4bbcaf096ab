"""The sentence on growth says which kernels the model computes with that a harvested one lacks."""

from __future__ import annotations

import pytest

from esper.lifecycle import RunState, SeedState
from esper.tolaria.session.growth_report import growth

SEEDS = {
    stage: SeedState("first", index, stage=stage, family="mlp")  # type: ignore[arg-type]
    for index, stage in enumerate(
        ("TRAINING", "BLENDING", "SHADOWING", "PROBATIONARY", "FOSSILIZED", "CULLED")
    )
}


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("stage", ["TRAINING", "BLENDING", "SHADOWING", "PROBATIONARY"])
def test_a_live_kernel_that_was_not_kept_is_said_to_be_left_out(stage: str, kept: bool) -> None:  # noqa: FBT001
    """Each live stage before the last is named with what harvest does; a kernel in training
    changes no output, and one that was kept stays.
    """
    seeds = [SEEDS["CULLED"], SEEDS[stage], *([SEEDS["FOSSILIZED"]] if kept else [])]
    said = growth(RunState("r", seeds=tuple(seeds)), {}, asked=True, offered=3)
    place = f"mlp at first[{SEEDS[stage].seed}]"
    left_out = "" if stage == "TRAINING" else f" (harvest leaves out {place})"
    beginning = "Grew mlp at first[4]" if kept else "No kernel was kept yet"
    assert said == f"{beginning}; under way: {place}{left_out}."
