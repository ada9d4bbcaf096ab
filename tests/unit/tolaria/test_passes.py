"""Who is to blame for a step in a loop of one's own, and how failures are counted."""

from __future__ import annotations

import math

import pytest
import torch

from esper.tolaria.run.own_loop import _blamed
from esper.tolaria.step.passes import GRADIENT_NOT_FINITE, NOT_FINITE, Pass, count_faults
from tests.unit.kasmina.cases import graft
from tests.unit.tolaria.test_tasks import growing

LIVE, SHADOWED = ("0", 0), ("0", 1)


def done(loss: float = 1.0, **given: object) -> Pass:
    """What the passes of a step gave; the norms of both kernels are right unless given."""
    norms = {LIVE: torch.tensor(1.0), SHADOWED: torch.tensor(1.0)} | given.pop("norms", {})  # type: ignore[operator]
    zero = torch.zeros(())
    return Pass(torch.tensor(loss), {"hits": zero}, zero, zero, norms, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "faults", "excused"),
    [
        (done(), {}, set()),
        (done(raised={LIVE: "E"}), {LIVE: ("FORWARD", "E")}, set()),
        (
            done(outputs={LIVE: torch.tensor(0.0)}, norms={LIVE: torch.tensor(math.nan)}),
            {LIVE: ("NON_FINITE", NOT_FINITE)},
            set(),
        ),
        (
            done(norms={SHADOWED: torch.tensor(math.inf)}),
            {SHADOWED: ("NON_FINITE", GRADIENT_NOT_FINITE)},
            set(),
        ),
        (
            done(math.nan, norms={SHADOWED: torch.tensor(math.nan)}),
            {},
            {SHADOWED},
        ),
        (
            done(math.nan, norms={SHADOWED: torch.tensor(math.nan)}, raised={SHADOWED: "E"}),
            {SHADOWED: ("FORWARD", "E")},
            set(),
        ),
    ],
)
def test_a_kernel_is_blamed_for_what_it_did_and_not_for_what_the_host_did(
    given: Pass, faults: dict[object, object], excused: set[object]
) -> None:
    """A shadow pass trains on what the host gave: with a loss that is none, its kernel could not do
    better.
    """
    assert _blamed(given, given.read(), {SHADOWED: 1.0}) == (faults, excused)


def test_a_scaled_loss_excuses_gradients_that_overflow() -> None:
    """Those of live kernels, whose loss was scaled, and not of a shadow pass, nor what a kernel
    gave itself.
    """
    overflow = done(norms={LIVE: torch.tensor(math.inf)})
    assert _blamed(overflow, overflow.read(), {SHADOWED: 1.0}, scaled=True) == ({}, {LIVE})
    shadow = done(norms={SHADOWED: torch.tensor(math.inf)})
    found = {SHADOWED: ("NON_FINITE", GRADIENT_NOT_FINITE)}
    assert _blamed(shadow, shadow.read(), {SHADOWED: 1.0}, scaled=True) == (found, set())
    output = done(outputs={LIVE: torch.tensor(0.0)}, norms={LIVE: torch.tensor(math.nan)})
    # in float16 a shadow pass has a scale of its own, which may be too large
    assert _blamed(shadow, shadow.read(), {SHADOWED: 8.0}) == ({}, {SHADOWED})
    (faults, _) = _blamed(output, output.read(), {SHADOWED: 1.0}, scaled=True)
    assert faults == {LIVE: ("NON_FINITE", NOT_FINITE)}


def test_failures_are_counted_in_a_row() -> None:
    """What works sets the count back, what was excused leaves it; forced ones count in silence."""
    model = growing()
    graft(model, LIVE)
    both = [LIVE, SHADOWED]
    for expected in (1, 2):
        (fault,) = count_faults(model, both, {SHADOWED: ("FORWARD", "E")})
        assert (fault.place, fault.error, fault.consecutive) == (SHADOWED, "E", expected)
    assert count_faults(model, both, {}, spared=[SHADOWED]) == ()
    assert model.kernels[SHADOWED].errors == 2
    assert count_faults(model, both, {}, forced=[LIVE]) == ()
    assert (model.kernels[LIVE].errors, model.kernels[SHADOWED].errors) == (1, 0)
