"""A fork's story begins with its parent's, seed by seed."""

from __future__ import annotations

from pathlib import Path

from esper.journal.compare import compare
from esper.journal.story import story
from tests.unit.tolaria.laboratory import Asked, Laboratory, recipe
from tests.unit.tolaria.test_forks import beginning


def test_a_kernel_that_a_fork_culls_is_the_one_that_its_parent_grafted(tmp_path: Path) -> None:
    """The family of a culled kernel is known across the fork.

    Runs that did the same differ in nothing.
    """
    parent = Laboratory(
        tmp_path,
        recipe(run={"epochs": 3, "batch_size": 20}),
        (Asked(1, "GERMINATE"), Asked(12, "CULL")),
    )
    parent.run()
    fork = parent.fork_lab("fork", (Asked(12, "CULL"),))
    fork.run(fork=beginning(parent, 5))
    journals = {one.run_id: one.journal() for one in (parent, fork)}
    found = compare([story(events, journals) for events in journals.values()])
    assert [(change.epoch, change.stage, change.family) for change in found.stories[1].changes] == [
        (0, "GERMINATED", "mlp"),
        (1, "CULLED", "mlp"),
    ]
    assert (found.changes, found.same_epochs) == ({}, 3)
