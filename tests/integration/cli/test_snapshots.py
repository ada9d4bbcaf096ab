"""`esper checkpoints | pin | gc | keys` as typed, against a real broker and a store with the
snapshots of a journal.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from esper.checkpoint import Snapshot, open_tensors
from esper.clock import SystemClock
from esper.config import Settings
from esper.events import encode
from esper.events.records import AuditRecorded, CheckpointTaken
from esper.lifecycle.commands import Complete, RecordCheckpoint
from esper.oona.bus.kafka import KafkaBus
from esper.oona.durable.journal_reader import read_topics
from esper.vault.masters import masters
from tests import commands
from tests.stackfixtures import eventually
from tests.unit.lifecycle.test_recovery import Pen
from tests.waiting import PATIENCE_S

RUN = "vault-run-1"
DAY_US = 86_400_000_000
CLOCK = SystemClock()
pytestmark = pytest.mark.slow


class Installation:
    """A home, the cluster, and a run whose snapshots were taken 9 and 2 days ago and now."""

    def __init__(self, home: Path, broker: str, run: str = RUN) -> None:
        self.home, self.broker, self.run = home, broker, run
        self.settings = Settings(home=home)
        self.bus = KafkaBus(broker)
        self.values = {
            name: torch.full((5_000,), float(number))
            for number, name in enumerate(("old", "middle", "new"))
        }
        tensors, pen, days = (
            open_tensors(self.settings, self.run),
            Pen(),
            {"old": 9, "middle": 2, "new": 0},
        )
        self.addresses: dict[str, tuple[str, str]] = {}
        for name, value in self.values.items():
            stored = tensors.write(Snapshot({"model/a": value}, {}))
            self.addresses[name] = (stored.address, stored.sha256)
            then = CLOCK.now_us() / 1e6 - days[name] * 86_400
            os.utime(
                next(Path(self.settings.store_location).rglob(stored.address.rpartition("/")[2])),
                (then, then),
            )  # the store's word counts too
            sizes = {
                "tensors": 1,
                "size_bytes": stored.size_bytes,
                "stored_bytes": stored.stored_bytes,
                "stall_us": 1,
                "duration_us": 1,
            }
            place = {"at_timeline": 0, "at_sequence": 1, "at_epoch": 0, "at_step": 0}
            kept = {
                "address": stored.address,
                "sha256": stored.sha256,
                "parameters_digest": "",
                "reason": "epoch",
            }
            parent = list(self.addresses)[-2] if len(self.addresses) > 1 else ""
            pen.do(
                RecordCheckpoint(
                    snapshot_id=name,
                    parent=parent,
                    kind="INCREMENTAL" if parent else "FULL",
                    **sizes,  # type: ignore[arg-type]
                    **place,  # type: ignore[arg-type]
                    **kept,  # type: ignore[arg-type]
                )
            )
        pen.do(
            Complete(
                outcome="FINISHED", accuracy=0.0, loss=0.0, parameters=1, digest="", model_sha256=""
            )
        )
        events = [
            replace(event, run_id=self.run, occurred_at=CLOCK.now_us()) for event in pen.events
        ]
        aged = [
            replace(event, occurred_at=event.occurred_at - days[event.snapshot_id] * DAY_US)
            if isinstance(event, CheckpointTaken)
            else event
            for event in events
        ]
        with self.bus.journal_producer(run_id=self.run) as producer:
            producer.begin(20)
            producer.commit([encode(event) for event in aged])

    def esper(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command as typed."""
        set_here = {
            "ESPER_HOME": str(self.home),
            "ESPER_KAFKA__BOOTSTRAP": self.broker,
            **environment,
        }
        return commands.run(*arguments, environment={**os.environ, **set_here})

    def said(self, *arguments: str) -> Any:
        """What a command says with --json."""
        done = self.esper(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def where(self) -> dict[str, tuple[str, str | None]]:
        return {
            one["snapshot_id"]: (one["where"], one["kept"])
            for one in self.said("checkpoints", self.run)
        }

    def mine(self) -> dict[str, Any]:
        (found,) = [
            one for one in self.said("gc", "--dry-run")["families"] if one["family"] == self.run
        ]
        return dict(found)

    def reads(self, name: str) -> bool:
        found = open_tensors(self.settings, self.run).read(*self.addresses[name])
        return torch.equal(found.tensors["model/a"], self.values[name])


def audited(bus: KafkaBus) -> list[tuple[str, int]]:
    """Action and status of what the command line has done so far."""
    found = read_topics(bus, [AuditRecorded.TOPIC], clock=CLOCK)
    return [
        (event.action, event.status)
        for event in found
        if isinstance(event, AuditRecorded) and event.sender_id == "cli"
    ]


def test_the_commands_of_the_store(tmp_path: Path, broker: str) -> None:
    """One story: what there is, a pin that keeps it, a dry run, a sweep that moves and deletes,
    keys rotated; each change is in the audit log.
    """
    here = Installation(tmp_path, broker)
    listed = here.said("checkpoints", RUN)
    assert all((one["family"], one["pinned"]) == (RUN, False) for one in listed)
    assert [(one["snapshot_id"], one["kind"], one["parent"]) for one in listed] == [
        ("old", "FULL", None),
        ("middle", "INCREMENTAL", "old"),
        ("new", "INCREMENTAL", "middle"),
    ]
    assert all(one["size_bytes"] == 20_000 and one["stored_bytes"] > 0 for one in listed)
    assert here.where() == {"old": ("hot", None), "middle": ("hot", None), "new": ("hot", None)}
    assert (
        here.esper("checkpoints", "no-run").stderr
        == "esper: There is no run no-run; `esper runs` lists those that there are.\n"
    )

    assert here.said("pin", RUN) == {"run_id": RUN, "pinned": True, "changed": True}
    assert {one for _, one in here.where().values()} == {"pinned"}
    assert here.mine()["deleted"] == 0
    assert here.esper("pin", RUN, "--off").stdout == f"Run {RUN} is not pinned.\n"
    planned = here.mine()
    assert (planned["kept"], planned["deleted"], planned["moved"]) == (2, 1, 1)
    assert here.reads("old")

    done = here.esper("gc")
    assert done.returncode == 0, done.stderr
    assert (
        f"{RUN}: 2 snapshots kept, 1 deleted with 0 chunks" in done.stdout
    )  # a chunk is younger than an hour
    assert here.where() == {"old": ("gone", None), "middle": ("cold", None), "new": ("hot", None)}
    assert here.reads("middle")
    assert here.reads("new")

    before = masters(here.settings).current.id
    rotated = here.said("keys", "rotate")
    assert (rotated["retired"], rotated["rewrapped"], rotated["left"]) == ([before], 1, 0)
    shown = here.said("keys")
    assert shown["master_keys"] == [rotated["master_key"]]
    assert shown["families"] == [{"name": RUN, "master_key": rotated["master_key"]}]
    assert here.reads("middle")
    secret = (tmp_path / "keys" / "master.key").read_text().strip()
    assert secret not in here.esper("keys").stdout

    assert audited(here.bus)[-4:] == [
        ("pin", 200),
        ("pin --off", 200),
        ("gc", 200),
        ("keys rotate", 200),
    ]


def test_the_stack_sweeps_by_itself(tmp_path: Path, broker: str) -> None:
    """Tolaria's part sweeps when it is time: what is too old is gone, as after `esper gc`, and the
    audit log has it.
    """
    here, before = Installation(tmp_path, broker, "vault-run-2"), len(audited(KafkaBus(broker)))
    environment = {
        "ESPER_HOME": str(tmp_path),
        "ESPER_KAFKA__BOOTSTRAP": broker,
        "ESPER_CHECKPOINTS__SWEEP_HOURS": "0.0005",
    }
    part = commands.begin(
        module="esper.tolaria.control",
        environment={**os.environ, **environment, "ESPER_TOLARIA__PORT": "0"},
    )
    try:
        assert eventually(lambda: ("gc", 200) in audited(here.bus)[before:])
    finally:
        part.terminate()
    assert part.wait() == 0
    assert here.where() == {"old": ("gone", None), "middle": ("cold", None), "new": ("hot", None)}


def test_nothing_is_changed_without_a_record_of_it(tmp_path: Path) -> None:
    """No Kafka: the sentence says so, and the master key is as it was."""
    settings = Settings(home=tmp_path)
    open_tensors(settings, RUN)
    before = masters(settings)
    done = subprocess.run(
        [sys.executable, "-m", "esper.cli", "keys", "rotate"],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
        env={**os.environ, "ESPER_HOME": str(tmp_path), "ESPER_KAFKA__BOOTSTRAP": "127.0.0.1:1"},
    )
    assert done.returncode == 3
    assert done.stderr == (
        "esper: Kafka does not answer, and nothing is changed without a record of it: try "
        "again once it does.\n"
    )
    assert masters(settings) == before
