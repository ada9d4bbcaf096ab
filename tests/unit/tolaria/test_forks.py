"""A fork begins with its parent's state and goes on as its parent did, unless something
is changed.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any

import pytest
from rich.console import Console

from esper.errors import CorruptError, UsageError
from esper.events import JournalEvent, encode
from esper.events.records import (
    AdaptationApplied,
    AdaptationRejected,
    CheckpointTaken,
    RunForked,
    RunResumed,
    RunRolledBack,
    RunStarted,
)
from esper.journal.replay import fold_journal, live_state
from esper.journal.story import story
from esper.tolaria.control import run_status
from esper.tolaria.recipes.splits import digest_of
from esper.tolaria.record.forking import ForkStart, changed, cut_at, decision_of
from esper.tolaria.session.progress import Progress
from esper.tolaria.session.session import Session
from esper.tolaria.timelines.branching import begin
from esper_processors.nissa import runs
from tests.unit.tolaria.laboratory import (
    CLOCK,
    GROWTH,
    Asked,
    Laboratory,
    data,
    recipe,
    stages,
)


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    """A run that has grown: a seed is kept, one blends, one trains."""
    laboratory = Laboratory(tmp_path_factory.mktemp("parent"), recipe(), GROWTH)
    laboratory.run()
    return laboratory


def beginning(
    laboratory: Laboratory, step: int | None, changes: tuple[str, ...] = (), **cut: Any
) -> ForkStart:
    """The beginning of a fork of a laboratory's run."""
    progress = Progress(Console(file=io.StringIO()))
    where = cut_at(laboratory.journal(), step, **cut)
    return begin(
        laboratory.archive(), where, changes=changes, offered=(), reason="test", progress=progress
    )


def test_a_fork_knows_its_parents_data_and_says_what_is_changed(parent: Laboratory) -> None:
    """By the digest of the parent's journal; a task's argument is one change, not three."""
    assert beginning(parent, 8).data == digest_of(data())
    _, changes = changed(parent.journal(), ["task.label_smoothing=0.1"], epoch=1)
    assert changes == ("task.label_smoothing=0.1",)
    _, changes = changed(parent.journal(), ["task=regression"], epoch=1)
    assert changes == ('task.name="regression"',)


def after(step: int) -> Sequence[Asked]:
    """What the parent was asked behind a step."""
    return [one for one in GROWTH if one.step > step]


def proven(laboratory: Laboratory) -> Sequence[JournalEvent]:
    """The journal, which folds to what the trainer had."""
    events = laboratory.journal()
    live = live_state(laboratory.settings.runs_dir / laboratory.run_id)
    assert fold_journal(
        laboratory.run_id, [encode(event).value for event in events], live, clock=CLOCK
    ).compared
    return events


@pytest.mark.parametrize("step", [0, 8, 13, 20, 24, 45])
def test_a_fork_with_no_changes_ends_like_its_parent(parent: Laboratory, step: int) -> None:
    """At a snapshot and between two, while kernels train, blend and are kept: parameters at the end
    and each seed's stage are the parent's.
    """
    fork = parent.fork_lab(f"fork-{step}", after(step - 1 if step == 0 else step))
    outcome, session = fork.run(fork=beginning(parent, step))
    end = parent.journal()[-1]
    assert (outcome.outcome, outcome.digest, outcome.accuracy) == (
        "FINISHED",
        getattr(end, "digest", ""),
        getattr(end, "accuracy", 0),
    )
    events = proven(fork)
    assert [event.NAME for event in events[:2]] == ["RunStarted", "RunForked"]
    started, forked = events[0], events[1]
    assert isinstance(started, RunStarted)
    assert isinstance(forked, RunForked)
    assert (started.family, forked.parent_run_id, forked.parent_step, forked.step) == (
        "laboratory-1",
        "laboratory-1",
        step,
        step,
    )
    assert forked.parent_sequence == cut_at(parent.journal(), step).address.sequence
    kept = [seed for seed, stage in stages(session).items() if stage == "FOSSILIZED"]
    assert kept == [("first", 0)]


def _at(step: int, session: Session) -> bool:
    return session.step == step


def test_a_fork_that_is_killed_goes_on(parent: Laboratory) -> None:
    """Killed at its very first step, in an epoch and once more: resumed from its parent's state,
    then from its own, it ends like its parent.
    """
    fork = parent.fork_lab("killed", after(13))
    fork.killed_when(lambda session: session.step == 13, resumed=False, fork=beginning(parent, 13))
    for number, step in enumerate((14, 22)):
        fork.killed_when(partial(_at, step), resumed=True)
        assert (
            len([event for event in fork.journal() if isinstance(event, RunResumed)]) == number + 1
        )
    outcome, _ = fork.run(resumed=True)
    assert outcome.digest == getattr(parent.journal()[-1], "digest", "")
    resumed = [event for event in proven(fork) if isinstance(event, RunResumed)]
    assert [event.restored_step for event in resumed] == [13, 13, 16]


def test_views_of_a_fork_show_what_it_began_with(parent: Laboratory) -> None:
    """Tolaria's status and Nissa's view have the parent's stages as soon as the fork has begun, and
    its step.
    """
    fork = parent.fork_lab("viewed", ())
    fork.killed_when(lambda session: session.step == 24, resumed=False, fork=beginning(parent, 24))
    told, view = run_status.RunStatus(run_id="viewed"), runs.RunView(run_id="viewed")
    for event in fork.journal()[:2]:
        told, view = run_status.fold(told, event), runs.fold(view, event)
    assert told.stages() == {"BLENDING": 1, "DORMANT": 2, "FOSSILIZED": 1}
    assert (told.step, view.step, told.epoch) == (24, 24, 3)
    assert view.seeds == {
        "first": {"0": "FOSSILIZED", "1": "DORMANT"},
        "second": {"0": "DORMANT", "1": "BLENDING"},
    }


def test_a_fork_whose_state_is_lost_is_refused(parent: Laboratory) -> None:
    """Without the manifest that RunForked names, and with no snapshot of its own, a fork cannot be
    resumed, and says so.
    """
    fork = parent.fork_lab("lost", after(13))
    fork.killed_when(
        lambda session: session.step == 13,
        resumed=False,
        fork=beginning(parent, 13, changes=("made=unlike",)),
    )
    manifest = next(event.address for event in fork.journal() if isinstance(event, RunForked))
    content = (fork.root / manifest).read_bytes()
    own = [event for event in fork.journal() if isinstance(event, CheckpointTaken)]
    for address in {manifest, *(event.address for event in own)}:
        (fork.root / address).unlink()
    with pytest.raises(
        CorruptError,
        match=r"^Run lost is a fork, and no snapshot since then can be used: .*is not in the store",
    ) as caught:
        fork.run(resumed=True)
    assert str(caught.value).endswith(" `esper fork laboratory-1 --step 13` begins it anew.")
    (fork.root / manifest).write_bytes(content)


def test_a_fork_goes_back_to_its_beginning(parent: Laboratory) -> None:
    """A rollback in the first epoch of a fork restores what it began with, in its second
    timeline.
    """
    fork = parent.fork_lab("back", ())

    def disturb(session: Session) -> None:
        if session.step == 15 and session.state.timeline == 0:
            session.snapshots.roll_back("", "test")

    fork.disturb = disturb
    fork.run(fork=beginning(parent, 13))
    (rolled,) = (event for event in proven(fork) if isinstance(event, RunRolledBack))
    assert (rolled.from_step, rolled.step, rolled.snapshot_id) == (15, 13, "t0-s13-n2")


def test_a_fork_of_a_fork_ends_like_the_first(parent: Laboratory) -> None:
    """Forked twice with nothing changed, in different epochs, the run ends the same.

    Its story begins with the first one's first epoch.
    """
    first = parent.fork_lab("child", after(13))
    first.run(fork=beginning(parent, 13))
    second = first.fork_lab("grandchild", after(29))
    outcome, _ = second.run(fork=beginning(first, 29))
    assert outcome.digest == getattr(parent.journal()[-1], "digest", "")
    events = proven(second)
    assert getattr(events[0], "family", "") == "laboratory-1"
    journals = {one.run_id: one.journal() for one in (parent, first, second)}
    whole, told = story(journals["laboratory-1"], journals), story(journals["grandchild"], journals)
    assert (told.points, told.changes, told.whole) == (whole.points, whole.changes, True)
    assert told.lineage is not None
    assert told.lineage.sentence() == "forked from child at step 29 (epoch 3)"
    alone = story(journals["grandchild"], {})
    assert (alone.points, alone.whole) == (whole.points[3:], False)


def test_settings_can_be_changed_but_not_those_that_the_state_is_made_of(
    parent: Laboratory,
) -> None:
    """Another learning rate gives another end.

    What the state or the schedule's unit rests on is refused, each with its reason.
    """
    events = parent.journal()
    other, changes = changed(events, ["optimizer.learning_rate=0.02", "run.epochs=8"], epoch=1)
    assert changes == ("optimizer.learning_rate=0.02",)
    fork = parent.fork_lab("faster", after(13), recipe=other)
    outcome, _ = fork.run(fork=beginning(parent, 13, changes))
    assert outcome.digest != getattr(parent.journal()[-1], "digest", "")
    assert next(event.changes for event in proven(fork) if isinstance(event, RunForked)) == changes
    for key in (
        "model=a:c",
        "data=x:y",
        "run.batch_size=10",
        "run.precision=bfloat16",
        "kasmina.seeds=3",
        "optimizer.name=SGD",
        "optimizer.arguments.amsgrad=true",
        'optimizer.groups=[{match=["first.*"]}]',
    ):
        with pytest.raises(
            UsageError,
            match=(
                rf"^A fork cannot change {key.partition('=')[0]}: .* Start a new run with it "
                r"instead\.$"
            ),
        ):
            changed(events, [key], epoch=1)
    with pytest.raises(
        UsageError,
        match=r"^Unknown key optimizer\.learning_rat\. Did you mean optimizer\.learning_rate\?$",
    ):
        changed(events, ["optimizer.learning_rat=1"], epoch=1)
    with pytest.raises(UsageError, match=r"no setting 'max_activ'; did you mean max_active\?$"):
        changed(events, ["tamiyo.policy.max_activ=1"], epoch=1)
    with pytest.raises(
        UsageError,
        match=r"^The fork stands after 5 epochs, so run\.epochs = 4 leaves none to train",
    ):
        changed(events, ["run.epochs=4"], epoch=5)


def test_decisions_are_found_by_the_beginning_of_their_id(parent: Laboratory) -> None:
    """One that fits is found; none, several, and one that was rejected are sentences."""
    events = parent.journal()
    applied = [event for event in events if isinstance(event, AdaptationApplied)]
    assert decision_of(events, applied[2].decision_id[:13]) is applied[2]
    with pytest.raises(
        UsageError, match=r"^Run laboratory-1 has applied no decision zz; it has \d+: "
    ):
        decision_of(events, "zz")
    twin = replace(applied[0], decision_id=applied[1].decision_id[:-1] + "x")
    with pytest.raises(UsageError, match=r"is the beginning of 2 decisions of run laboratory-1 \("):
        decision_of([*events, twin], applied[1].decision_id[:-1])
    rejected = AdaptationRejected(
        **{
            one.name: getattr(applied[0], one.name)
            for one in fields(AdaptationRejected)
            if one.name not in ("reason", "decision_id")
        },
        decision_id="rejected-1",
        reason="test",
    )
    with pytest.raises(
        UsageError,
        match=r"^Decision rejected-1 of run laboratory-1 was rejected, so it changed nothing",
    ):
        decision_of([*events, rejected], "rejected-1")


def test_where_a_fork_stands(parent: Laboratory) -> None:
    """At a step it has all that the journal has there.

    Without a decision of that step, what stood before it; a decision from before is refused.
    """
    events = parent.journal()
    advance = next(
        event for event in events if isinstance(event, AdaptationApplied) and event.step == 6
    )
    at = cut_at(events, 6)
    assert (at.address.sequence > advance.sequence, at.state.step, at.without) == (True, 6, ())
    cut = cut_at(events, None, without=[advance])
    assert (cut.address.step, cut.address.sequence, cut.without[0].decision_id) == (
        6,
        advance.sequence,
        advance.decision_id,
    )
    early = cut_at(events, 3, without=[advance])
    assert (early.address.step, early.packet) == (3, 0)
    with pytest.raises(
        UsageError,
        match=(
            r"was applied at step 6 of timeline 0, which is not at or after step 9 of timeline "
            r"0; fork at or before it\.$"
        ),
    ):
        cut_at(events, 9, without=[advance])
    with pytest.raises(UsageError, match=r"^Say where to fork: --step N, or --without DECISION"):
        cut_at(events, None)
    with pytest.raises(UsageError, match=r"^Run laboratory-1 has no step 999"):
        cut_at(events, 999)
