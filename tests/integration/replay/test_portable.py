"""A run leaves its installation as a folder, is proven from there, and comes into another one: real
Kafka, real chDB, the commands as typed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from pyarrow import parquet

from esper.config import Settings
from esper.events import JournalEvent, decode
from esper.events.codec import encode
from esper.events.records import CheckpointTaken, EpochEnded, SeedTransitioned
from esper.events.seals import Trust
from esper.history.queries import HttpSource, source, wait_caught_up
from esper.history.stored_journal import messages_of
from esper.journal.exporting import Exporting
from esper.journal.portable import MANIFEST
from esper.oona.bus.kafka import KafkaBus
from esper.tolaria.record.addresses import address_of
from esper.tolaria.replay.reexecution import Reexecution
from esper.tolaria.replay.state_file import digests_of
from tests import commands
from tests.integration.history.historyfixtures import ROOT, history_part
from tests.stackfixtures import survivors
from tests.unit.tolaria.laboratory import CLOCK, GROWTH, Laboratory, recipe
from tests.unit.tolaria.test_reexecution import asking, quiet
from tests.waiting import PATIENCE_S, until

RUN = "portable-1"
STEP = 29
PASSPHRASE = "correct horse battery staple"  # noqa: S105  # of a test

pytestmark = pytest.mark.slow


@dataclass(frozen=True, slots=True)
class World:
    """A run that grew, exported.

    `home` is where it was trained, `state` the digest of all of its state at STEP.
    """

    home: Path
    export: Path
    events: list[JournalEvent]
    state: str
    secret: Path
    broker: str


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, broker: str) -> World:
    folder = tmp_path_factory.mktemp("portable")
    laboratory = Laboratory(
        folder / "home", recipe(run={"epochs": 5, "batch_size": 20}), GROWTH, run_id=RUN
    )
    asking(laboratory, 13)
    laboratory.run()
    events, archive = laboratory.journal(), laboratory.archive()
    state = digests_of(
        Reexecution(archive, quiet()).rebuild(address_of(events, STEP)).snapshot()
    ).state
    Exporting(
        settings=laboratory.settings,
        events=events,
        messages=[encode(event).value for event in events],
        data=[],
        history=None,
        clock=CLOCK,
        passphrase=PASSPHRASE,
    ).to(folder / "export")
    secret = folder / "secret"
    secret.write_text(f"{PASSPHRASE}\n")
    return World(folder / "home", folder / "export", events, state, secret, broker)


ALLOW = (
    "--allow",
    "tests.unit.tolaria.laboratory:model",
    "--allow",
    "tests.unit.tolaria.laboratory:data",
)


def esper(
    home: Path, *arguments: str | Path, bootstrap: str = "", **settings: str
) -> subprocess.CompletedProcess[str]:
    """The command as typed."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("ESPER_")
    }
    environment |= {"ESPER_HOME": str(home), "PYTHONPATH": str(ROOT)}
    environment |= settings | ({"ESPER_KAFKA__BOOTSTRAP": bootstrap} if bootstrap else {})
    return commands.run(*arguments, environment=environment, cwd=home.parent)


def result(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def refused(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The one sentence of a command that could not do what was asked."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def test_an_export_proves_the_run_where_nothing_else_is(world: World, tmp_path: Path) -> None:
    """With the folder alone, no Kafka and no history: verified whole, a step rebuilt.

    Without the passphrase a sentence says what is needed.
    """
    empty = tmp_path / "empty"
    proof = result(
        esper(
            empty,
            "replay",
            "verify",
            RUN,
            "--from",
            world.export,
            "--passphrase-file",
            world.secret,
            "--workers",
            "2",
            "--json",
            *ALLOW,
        )
    )
    epochs = sum(isinstance(event, EpochEnded) for event in world.events)
    taken = sum(isinstance(event, CheckpointTaken) for event in world.events)
    assert (proof["proven"], proof["epochs"], proof["snapshots"]) == (True, epochs, taken)
    found = result(
        esper(
            empty,
            "replay",
            "state",
            RUN,
            "--from",
            world.export,
            "--passphrase-file",
            world.secret,
            "--step",
            str(STEP),
            "--from-scratch",
            "--json",
            *ALLOW,
        )
    )
    assert (found["state_digest"], found["begun"]) == (world.state, "")
    assert "give its file with --passphrase-file" in refused(
        esper(empty, "replay", "state", RUN, "--from", world.export, "--step", "3", *ALLOW), 2
    )
    (tmp_path / "wrong").write_text("guess")
    wrong = esper(
        empty,
        "replay",
        "state",
        RUN,
        "--from",
        world.export,
        "--passphrase-file",
        tmp_path / "wrong",
        "--step",
        "3",
        *ALLOW,
    )
    assert "The passphrase is not the one that the export" in refused(wrong, 2)
    assert "is an export of run portable-1, not of run other" in refused(
        esper(empty, "replay", "state", "other", "--from", world.export, "--step", "3"), 2
    )


@pytest.mark.parametrize(
    "kind",
    ["journal.avro", "store/chunks", "store/manifests", "store/kernels", "missing", "foreign"],
)
def test_what_was_changed_in_an_export_is_named(world: World, tmp_path: Path, kind: str) -> None:
    """A flipped bit in any kind of file, a file less, a file more: `esper import --check` names the
    very file.
    """
    copy = tmp_path / "copy"
    shutil.copytree(world.export, copy)
    if kind == "foreign":
        path = copy / "store" / "odd"
        path.write_text("odd")
    else:
        path = next(
            one
            for one in sorted(copy.rglob("*"))
            if one.is_file() and kind in (one.relative_to(copy).as_posix()[: len(kind)], "missing")
        )
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        if kind == "missing":
            path.unlink()
    assert str(path) in refused(esper(tmp_path / "empty", "import", copy, "--check"), 5)


def test_a_run_comes_into_another_installation(world: World, tmp_path: Path) -> None:
    """Imported into a real Kafka, its history has every event as it was.

    From that copy alone a step is rebuilt; exported again with tables.
    """
    home = tmp_path / "other"
    assert result(esper(home, "import", world.export, "--check", "--json"))["imported"] is False
    brought = result(
        esper(
            home,
            "import",
            world.export,
            "--passphrase-file",
            world.secret,
            "--json",
            bootstrap=world.broker,
        )
    )
    assert brought["events"] == len(world.events)
    assert brought["objects"] > 10
    swept = result(
        esper(home, "gc", "--json", bootstrap=world.broker, ESPER_CHECKPOINTS__KEEP_DAYS="0.000001")
    )
    assert [one["deleted"] for one in swept["families"] if one["family"] == RUN] == [
        0
    ]  # it is pinned, however old it is
    again = esper(
        home, "import", world.export, "--passphrase-file", world.secret, bootstrap=world.broker
    )
    assert refused(again, 2).endswith(
        f"There is a run {RUN} on this Kafka already; nothing was imported."
    )

    settings = Settings(home=home)
    with history_part(home, world.broker) as part:
        assert wait_caught_up(
            part.url, KafkaBus(world.broker), timeout=PATIENCE_S, settings=settings
        )
        assert [
            decode(one.value) for one in messages_of(HttpSource(part.url, settings), RUN, Trust())
        ] == world.events
        part.child.terminate()
        part.child.wait()
    with source(settings, "") as folder:
        assert [decode(one.value) for one in messages_of(folder, RUN, Trust())] == world.events
    found = result(
        esper(home, "replay", "state", RUN, "--at", f"0:{STEP}", "--json", *ALLOW)
    )  # no Kafka here: the history's folder has it
    assert found["state_digest"] == world.state

    made = result(
        esper(home, "export", RUN, "--to", tmp_path / "second", "--json", bootstrap=world.broker)
    )
    assert made["notes"] == []
    rows = parquet.read_table(tmp_path / "second" / "history" / "seed_transitioned.parquet")
    assert rows.num_rows == sum(isinstance(event, SeedTransitioned) for event in world.events)
    assert (tmp_path / "second" / "journal.avro").read_bytes()
    assert json.loads((tmp_path / "second" / MANIFEST).read_text())["salt"] == ""
    assert result(esper(home, "import", tmp_path / "second", "--check", "--json"))["events"] == len(
        world.events
    )
    assert "exists already" in refused(
        esper(home, "export", RUN, "--to", tmp_path / "second", bootstrap=world.broker), 2
    )


def test_ctrl_c_ends_a_proof_and_all_its_processes(world: World, tmp_path: Path) -> None:
    """Interrupted while its processes work: exit code 130, no traceback from any of them, and none
    is left.
    """
    heard = [
        "env",
        "--default-signal=INT",
    ]  # also where the tests run in the background of a shell, which has its children ignore it
    command = [
        *heard,
        sys.executable,
        "-m",
        "esper.cli",
        "replay",
        "verify",
        RUN,
        "--workers",
        "2",
        "--from",
        str(world.export),
        *ALLOW,
    ]
    environment = {**os.environ, "ESPER_HOME": str(tmp_path / "empty"), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [*command, "--passphrase-file", str(world.secret)],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    ) as proving:
        until(
            lambda: (
                proving.poll() is not None
                or len(psutil.Process(proving.pid).children(recursive=True)) >= 4
            )
        )  # two, the one that they are forked from, and multiprocessing's own
        children = psutil.Process(proving.pid).children(recursive=True)
        os.killpg(proving.pid, signal.SIGINT)
        _, said = proving.communicate(timeout=PATIENCE_S)
    assert proving.returncode == 130
    assert "Traceback" not in said
    until(lambda: survivors(children) == [])


def test_other_instructions_are_named(world: World, tmp_path: Path) -> None:
    """Executed on torch's plainest instruction set: it is done anyway, the difference is named, and
    again in the sentence if bits differ.
    """
    arguments = (
        "replay",
        "state",
        RUN,
        "--from",
        world.export,
        "--passphrase-file",
        world.secret,
        "--step",
        str(STEP),
        "--from-scratch",
        *ALLOW,
    )
    command = [sys.executable, "-m", "esper.cli", *map(str, arguments)]
    environment = {
        **os.environ,
        "ESPER_HOME": str(tmp_path / "empty"),
        "PYTHONPATH": str(ROOT),
        "ATEN_CPU_CAPABILITY": "default",
    }
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, check=False, env=environment
    )
    assert done.returncode in (0, 5), done.stderr
    named = [
        line
        for line in done.stderr.splitlines()
        if "instruction_set was" in line and "and is DEFAULT" in line
    ]
    assert len(named) == (1 if done.returncode == 0 else 2)
    assert "Traceback" not in done.stderr
