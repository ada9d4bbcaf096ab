"""The whole: real broker, Tamiyo, Nissa, history and foundry as processes, through the command line as a user would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from esper.clock import SystemClock
from esper.config import Settings
from esper.errors import CorruptError
from esper.events import TOPICS, decode
from esper.journal.reading import from_file, to_file
from esper.journal.replay import fold_journal, live_state
from esper.oona.count import committed
from esper.oona.kafka import KafkaBus
from tests.integration.run.whole import endpoints, esper, query, result
from tests.stackfixtures import access

pytestmark = pytest.mark.timeout(400)


def test_the_same_seed_gives_the_same_run_in_lockstep(lockstep: list[dict[str, Any]]) -> None:
    """Two lockstep runs end with the same parameters, bit for bit, and kernels were grafted in them."""
    assert lockstep[0]["digest"] == lockstep[1]["digest"]
    assert lockstep[0]["accuracy"] == lockstep[1]["accuracy"]
    assert lockstep[0]["seeds"] == lockstep[1]["seeds"]
    assert lockstep[0]["seeds"]["DORMANT"] < 8
    assert lockstep[0]["dropped"] == 0


def test_history_holds_every_committed_message_once(home: Path, lockstep: list[dict[str, Any]]) -> None:
    """Rows of the raw tables plus dead letters equal the committed messages of each topic, and no view shows an event_id twice."""
    found = endpoints(home)
    bus = KafkaBus(access(Settings(home=home)))
    counted = committed(bus, list(TOPICS))
    for name, topic in TOPICS.items():
        raw = sum(query(found.history_url, f"SELECT count() AS n FROM raw_{snake(record)}")[0]["n"] for record in topic.records)  # noqa: S608
        assert raw == counted[name], name
        for record in topic.records:
            twice = query(found.history_url, f"SELECT event_id FROM {snake(record)} GROUP BY event_id HAVING count() > 1")  # noqa: S608
            assert twice == []
    assert counted["system.events.run"] > 0
    assert lockstep[0]["history_complete"]


def snake(name: str) -> str:
    """A record's name as its table has it."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


def test_fold_equals_the_live_state_and_a_changed_journal_is_refused(home: Path, lockstep: list[dict[str, Any]], tmp_path: Path) -> None:
    """`esper replay --fold` agrees with the trainer; a journal with an event removed, doubled or swapped is refused, saying which."""
    run_id = lockstep[0]["run_id"]
    saved = tmp_path / "journal.avro"
    folded = json.loads(esper(home, "replay", run_id, "--fold", "--save", str(saved), "--json").stdout)
    assert folded["equals_live"] is True
    assert folded["status"] == "COMPLETED"
    messages = list(from_file(saved))
    middle = len(messages) // 2
    name = type(decode(messages[middle])).__name__
    broken = {
        "removed": (messages[:middle] + messages[middle + 1 :], f"lacks event {middle}"),
        "doubled": (messages[: middle + 1] + messages[middle:], f"has event {middle} ({name}"),
        "swapped": ([*messages[:middle], messages[middle + 1], messages[middle], *messages[middle + 2 :]], f"lacks event {middle}"),
        "cut": (messages[:-1], "the rest is missing"),
    }
    for what, (changed, sentence) in broken.items():
        path = tmp_path / f"{what}.avro"
        to_file(path, changed)
        done = esper(home, "replay", run_id, "--fold", "--journal", str(path))
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
    """A second run with a used id is refused in one sentence, and the first one's journal is as it was."""
    done = esper(home, "run", "mnist1d", "--run-id", lockstep[0]["run_id"], "--set", "run.epochs=1")
    assert done.returncode == 2
    assert "already" in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads(esper(home, "replay", lockstep[0]["run_id"], "--fold", "--json").stdout)["equals_live"] is True


def test_host_alone_asks_nobody(home: Path) -> None:
    """Without Tamiyo no packet is sent and no seed leaves DORMANT."""
    settings = ("--set", "tamiyo.enabled=false", "--set", "run.epochs=2", "--set", "checkpoints.every_epochs=0")
    alone = result(esper(home, "run", "mnist1d", "--json", *settings))
    assert alone["seeds"] == {"DORMANT": 8}
    assert "system.events.epoch" not in alone["events"]
    assert alone["events"]["system.events.run"] == 4


def test_ctrl_c_leaves_a_run_that_goes_on(home: Path, lockstep: list[dict[str, Any]]) -> None:
    """An interrupted run is PAUSED in its journal, exit code 130; --resume ends it with the bits of the uninterrupted run, and only once."""
    import signal  # noqa: PLC0415
    import time  # noqa: PLC0415

    command = [sys.executable, "-m", "esper.cli", "run", "mnist1d", "--json", "--run-id", "interrupted"]
    arguments = ["--set", "decisions=lockstep", "--set", "run.epochs=40", "--set", "run.seed=1"]
    child = subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "ESPER_HOME": str(home)}
    )
    found = endpoints(home)
    for _ in range(600):
        if query(found.history_url, "SELECT count() AS n FROM epoch_ended WHERE run_id = 'interrupted'")[0]["n"]:
            break
        time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=90)
    assert child.returncode == 130, err
    ended = json.loads(out.splitlines()[-1])
    assert ended["outcome"] == "INTERRUPTED"
    folded = json.loads(esper(home, "replay", "interrupted", "--fold", "--json").stdout)
    assert folded["status"] == "PAUSED"
    assert folded["equals_live"] is True
    again = result(esper(home, "run", "mnist1d", "--json", "--resume", "--run-id", "interrupted"))
    assert (again["outcome"], again["digest"], again["steps"]) == ("FINISHED", lockstep[0]["digest"], lockstep[0]["steps"])
    resumed = query(found.history_url, "SELECT incarnation, restored_step FROM run_resumed WHERE run_id = 'interrupted'")
    assert resumed == [{"incarnation": 1, "restored_step": ended["steps"]}]
    folded = json.loads(esper(home, "replay", "interrupted", "--fold", "--json").stdout)
    assert (folded["status"], folded["equals_live"]) == ("COMPLETED", True)
    finished = esper(home, "run", "mnist1d", "--resume", "--run-id", "interrupted")
    assert finished.returncode == 2
    assert finished.stderr.splitlines()[-1] == "esper: Run interrupted is finished, so there is nothing to resume; start a new run."
    unknown = esper(home, "run", "mnist1d", "--resume", "--run-id", "mnist1d-nobody")
    assert unknown.returncode == 2
    assert unknown.stderr.splitlines()[-1].startswith(
        "esper: Run mnist1d-nobody has no journal on this Kafka, so there is nothing to resume"
    )
    assert not (home / "runs" / "mnist1d-nobody").exists()


def test_people_ask_for_a_snapshot_and_a_rollback_through_kafka(home: Path) -> None:
    """CheckpointRequested is answered by a snapshot, RollbackRequested by a new timeline from it, each once; what does not exist is ignored."""
    from esper.events import Origin  # noqa: PLC0415
    from esper.events.records import CheckpointRequested, RollbackRequested  # noqa: PLC0415

    found, clock = endpoints(home), SystemClock()
    origin = Origin("rolled", "operator", "0" * 32, clock)
    command = [sys.executable, "-m", "esper.cli", "run", "mnist1d", "--json", "--run-id", "rolled"]
    sets = ("run.epochs=300", "tamiyo.enabled=false", "checkpoints.every_epochs=0")
    arguments = [argument for one in sets for argument in ("--set", one)]
    child = subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "ESPER_HOME": str(home)}
    )

    def rows(sql: str) -> list[dict[str, Any]]:
        deadline = clock.monotonic() + 60
        while not (answer := query(found.history_url, sql)):
            assert clock.monotonic() < deadline, sql
            assert child.poll() is None, child.communicate()
            clock.sleep(0.05)
        return answer

    rows("SELECT epoch FROM epoch_ended WHERE run_id = 'rolled'")
    soon = clock.now_us() + 120_000_000
    with KafkaBus(access(Settings(home=home), "operator")).producer(sender_id="operator") as producer:
        for _ in range(2):
            producer.send(CheckpointRequested(**origin.envelope("keep"), reason="before a risk", expires_at=soon))
        producer.flush(5)
        (taken,) = rows("SELECT snapshot_id, at_step, reason, toString(command_id) AS id FROM checkpoint_taken WHERE run_id = 'rolled'")
        assert (taken["reason"], taken["id"]) == ("requested", origin.envelope("keep")["event_id"])
        producer.send(RollbackRequested(**origin.envelope("none"), snapshot_id="t9-s9", reason="a typing error", expires_at=soon))
        back = RollbackRequested(**origin.envelope("back"), snapshot_id=taken["snapshot_id"], reason="the risk", expires_at=soon)
        producer.send(back)
        producer.send(back)
        producer.flush(5)
        rolled = rows("SELECT from_step, step, timeline, snapshot_id, reason FROM run_rolled_back WHERE run_id = 'rolled'")
    out, err = child.communicate(timeout=150)
    assert child.returncode == 0, err
    assert "There is no snapshot t9-s9 to roll back to; the request is ignored." in err.replace("\n", " ")
    assert (rolled[0]["timeline"], rolled[0]["snapshot_id"], rolled[0]["reason"]) == (1, taken["snapshot_id"], "the risk")
    assert (rolled[0]["step"], rolled[0]["from_step"] >= taken["at_step"]) == (taken["at_step"], True)
    done = json.loads(out.splitlines()[-1])
    assert (done["outcome"], done["epochs"], done["steps"]) == ("FINISHED", 300, 300 * 35)
    for record in ("checkpoint_taken", "run_rolled_back"):
        assert len(query(found.history_url, f"SELECT 1 FROM {record} WHERE run_id = 'rolled'")) == 1  # noqa: S608
    (again,) = query(found.history_url, "SELECT count() AS n, uniqExact(step) AS m FROM training_step WHERE run_id = 'rolled'")
    assert (again["n"], again["m"]) == (300 * 35 + rolled[0]["from_step"] - rolled[0]["step"], 300 * 35)
    assert json.loads(esper(home, "replay", "rolled", "--fold", "--json").stdout)["equals_live"] is True


def test_people_pause_and_resume_a_run_through_kafka(home: Path) -> None:
    """PauseRequested stands a live run still, an expired one does nothing, ResumeRequested lets it go on; the journal names each request once."""
    from esper.events import Origin  # noqa: PLC0415
    from esper.events.records import PauseRequested, ResumeRequested  # noqa: PLC0415

    found, clock = endpoints(home), SystemClock()
    origin = Origin("paused", "operator", "0" * 32, clock)
    command = [sys.executable, "-m", "esper.cli", "run", "mnist1d", "--json", "--run-id", "paused"]
    arguments = ["--set", "run.epochs=60", "--set", "tamiyo.enabled=false"]
    child = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True, env={**os.environ, "ESPER_HOME": str(home)})

    def count(record: str) -> int:
        return int(query(found.history_url, f"SELECT count() AS n FROM {record} WHERE run_id = 'paused'")[0]["n"])  # noqa: S608

    def wait_for(record: str) -> None:
        deadline = clock.monotonic() + 60
        while not count(record) and clock.monotonic() < deadline:
            clock.sleep(0.1)
        assert count(record) == 1, record

    deadline = clock.monotonic() + 60
    while not count("epoch_ended") and clock.monotonic() < deadline:
        clock.sleep(0.05)
    late, soon = clock.now_us() - 1, clock.now_us() + 60_000_000
    with KafkaBus(access(Settings(home=home), "operator")).producer(sender_id="operator") as producer:
        producer.send(PauseRequested(**origin.envelope("late"), reason="too late", expires_at=late))
        pause = PauseRequested(**origin.envelope("pause"), reason="a look at it", expires_at=soon)
        producer.send(pause)
        producer.send(pause)
        producer.flush(5)
        wait_for("run_paused")
        before = count("epoch_ended")
        clock.sleep(2.0)
        assert count("epoch_ended") <= before + 1
        assert count("run_completed") == 0
        producer.send(ResumeRequested(**origin.envelope("resume"), reason="looked at it", expires_at=soon + 60_000_000))
        producer.flush(5)
    out, _ = child.communicate(timeout=90)
    assert json.loads(out.splitlines()[-1])["epochs"] == 60
    reasons = query(found.history_url, "SELECT reason FROM run_paused WHERE run_id = 'paused'")
    assert [row["reason"] for row in reasons] == ["a look at it"]
    assert json.loads(esper(home, "replay", "paused", "--fold", "--json").stdout)["equals_live"] is True


def test_damaged_artefacts_are_refused_and_training_goes_on(home: Path, lockstep: list[dict[str, Any]], tmp_path: Path) -> None:
    """With every artefact damaged under way, each graft ends as KernelFailed with the seed back in DORMANT, and the run ends as the host alone."""
    assert lockstep
    for path in (home / "store" / "kernels").iterdir():
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        (tmp_path / "kernels").mkdir(exist_ok=True)
        (tmp_path / "kernels" / path.name).write_bytes(content)
    arguments = ("--json", "--run-id", "damaged", "--set", "decisions=lockstep", "--set", "run.epochs=30")
    done = result(esper(home, "run", "mnist1d", *arguments, ESPER_URZA__STORE=str(tmp_path), ESPER_URZA__CACHE=str(tmp_path / "cache")))
    assert done["seeds"] == {"DORMANT": 8}
    failures = query(endpoints(home).history_url, "SELECT phase, error FROM kernel_failed WHERE run_id = 'damaged'")
    assert failures
    assert all(row["phase"] == "LOAD" and "damaged" in row["error"] for row in failures)
