"""The whole: real broker, Tamiyo, Nissa, history and foundry as processes, through the command line
as a user would.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from esper.clock import SystemClock
from esper.config import Settings
from esper.errors import CorruptError
from esper.events import Origin, decode
from esper.events.records import (
    CheckpointRequested,
    PauseRequested,
    ResumeRequested,
    RollbackRequested,
)
from esper.journal.reading import from_file, to_file
from esper.journal.replay import fold_journal, live_state
from esper.oona.bus.kafka import KafkaBus
from tests.chaos.run.lives import counted_once
from tests.integration.run.whole import GROWING, LOCKSTEP, begin, endpoints, esper, query, result
from tests.stackfixtures import access
from tests.waiting import never, until


def test_the_same_seed_gives_the_same_run_in_lockstep(lockstep: list[dict[str, Any]]) -> None:
    """Two lockstep runs end with the same parameters, bit for bit, and kernels were grafted in
    them.
    """
    assert lockstep[0]["digest"] == lockstep[1]["digest"]
    assert lockstep[0]["accuracy"] == lockstep[1]["accuracy"]
    assert lockstep[0]["seeds"] == lockstep[1]["seeds"]
    assert lockstep[0]["seeds"].get("DORMANT", 0) < 8
    assert lockstep[0]["dropped"] == 0


def test_history_holds_every_committed_message_once(
    home: Path, lockstep: list[dict[str, Any]]
) -> None:
    """Rows of the raw tables plus dead letters equal the committed messages of each topic, and no
    view shows an event_id twice.
    """
    assert counted_once(home) > 0
    assert lockstep[0]["history_complete"]


def test_fold_equals_the_live_state_and_a_changed_journal_is_refused(
    home: Path, lockstep: list[dict[str, Any]], tmp_path: Path
) -> None:
    """`esper replay fold` agrees with the trainer.

    A journal with an event removed, doubled or swapped is refused, saying which.
    """
    run_id = lockstep[0]["run_id"]
    saved = tmp_path / "journal.avro"
    folded = json.loads(
        esper(home, "replay", "fold", run_id, "--save", str(saved), "--json").stdout
    )
    assert folded["equals_live"] is True
    assert folded["status"] == "COMPLETED"
    messages = list(from_file(saved))
    middle = len(messages) // 2
    name = type(decode(messages[middle])).__name__
    broken = {
        "removed": (messages[:middle] + messages[middle + 1 :], f"lacks event {middle}"),
        "doubled": (messages[: middle + 1] + messages[middle:], f"has event {middle} ({name}"),
        "swapped": (
            [*messages[:middle], messages[middle + 1], messages[middle], *messages[middle + 2 :]],
            f"lacks event {middle}",
        ),
        "cut": (messages[:-1], "the rest is missing"),
    }
    for what, (changed, sentence) in broken.items():
        path = tmp_path / f"{what}.avro"
        to_file(path, changed)
        done = esper(home, "replay", "fold", run_id, "--from", str(path))
        assert done.returncode == 5, what
        assert sentence in done.stderr
        assert "Traceback" not in done.stderr
    live = live_state(home / "runs" / run_id)
    with pytest.raises(CorruptError, match="differs from the live one"):
        fold_journal(run_id, from_file(saved), replaced(live), clock=SystemClock())


def replaced(live: Any) -> Any:
    from dataclasses import replace  # noqa: PLC0415

    return replace(live, step=live.step + 1)


def test_a_run_id_is_taken_once(home: Path, lockstep: list[dict[str, Any]]) -> None:
    """A second run with a used id is refused in one sentence, and the first one's journal is as it
    was.
    """
    done = esper(home, "run", "mnist1d", "--run-id", lockstep[0]["run_id"], "--set", "run.epochs=1")
    assert done.returncode == 2
    assert "already" in done.stderr
    assert "Traceback" not in done.stderr
    assert (
        json.loads(esper(home, "replay", "fold", lockstep[0]["run_id"], "--json").stdout)[
            "equals_live"
        ]
        is True
    )


def test_host_alone_asks_nobody(home: Path) -> None:
    """Without Tamiyo no packet is sent and no seed leaves DORMANT."""
    settings = (
        "--set",
        "tamiyo.enabled=false",
        "--set",
        "run.epochs=2",
        "--set",
        "checkpoints.every_epochs=0",
    )
    alone = result(esper(home, "run", "mnist1d", "--json", *settings))
    assert alone["seeds"] == {"DORMANT": 8}
    assert "system.events.epoch" not in alone["events"]
    assert alone["events"]["system.events.run"] == 4


def test_ctrl_c_leaves_a_run_that_goes_on(home: Path, lockstep: list[dict[str, Any]]) -> None:
    """Interrupted while it waits for Tamiyo, a run is PAUSED in its journal, exit code 130.

    --resume ends it with the bits of the uninterrupted one, once.
    """
    child = begin(
        home,
        "run",
        "mnist1d",
        "--json",
        "--run-id",
        "interrupted",
        *(part for one in LOCKSTEP for part in ("--set", one)),
    )
    found = endpoints(home)
    outbox = home / "runs" / "interrupted" / "outbox"
    until(
        lambda: (
            child.poll() is not None
            or any(
                b"esper.events.EpochEnded" in path.read_bytes() for path in outbox.glob("*.frames")
            )
        )
    )
    child.send_signal(signal.SIGINT)
    out, err = child.said()
    assert child.returncode == 130, err
    ended = json.loads(out.splitlines()[-1])
    assert ended["outcome"] == "INTERRUPTED"
    folded = json.loads(esper(home, "replay", "fold", "interrupted", "--json").stdout)
    assert folded["status"] == "PAUSED"
    assert folded["equals_live"] is True
    again = result(esper(home, "run", "mnist1d", "--json", "--resume", "--run-id", "interrupted"))
    assert (again["outcome"], again["digest"], again["steps"]) == (
        "FINISHED",
        lockstep[0]["digest"],
        lockstep[0]["steps"],
    )
    resumed = query(
        found.history_url,
        "SELECT incarnation, restored_step FROM run_resumed WHERE run_id = 'interrupted'",
    )
    assert resumed == [{"incarnation": 1, "restored_step": ended["steps"]}]
    folded = json.loads(esper(home, "replay", "fold", "interrupted", "--json").stdout)
    assert (folded["status"], folded["equals_live"]) == ("COMPLETED", True)
    finished = esper(home, "run", "mnist1d", "--resume", "--run-id", "interrupted")
    assert finished.returncode == 2
    assert (
        finished.stderr.splitlines()[-1]
        == "esper: Run interrupted is finished, so there is nothing to resume; start a new run."
    )
    unknown = esper(home, "run", "mnist1d", "--resume", "--run-id", "mnist1d-nobody")
    assert unknown.returncode == 2
    assert unknown.stderr.splitlines()[-1].startswith(
        "esper: Run mnist1d-nobody has no journal on this Kafka, so there is nothing to resume"
    )
    assert not (home / "runs" / "mnist1d-nobody").exists()


def test_people_ask_for_a_snapshot_a_rollback_and_a_pause_through_kafka(home: Path) -> None:
    """CheckpointRequested is answered by a snapshot, RollbackRequested by a new timeline from it,
    each once; what does not exist is ignored.

    PauseRequested stands the run still, an expired one does nothing, ResumeRequested lets it go on;
    the journal names each request once.
    """
    found, clock = endpoints(home), SystemClock()
    origin = Origin("rolled", "operator", "0" * 32, clock)
    sets = (
        "run.epochs=100000",
        "tamiyo.enabled=false",
        "checkpoints.every_epochs=0",
    )  # it ends when it is told to
    child = begin(
        home,
        "run",
        "mnist1d",
        "--json",
        "--run-id",
        "rolled",
        *(part for one in sets for part in ("--set", one)),
    )

    def rows(sql: str) -> list[dict[str, Any]]:
        answer: list[dict[str, Any]] = []

        def there() -> bool:
            answer[:] = query(found.history_url, sql)
            return bool(answer) or child.poll() is not None

        until(there, sql)
        assert child.poll() is None, child.said()
        return answer

    def epochs() -> int:
        return int(rows("SELECT count() AS n FROM epoch_ended WHERE run_id = 'rolled'")[0]["n"])

    rows("SELECT epoch FROM epoch_ended WHERE run_id = 'rolled'")
    late, soon = clock.now_us() - 1, clock.now_us() + 3_600_000_000
    with KafkaBus(access(Settings(home=home), "operator")).producer(
        sender_id="operator"
    ) as producer:
        for _ in range(2):
            producer.send(
                CheckpointRequested(
                    **origin.envelope("keep"), reason="before a risk", expires_at=soon
                )
            )
        producer.flush(60)
        (taken,) = rows(
            "SELECT snapshot_id, at_step, reason, toString(command_id) AS id FROM "
            "checkpoint_taken WHERE run_id = 'rolled'"
        )
        assert (taken["reason"], taken["id"]) == ("requested", origin.envelope("keep")["event_id"])
        producer.send(
            RollbackRequested(
                **origin.envelope("none"),
                snapshot_id="t9-s9",
                reason="a typing error",
                expires_at=soon,
            )
        )
        back = RollbackRequested(
            **origin.envelope("back"),
            snapshot_id=taken["snapshot_id"],
            reason="the risk",
            expires_at=soon,
        )
        producer.send(back)
        producer.send(back)
        producer.flush(60)
        rolled = rows(
            "SELECT from_step, step, timeline, snapshot_id, reason FROM run_rolled_back "
            "WHERE run_id = 'rolled'"
        )

        producer.send(PauseRequested(**origin.envelope("late"), reason="too late", expires_at=late))
        pause = PauseRequested(**origin.envelope("pause"), reason="a look at it", expires_at=soon)
        producer.send(pause)
        producer.send(pause)
        producer.flush(60)
        (paused,) = rows("SELECT epoch FROM run_paused WHERE run_id = 'rolled'")
        until(lambda: epochs() >= paused["epoch"], "the epochs before the pause")
        before = epochs()
        assert never(lambda: epochs() > before + 1)
        producer.send(
            ResumeRequested(**origin.envelope("resume"), reason="looked at it", expires_at=soon)
        )
        producer.flush(60)
        until(lambda: epochs() > before + 1, "an epoch after the pause")
    child.send_signal(signal.SIGINT)
    out, err = child.said()
    assert child.returncode == 130, err
    assert "There is no snapshot t9-s9 to roll back to; the request is ignored." in err.replace(
        "\n", " "
    )
    assert (rolled[0]["timeline"], rolled[0]["snapshot_id"], rolled[0]["reason"]) == (
        1,
        taken["snapshot_id"],
        "the risk",
    )
    assert (rolled[0]["step"], rolled[0]["from_step"] >= taken["at_step"]) == (
        taken["at_step"],
        True,
    )
    done = json.loads(out.splitlines()[-1])
    assert done["outcome"] == "INTERRUPTED"
    told = "SELECT count() AS n, uniqExact(step) AS m FROM training_step WHERE run_id = 'rolled'"
    trained = {"n": done["steps"] + rolled[0]["from_step"] - rolled[0]["step"], "m": done["steps"]}
    until(
        lambda: query(found.history_url, told) == [trained],
        lambda: (query(found.history_url, told), trained),
    )
    assert (
        len(
            query(
                found.history_url,
                "SELECT 1 FROM checkpoint_taken WHERE run_id = 'rolled' AND reason = 'requested'",
            )
        )
        == 1
    )
    assert (
        len(query(found.history_url, "SELECT 1 FROM run_rolled_back WHERE run_id = 'rolled'")) == 1
    )
    reasons = query(
        found.history_url, "SELECT reason FROM run_paused WHERE run_id = 'rolled' ORDER BY sequence"
    )
    assert [row["reason"] for row in reasons].count("a look at it") == 1
    assert "too late" not in {row["reason"] for row in reasons}
    assert (
        json.loads(esper(home, "replay", "fold", "rolled", "--json").stdout)["equals_live"] is True
    )


def test_damaged_artefacts_are_refused_and_training_goes_on(
    home: Path, lockstep: list[dict[str, Any]], tmp_path: Path
) -> None:
    """With every artefact damaged under way, each graft ends as KernelFailed with the seed back in
    DORMANT, and the run ends as the host alone.
    """
    assert lockstep
    for path in (home / "store" / "kernels").iterdir():
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        (tmp_path / "kernels").mkdir(exist_ok=True)
        (tmp_path / "kernels" / path.name).write_bytes(content)
    settings = ("decisions=lockstep", "run.epochs=5", *GROWING)
    arguments = (
        "--json",
        "--run-id",
        "damaged",
        *(part for one in settings for part in ("--set", one)),
    )
    done = result(
        esper(
            home,
            "run",
            "mnist1d",
            *arguments,
            ESPER_URZA__STORE=str(tmp_path),
            ESPER_URZA__CACHE=str(tmp_path / "cache"),
        )
    )
    assert done["seeds"] == {"DORMANT": 8}
    failures = query(
        endpoints(home).history_url,
        "SELECT phase, error FROM kernel_failed WHERE run_id = 'damaged'",
    )
    assert failures
    assert all(row["phase"] == "LOAD" and "damaged" in row["error"] for row in failures)
