"""`esper replay` says what is different where it rebuilds or proves a run, and ends cleanly."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors import safe_open

from esper.checkpoint.snapshot import kind_of
from esper.cli.shared.proving import prove
from esper.cli.shared.run_states import rebuilt, restored
from esper.errors import CorruptError, UsageError
from esper.events import JournalEvent
from esper.events.records import CheckpointTaken, EpochEnded, RunStarted
from esper.tolaria.record.addresses import address_of
from esper.tolaria.record.snapshot_content import KINDS
from esper.tolaria.replay.archive import Archived
from esper.tolaria.replay.state_file import digests_of, save_state_file
from tests.unit.tolaria.laboratory import CLOCK, GROWTH, Laboratory, recipe
from tests.unit.tolaria.test_reexecution import asking


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    """A run that grew."""
    made = Laboratory(
        tmp_path_factory.mktemp("laboratory"),
        recipe(run={"epochs": 3, "batch_size": 20}),
        GROWTH[:4],
    )
    asking(made)
    made.run()
    return made


def elsewhere(events: Sequence[JournalEvent]) -> tuple[JournalEvent, ...]:
    """The journal as if the run had been trained by other code, with another torch, on other
    instructions.
    """
    started = events[0]
    assert isinstance(started, RunStarted)
    versions = json.dumps(json.loads(started.versions) | {"torch": "1.0"}, sort_keys=True)
    return (
        replace(started, versions=versions, instruction_set="VSX", source_sha256="ab" * 32),
        *events[1:],
    )


def test_differences_of_code_and_machine_are_said_and_change_nothing_by_themselves(
    laboratory: Laboratory,
) -> None:
    """Rebuilt anyway, with a sentence for each.

    The parameters are proven by the journal all the same.
    """
    said = io.StringIO()
    archive = Archived(laboratory.settings, elsewhere(laboratory.journal())).open(CLOCK)
    found = rebuilt(archive, address_of(archive.events, 16), Console(file=said, width=1000))
    assert found.proven
    assert len(found.differences) == 3
    assert "torch was 1.0 and is" in said.getvalue()
    assert "instruction_set was VSX and is" in said.getvalue()
    assert "Esper's code has changed; what is re-executed may have other bits." in said.getvalue()


def test_a_digest_that_differs_is_told_with_what_is_different_here(laboratory: Laboratory) -> None:
    """Where the parameters are not those of the journal, the sentence has both digests and names
    the differences; so does the proof.
    """
    forged = [
        replace(one, parameters_digest="ab" * 32)
        if isinstance(one, EpochEnded | CheckpointTaken) and one.step >= 16
        else one
        for one in elsewhere(laboratory.journal())
    ]
    source = Archived(laboratory.settings, tuple(forged))
    with pytest.raises(CorruptError) as caught:
        rebuilt(
            source.open(CLOCK),
            address_of(forged, 18),
            Console(file=io.StringIO()),
            from_scratch=True,
        )
    assert "epoch 1 of run laboratory-1 ends with other parameters" in str(caught.value)
    assert (
        "Not as it was when the run began: Esper's code has changed; torch was 1.0 and is"
        in str(caught.value)
    )
    proof = prove(source, Console(file=io.StringIO()), workers=1, from_scratch=False)
    assert proof.narrowed is not None
    assert (proof.narrowed.fault.epoch, proof.narrowed.deterministic) == (1, True)
    assert "Esper's code has changed" in proof.sentence()
    assert proof.as_json()["proven"] is False


def test_a_run_is_proven_in_two_processes(laboratory: Laboratory) -> None:
    """Side by side it gives what one process gives: all epochs and snapshots."""
    source = Archived(laboratory.settings, tuple(laboratory.journal()))
    proofs = [
        prove(source, Console(file=io.StringIO()), workers=workers, from_scratch=False)
        for workers in (1, 2)
    ]
    assert [proof.narrowed for proof in proofs] == [None, None]
    assert proofs[0].verdicts == proofs[1].verdicts
    assert proofs[0].as_json()["epochs"] == 3


def test_a_lost_manifest_and_lost_chunks_are_passed_over(laboratory: Laboratory) -> None:
    """Without a snapshot's manifest its steps belong to the piece before.

    Without its chunks a piece begins earlier, and says so.
    """
    events = laboratory.journal()
    source, lost = (
        Archived(laboratory.settings, tuple(events)),
        [one for one in events if isinstance(one, CheckpointTaken)][1],
    )
    with without(laboratory.root / lost.address):
        proof = prove(source, Console(file=io.StringIO()), workers=1, from_scratch=False)
        assert proof.narrowed is None
        assert len(proof.verdicts) == sum(isinstance(one, CheckpointTaken) for one in events)
        assert proof.as_json()["steps"] == 24
    said = io.StringIO()
    with ExitStack() as stack:
        for path in (laboratory.root / "chunks").rglob("*"):
            if path.is_file():
                stack.enter_context(without(path))
        proof = prove(source, Console(file=said, width=1000), workers=1, from_scratch=False)
    assert proof.narrowed is None
    assert proof.as_json()["snapshots"] == 0
    assert f"Snapshot {lost.snapshot_id} cannot be used: Chunk " in said.getvalue()


@contextmanager
def without(path: Path) -> Iterator[None]:
    """Within, a file is not there."""
    content = path.read_bytes()
    path.unlink()
    try:
        yield
    finally:
        path.write_bytes(content)


def test_the_file_has_all_state_and_says_what_it_is(laboratory: Laboratory, tmp_path: Path) -> None:
    """Every tensor, and as metadata run, timeline, step, digests, versions and notes.

    A file that is there is not written over.
    """
    archive = Archived(laboratory.settings, tuple(laboratory.journal())).open(CLOCK)
    address = address_of(archive.events, 19)
    found = rebuilt(archive, address, Console(file=io.StringIO()))
    snapshot, path = found.state, tmp_path / "state.safetensors"
    digests = digests_of(snapshot)
    save_state_file(
        path,
        snapshot,
        run_id=archive.run_id,
        address=address,
        digests=digests,
        versions=found.versions,
    )
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == set(snapshot.tensors)
        meta = json.loads(file.metadata()["esper"])
    assert (meta["run_id"], meta["timeline"], meta["step"], meta["sequence"]) == (
        "laboratory-1",
        0,
        19,
        address.sequence,
    )
    assert meta["digests"] == {"parameters": digests.parameters, "state": digests.state}
    # only a loop of a user's own registers anything
    assert meta["kinds"] == sorted(KINDS.keys() - {"registered"})
    assert meta["notes"]["cursor"]["step"] == 19
    assert "torch" in meta["versions"]
    with pytest.raises(UsageError, match="exists already"):
        save_state_file(
            path, snapshot, run_id=archive.run_id, address=address, digests=digests, versions={}
        )


def test_kinds_of_tensors_are_read_from_a_snapshot_alone(laboratory: Laboratory) -> None:
    """Of a state with a snapshot only these tensors are read, without the run's model.

    They are those of the state executed again.
    """
    events = tuple(laboratory.journal())
    taken = [one for one in events if isinstance(one, CheckpointTaken) and one.at_step == 16][-1]
    quiet = Console(file=io.StringIO())
    whole = restored(Archived(laboratory.settings, events), 16, quiet)
    started = events[0]
    assert isinstance(started, RunStarted)
    nobody = json.loads(started.config) | {"model": "nobody.has:it"}
    homeless = Archived(
        laboratory.settings, (replace(started, config=json.dumps(nobody)), *events[1:])
    )
    part = restored(homeless, 16, quiet, kinds=("model", "kernels"))
    assert (part.begun, part.executed, part.proven) == (taken.snapshot_id, False, True)
    assert {kind_of(name) for name in part.snapshot.tensors} == {"model", "kernels"}
    assert all(
        torch.equal(tensor, whole.snapshot.tensors[name])
        for name, tensor in part.snapshot.tensors.items()
    )
    assert part.as_json()["parameters_digest"] == whole.digests.parameters
    assert part.as_json()["state_digest"] is None


def test_kinds_of_a_state_without_a_snapshot_are_of_the_state_executed_again(
    laboratory: Laboratory,
) -> None:
    """The same tensors as in the whole state, and its digests.

    So it is where the snapshot was lost, which is said.
    """
    events = tuple(laboratory.journal())
    source, said = Archived(laboratory.settings, events), io.StringIO()
    taken = [one for one in events if isinstance(one, CheckpointTaken) and one.at_step == 16][-1]
    with without(laboratory.root / taken.address):
        lost = restored(source, 16, Console(file=said, width=1000), kinds=("host",))
    assert f"Snapshot {taken.snapshot_id} cannot be used" in said.getvalue()
    between = restored(source, 19, Console(file=io.StringIO()), kinds=("host",))
    for found in (lost, between):
        whole = restored(source, found.address.step, Console(file=io.StringIO()))
        assert found.executed
        assert found.digests == whole.digests
        assert {kind_of(name) for name in found.snapshot.tensors} == {"host"}
        assert all(
            torch.equal(tensor, whole.snapshot.tensors[name])
            for name, tensor in found.snapshot.tensors.items()
        )


def test_a_kind_that_there_is_not_is_named(laboratory: Laboratory) -> None:
    """With those that there are."""
    source = Archived(laboratory.settings, tuple(laboratory.journal()))
    with pytest.raises(UsageError, match=r"no 'optimizer'; .* host \(the host's optimizer\)"):
        restored(source, 16, Console(file=io.StringIO()), kinds=("optimizer",))


def test_states_that_share_a_step_are_told_apart_by_their_events(laboratory: Laboratory) -> None:
    """With a number of events it is the state after these; without, after all of that step."""
    events, quiet = tuple(laboratory.journal()), Console(file=io.StringIO())
    source = Archived(laboratory.settings, events)
    taken = [one for one in events if isinstance(one, CheckpointTaken) and one.at_step == 16][-1]
    last = restored(source, 16, quiet).address
    assert taken.at_sequence < last.sequence
    first = restored(source, 16, quiet, timeline=0, sequence=taken.at_sequence)
    assert first.address == replace(last, sequence=taken.at_sequence)
    with pytest.raises(UsageError, match=f"events, not {len(events)}"):
        restored(source, 16, quiet, sequence=len(events))
