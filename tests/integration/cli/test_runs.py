"""`esper runs` as typed: notes of operators are signed events that the list, SQL and the API show.
A deletion removes what is the run's alone, and nothing of others.
"""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from esper.cli.shared.connection import cluster_of
from esper.clock import SystemClock
from esper.config import Settings
from esper.events import encode
from esper.events.records import AuditRecorded, RunAnnotated
from esper.oona.bus.kafka import KafkaBus
from esper.oona.durable import run_notes
from esper.oona.durable.journal_reader import read_topics
from esper.service.client import Client
from esper.service.transport.signing import Keyring
from tests.folders import files_below
from tests.integration.run.whole import begin, endpoints, esper, query, result
from tests.waiting import until

CLOCK = SystemClock()
SHORT = tuple(
    part
    for one in ("tamiyo.enabled=false", "run.epochs=2", "decisions=lockstep")
    for part in ("--set", one)
)


def train(home: Path, run_id: str, *more: str) -> dict[str, Any]:
    """A run of two epochs."""
    return result(esper(home, "run", "digits", "--json", "--run-id", run_id, *SHORT, *more))


def listed(home: Path, *options: str) -> dict[str, dict[str, Any]]:
    """The rows of `esper runs` by id."""
    done = esper(home, "runs", "--json", *options)
    assert done.returncode == 0, done.stderr
    return {row["run_id"]: row for row in json.loads(done.stdout)}


def refused(home: Path, *arguments: str) -> str:
    """The sentence of what is refused."""
    done = esper(home, "runs", *arguments)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stderr


def bus_of(home: Path) -> KafkaBus:
    return KafkaBus(cluster_of(Settings(home=home), "operator"))


@pytest.fixture(scope="module")
def noted(home: Path) -> str:
    """A run of which operators have said something."""
    run = "noted"
    train(home, run)
    for words in (
        ("tag", run, "+good", "+slow", "--json"),
        ("tag", run, "-slow", "+v1.2"),
        ("note", run, 'it\'s "fine"; DROP TABLE runs --'),
        ("rename", run, "größer 更好"),
    ):
        done = esper(home, "runs", *words)
        assert done.returncode == 0, done.stderr
    return run


def test_notes_are_shown_and_choose_runs(home: Path, noted: str) -> None:
    """In the list, by its filters, in SQL; the id stays."""
    train(home, "plain")
    until(lambda: listed(home)[noted]["name"] == "größer 更好")
    row = listed(home)[noted]
    assert (row["tags"], row["note"]) == (["good", "v1.2"], 'it\'s "fine"; DROP TABLE runs --')
    assert (row["baseline"], row["deleted"]) == (False, False)
    plain = listed(home)["plain"]
    assert (plain["name"], plain["note"], plain["tags"]) == ("", "", [])
    assert plain["epochs"] == 2
    assert set(listed(home, "--tag", "good")) == {noted}
    assert set(listed(home, "--tag", "good", "--tag", "v1.2")) == {noted}
    assert not listed(home, "--tag", "slow")
    assert {noted, "plain"} <= set(listed(home, "--recipe", "digits", "--state", "finished"))
    assert not listed(home, "--recipe", "nobody")
    assert "größer 更好" in esper(home, "runs", "--tag", "good").stdout
    asked = "SELECT tags, note FROM runs WHERE has(tags, 'good')"
    assert query(endpoints(home).history_url, asked) == [
        {"tags": ["good", "v1.2"], "note": row["note"]}
    ]


def test_the_api_shows_notes(home: Path, noted: str) -> None:
    """Beside each run."""
    settings = Settings(home=home)
    client = Client(settings, part="tolaria", subject="test")

    def found() -> dict[str, Any]:
        answer = client.ask(f"{endpoints(home).tolaria_url}/api/v1/runs/{noted}")
        body: dict[str, Any] = json.loads(answer.body)
        return body

    until(lambda: found().get("name") == "größer 更好")
    assert found()["tags"] == ["good", "v1.2"]


def test_a_recipe_has_one_baseline(home: Path, noted: str) -> None:
    """Another takes its place; `--off` leaves none."""
    train(home, "other-baseline")
    for run in (noted, "other-baseline"):
        assert esper(home, "runs", "baseline", run).returncode == 0
    until(lambda: listed(home)["other-baseline"]["baseline"])
    assert not listed(home)[noted]["baseline"]
    assert esper(home, "runs", "baseline", "other-baseline", "--off").returncode == 0
    until(lambda: not listed(home)["other-baseline"]["baseline"])


def test_notes_are_on_record(home: Path, noted: str) -> None:
    """Who asked for what stands in the audit trail, and the events are signed."""
    records = list(read_topics(bus_of(home), [AuditRecorded.TOPIC], clock=CLOCK))
    actions = {
        event.action
        for event in records
        if isinstance(event, AuditRecorded) and event.run_id == noted and event.status == 200
    }
    assert {"runs tag", "runs note", "runs rename"} <= actions
    trust = Keyring(Settings(home=home).keys_dir).trust
    mine = [
        event
        for event in run_notes.read_notes(bus_of(home), trust, clock=CLOCK)
        if event.run_id == noted
    ]
    assert len(mine) >= 4
    assert all(isinstance(event, RunAnnotated) and event.signature for event in mine)


def test_what_others_write_is_left_out(home: Path) -> None:
    """A deletion that is not signed, or signed by nobody known, deletes nothing and is named."""
    train(home, "forged")
    event = run_notes.deleted(
        "forged", snapshots=0, files=0, file_bytes=0, actor="root", clock=CLOCK
    )
    with bus_of(home).producer(sender_id="cli") as producer:
        producer.send_message(encode(event))
        assert producer.flush(60) == 0
    swept = esper(home, "gc", "--dry-run")
    assert "is left out: it is not signed" in swept.stderr
    done = esper(home, "runs", "tag", "forged", "+alive")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("tag", "nobody", "+x"), "There is no run nobody"),
        (("tag", "noted", "x"), "Write +x to add the tag"),
        (("tag", "noted", "+x y"), "is no tag"),
        (("note", "noted", "a\nb"), "one line of text"),
        (("rename", "noted", "x" * 121), "120 characters at most"),
        (("baseline", "nobody"), "There is no run nobody"),
        (("delete", "nobody"), "There is no run nobody"),
        (("delete", "../noted"), "There is no run ../noted"),
    ],
)
def test_what_cannot_be_said_is_refused(
    home: Path, noted: str, words: tuple[str, ...], said: str
) -> None:
    """In one sentence."""
    assert said in refused(home, *words)


def store_files(home: Path) -> set[Path]:
    return files_below(Path(str(Settings(home=home).store_location)))


def test_a_deleted_run_is_gone_and_others_are_whole(home: Path) -> None:
    """Its snapshots and files are removed, and it is no longer listed; a fork's are needed no more
    once that is deleted; what others have stays, and they are proven as before.
    """
    before = store_files(home)
    train(home, "gone", "--set", "run.seed=5")
    train(home, "stays", "--set", "run.seed=6")
    result(esper(home, "fork", "gone", "--step", "19", "--run-id", "gone-fork", "--json"))
    assert "gone-fork could not be proven without it" in refused(home, "delete", "gone")
    assert esper(home, "pin", "gone-fork").returncode == 0
    assert "is pinned" in refused(home, "delete", "gone-fork")
    assert esper(home, "pin", "gone-fork", "--off").returncode == 0
    assert esper(home, "runs", "baseline", "gone-fork").returncode == 0
    assert "is the baseline of digits" in refused(home, "delete", "gone-fork")
    assert esper(home, "runs", "baseline", "gone-fork", "--off").returncode == 0
    assert esper(home, "runs", "delete", "gone-fork").returncode == 0

    planned = result(esper(home, "runs", "delete", "gone", "--dry-run", "--json"))
    folder = Settings(home=home).runs_dir / "gone"
    assert folder.is_dir()
    done = result(esper(home, "runs", "delete", "gone", "--json"))
    assert {name: done[name] for name in ("snapshots", "files")} == {
        name: planned[name] for name in ("snapshots", "files")
    }
    assert done["snapshots"] >= 2
    assert done["file_bytes"] > 0
    assert not folder.exists()
    assert not (folder.parent / ".gone.deleted").exists()
    manifests = {path for path in store_files(home) - before if "manifests" in str(path)}
    assert len(manifests) == done["snapshots"], "those of the run that stays, as long as this one"
    until(lambda: listed(home, "--deleted").keys() >= {"gone", "gone-fork"})
    assert not {"gone", "gone-fork"} & set(listed(home))
    proven = esper(home, "replay", "verify", "stays")
    assert proven.returncode == 0, proven.stderr
    for words in (("run", "digits", "--resume", "--run-id", "gone"), ("fork", "gone")):
        again = esper(home, *words)
        assert again.returncode == 2, again.stderr
        assert "Run gone was deleted" in again.stderr
    assert "Run gone was deleted" in refused(home, "tag", "gone", "+x")
    folded = esper(home, "replay", "fold", "gone", "--json")
    assert '"status": "COMPLETED"' in folded.stdout


def test_an_interrupted_deletion_is_finished(home: Path) -> None:
    """The event stands and half of the files are gone: asked for again, the rest goes, and there is
    one event.
    """
    train(home, "half")
    folder = Settings(home=home).runs_dir / "half"
    kept = folder.with_name("half.kept")
    shutil.copytree(folder, kept)
    assert esper(home, "runs", "delete", "half").returncode == 0
    kept.rename(folder.with_name(".half.deleted"))
    done = result(esper(home, "runs", "delete", "half", "--json"))
    assert done["files"] > 0
    assert not folder.with_name(".half.deleted").exists()
    trust = Keyring(Settings(home=home).keys_dir).trust
    events = run_notes.read_notes(bus_of(home), trust, clock=CLOCK)
    assert sum(event.run_id == "half" for event in events) == 1


def test_a_run_that_trains_is_refused(home: Path) -> None:
    """While its trainer lives; killed, it can be deleted."""
    command = begin(
        home, "run", "digits", "--run-id", "training", *SHORT, "--set", "run.epochs=100000"
    )
    try:
        until(lambda: "training" in listed(home))
        assert "pause it with `esper pause training`" in refused(home, "delete", "training")
    finally:
        command.send_signal(signal.SIGKILL)
        command.wait()
    done = esper(home, "runs", "delete", "training")
    assert done.returncode == 0, done.stderr
    assert not (Settings(home=home).runs_dir / "training").exists()
