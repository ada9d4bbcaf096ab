"""Master keys and family keys: where they come from, what is said when they are missing, and how
they are rotated.
"""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pydantic import SecretStr

from esper.checkpoint import Snapshot, Stored, TensorStore, open_tensors
from esper.checkpoint.rotation import rotate
from esper.config import CheckpointSettings, Settings
from esper.errors import CorruptError, UnavailableError, UsageError
from esper.urza.opening import open_store
from esper.vault.family_keys import listed
from esper.vault.masters import MasterKey, masters
from tests.unit.checkpoint.sweeping import ended
from tests.waiting import PATIENCE_S

ONE, OTHER = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))
ONE_ID, OTHER_ID = (MasterKey(bytes([number]) * 32).id for number in (1, 2))


def given(home: Path, *keys: str) -> Settings:
    """An installation with master keys from the environment."""
    return Settings(home=home, checkpoints=CheckpointSettings(master_key=SecretStr(",".join(keys))))


def written(tensors: TensorStore) -> Stored:
    return tensors.write(Snapshot({"model/a": torch.arange(5.0)}, {}))


def reads(settings: Settings, stored: Stored, run: str = "run-1") -> bool:
    return torch.equal(
        open_tensors(settings, run).read(stored.address, stored.sha256).tensors["model/a"],
        torch.arange(5.0),
    )


def test_the_key_file_is_made_on_first_use_for_its_owner_alone(tmp_path: Path) -> None:
    """32 random bytes, mode 600; the next process finds the same family by it."""
    settings = Settings(home=tmp_path)
    stored = written(open_tensors(settings, "run-1"))
    path = tmp_path / "keys" / "master.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(base64.b64decode(path.read_text())) == 32
    assert reads(settings, stored)
    assert masters(settings).current.id != masters_of_another(tmp_path / "other")


def masters_of_another(home: Path) -> str:
    open_tensors(Settings(home=home), "run-1")
    return masters(Settings(home=home)).current.id


def test_a_key_may_come_from_a_file_the_environment_or_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same key by each way opens the same snapshot.

    The environment's names are those of the settings.
    """
    stored = written(open_tensors(given(tmp_path, ONE), "run-1"))
    elsewhere = tmp_path / "secret"
    elsewhere.write_text(f"{ONE}\n")
    elsewhere.chmod(0o600)
    for name, value in (
        ("ESPER_CHECKPOINTS__MASTER_KEY", ONE),
        ("ESPER_CHECKPOINTS__MASTER_KEY_FILE", str(elsewhere)),
        ("ESPER_CHECKPOINTS__MASTER_KEY_COMMAND", f"cat {elsewhere}"),
    ):
        with monkeypatch.context() as patched:
            patched.setenv(name, value)
            assert reads(Settings(home=tmp_path), stored)
    assert not (tmp_path / "keys" / "master.key").exists()


def test_a_missing_or_another_key_is_named_with_the_remedy(tmp_path: Path) -> None:
    """No key is made where the store has families; another one is told apart by ids.

    No snapshot is passed over for it, and no secret is said.
    """
    stored = written(open_tensors(given(tmp_path, ONE), "run-1"))
    with pytest.raises(
        UsageError,
        match=(
            r"^There is no master key in .*/keys/master\.key: put back the one that was there, "
            r"or set ESPER_CHECK"
        ),
    ):
        reads(Settings(home=tmp_path), stored)
    with pytest.raises(UsageError) as refused:
        reads(given(tmp_path, OTHER), stored)
    assert str(refused.value) == (
        f"The snapshots of run-1 are sealed under master key {ONE_ID}, and the environment "
        f"gives {OTHER_ID}: "
        "put that key back, or name it in ESPER_CHECKPOINTS__MASTER_KEY."
    )
    assert ONE not in repr(given(tmp_path, ONE))
    assert ONE not in repr(masters(given(tmp_path, ONE)))
    assert str(open_tensors(given(tmp_path, ONE), "run-1").family.key) not in repr(
        open_tensors(given(tmp_path, ONE), "run-1")
    )


def test_what_is_no_key_is_refused_without_saying_it(tmp_path: Path) -> None:
    """Too short, no base64, a command that fails, a file that others may read or that is damaged: a
    sentence each.
    """
    for text in ("c2hvcnQ=", "no base64!", f"{ONE},c2hvcnQ="):
        with pytest.raises(
            UsageError,
            match=(
                r"^ESPER_CHECKPOINTS__MASTER_KEY gives no master key: a master key is 32 "
                r"random bytes"
            ),
        ) as refused:
            open_tensors(given(tmp_path, text), "run-1")
        assert text not in str(refused.value)
    failing = Settings(
        home=tmp_path, checkpoints=CheckpointSettings(master_key_command="echo secret; exit 3")
    )
    with pytest.raises(
        UnavailableError, match=r"^The master key's command ended with status 3: try it by hand\.$"
    ):
        open_tensors(failing, "run-1")
    path = tmp_path / "keys" / "master.key"
    for content, mode, kind, sentence in (
        (
            f"{ONE}\n",
            0o644,
            UsageError,
            "may be read by other users, who could read every snapshot: chmod 600 it",
        ),
        (f"{ONE[:20]}\n", 0o600, CorruptError, "gives no master key"),
        ("ü", 0o600, CorruptError, "holds no master key"),
    ):
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
        path.chmod(mode)
        with pytest.raises(kind, match=sentence):
            open_tensors(Settings(home=tmp_path), "run-1")


def test_rotation_rewraps_families_and_touches_nothing_else(tmp_path: Path) -> None:
    """After it, the new key opens every snapshot and the old one none.

    No chunk and no manifest has changed.
    """
    settings = Settings(home=tmp_path)
    stored = {run: written(open_tensors(settings, run)) for run in ("run-1", "run-2")}
    old, store = masters(settings), open_store(settings)
    before = {key: store.get(key) for key in store.list() if not key.startswith("families")}
    done = rotate(settings)
    assert (done.rewrapped, done.left, done.retired) == (2, 0, (old.current.id,))
    assert done.current == masters(settings).current.id != old.current.id
    assert {key: store.get(key) for key in store.list() if not key.startswith("families")} == before
    assert all(reads(settings, one, run) for run, one in stored.items())
    assert [(one.name, one.master_id) for one in listed(store, old)] == [("", done.current)] * 2
    assert (tmp_path / "keys" / "master.key").stat().st_mode & 0o777 == 0o600


def test_rotation_of_a_key_from_elsewhere(tmp_path: Path) -> None:
    """With one key it says what to do.

    With the new one before the old one it rewraps, and then the new one is enough.
    """
    stored = written(open_tensors(given(tmp_path, ONE), "run-1"))
    with pytest.raises(
        UsageError,
        match=f"^The master key comes from the environment: put a new one before {ONE_ID} there",
    ):
        rotate(given(tmp_path, ONE))
    done = rotate(given(tmp_path, OTHER, ONE))
    assert (done.current, done.retired, done.rewrapped) == (OTHER_ID, (ONE_ID,), 1)
    assert reads(given(tmp_path, OTHER), stored)
    with pytest.raises(
        UsageError, match=f"sealed under master key {OTHER_ID}, and the environment gives {ONE_ID}"
    ):
        reads(given(tmp_path, ONE), stored)


def test_a_damaged_family_stops_a_rotation_and_no_key_is_forgotten(tmp_path: Path) -> None:
    """The family is named.

    Both master keys stay in the file, so that the other families can be read.
    """
    settings = Settings(home=tmp_path)
    stored = {run: written(open_tensors(settings, run)) for run in ("run-1", "run-2")}
    path = tmp_path / "store" / listed(open_store(settings), masters(settings))[0].key
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CorruptError, match=r"^Family file families/.* is damaged"):
        rotate(settings)
    assert len(masters(settings).keys) == 2
    path.write_bytes(content)
    assert rotate(settings).rewrapped == 2
    assert all(reads(settings, one, run) for run, one in stored.items())


@pytest.mark.slow
def test_processes_that_begin_at_once_get_one_family(tmp_path: Path) -> None:
    """Four first users of an installation make one master key and one family key."""
    code = (
        "import sys; from pathlib import Path; from esper.checkpoint import open_tensors; from "
        "esper.config import Settings\n"
    )
    code += (
        "import hashlib; print(hashlib.sha256(open_tensors(Settings(home=Path(sys.argv[1])), "
        "'run-1').family.key).hexdigest())"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        )
        for _ in range(4)
    ]
    said = {one.communicate(timeout=PATIENCE_S)[0] for one in started}
    assert len(said) == 1
    assert len(said.pop()) == 65
    assert len(list(open_store(Settings(home=tmp_path)).list("families/"))) == 1


def test_a_rotation_killed_before_each_of_its_operations_is_finished_by_the_next(
    tmp_path: Path,
) -> None:
    """Kill -9 before every link, unlink and rename: every snapshot can be read at once, and the
    next rotation ends with one key.
    """
    assert ended("rotations", tmp_path) >= 11
