"""Attack: another user of the machine reads what Esper leaves on disk.

Or a misspelt variable leaves a setting as it was.

Expected: whatever the umask of who starts it, nothing in ESPER_HOME is for others; a home that was
open is closed, or refused in a sentence.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from esper.config import Settings
from esper.errors import UsageError
from esper.private import tighten
from esper.service.transport import token_keys

OTHERS = stat.S_IRWXG | stat.S_IRWXO


def open_to_others(folder: Path) -> list[str]:
    """Everything in a folder, and the folder, that others may use in any way."""
    return [
        str(path)
        for path in (folder, *folder.rglob("*"))
        if not path.is_symlink() and path.lstat().st_mode & OTHERS
    ]


def run(program: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A program in a process that lets everybody read and write what it makes."""
    code = f"import os; os.umask(0)\n{program}"
    given = os.environ | {"ESPER_HOME": str(home)} | environment
    return subprocess.run(
        [sys.executable, "-c", code],
        env=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_what_a_process_of_esper_makes_is_its_owners_alone(tmp_path: Path) -> None:
    """Folders, files, keys, sockets, and what its children make.

    Only a guest in somebody's own process leaves that process as it was.
    """
    program = """
import subprocess, sys
from pathlib import Path
from esper.config import Settings
from esper.service.transport import sockets, token_keys
settings = Settings.load(guest=len(sys.argv) > 1)
token_keys.ensure(settings.keys_dir)
(settings.runs_dir / "r" / "outbox").mkdir(parents=True)
(settings.runs_dir / "r" / "outbox" / "1").write_text("x")
subprocess.run([sys.executable, "-c", "open('child', 'w')"], cwd=settings.runs_dir, check=True)
sockets.listening(settings, 0, setting="X").close()
"""
    home = tmp_path / "home"
    done = run(program, home)
    assert done.returncode == 0, done.stderr
    assert len(list(home.rglob("*"))) >= 9
    assert open_to_others(home) == []
    guest = run("import sys; sys.argv.append('guest')\n" + program, tmp_path / "guest")
    assert guest.returncode == 0, guest.stderr
    assert str(tmp_path / "guest" / "runs" / "child") in open_to_others(tmp_path / "guest")


def test_a_home_that_was_open_is_closed_and_that_is_said(tmp_path: Path) -> None:
    """Everything in it, but for keys that others could read: those are refused by whoever needs
    them.
    """
    home = tmp_path / "home"
    settings = Settings(home=home)
    token_keys.ensure(settings.keys_dir)
    for name in ("stack/kafka/log", "runs/r/outbox/1", "store/objects/a"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("x")
        (home / name).chmod(0o666)
    (home / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_text("x")
    (tmp_path / "elsewhere").chmod(0o644)
    (settings.keys_dir / token_keys.PRIVATE).chmod(0o644)
    home.chmod(0o755)
    done = run("from esper.config import Settings; Settings.load()", home)
    assert done.stderr == (
        f"esper: {home} was open to other users of this machine; now only its owner can enter it.\n"
    )
    assert open_to_others(home) == [str(settings.keys_dir / token_keys.PRIVATE)]
    assert stat.S_IMODE((tmp_path / "elsewhere").stat().st_mode) == 0o644
    with pytest.raises(UsageError, match="other users, who could make tokens"):
        token_keys.signing(settings.keys_dir)
    assert run("from esper.config import Settings; Settings.load()", home).stderr == ""


@pytest.mark.parametrize(
    ("mode", "inside"),
    [(0o755, "photos"), (0o1777, "stack"), (0o1777, "")],
    ids=["a user's", "like /tmp", "empty, like /tmp"],
)
def test_a_folder_that_is_not_espers_is_not_closed(tmp_path: Path, mode: int, inside: str) -> None:
    """ESPER_HOME=/tmp or one's whole home by mistake: refused, and nothing is changed."""
    home = tmp_path / "home"
    home.mkdir()
    if inside:
        (home / inside).mkdir()
    home.chmod(mode)
    with pytest.raises(UsageError, match="a folder of its own"):
        tighten(home)
    assert stat.S_IMODE(home.stat().st_mode) == mode


@pytest.mark.skipif(
    os.geteuid() != 0,
    reason="only root can become another user; run the tests as root for this one",
)
def test_another_users_open_home_is_refused(tmp_path: Path) -> None:
    """Who works in a folder of another user's works for that user."""
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o777)
    tmp_path.chmod(0o711)
    program = """
import os, sys
from pathlib import Path
from esper.errors import UsageError
from esper.private import tighten
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try: tighten(Path("home"))
except UsageError as error: sys.exit(str(error))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "belongs to another user" in done.stderr


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ESPER_KAFKAA__BOOTSTRAP", "did you mean ESPER_KAFKA__BOOTSTRAP?"),
        ("ESPER_KAFKA_BOOTSTRAP", "did you mean ESPER_KAFKA__BOOTSTRAP?"),
        ("ESPER_HOMEE", "did you mean ESPER_HOME?"),
        ("esper_servise__rate", "did you mean ESPER_SERVICE__RATE?"),
        ("ESPER_NOTHING__LIKE_IT", "unset it"),
        ("ESPER_SERVICE__RAET", "did you mean ESPER_SERVICE__RATE?"),
    ],
)
def test_a_misspelt_variable_is_refused_with_the_nearest_name(
    name: str, says: str, tmp_path: Path
) -> None:
    """What it was meant to change does not silently stay as it is."""
    done = run(
        "from esper.cli import main; import sys; sys.argv = ['esper', 'status']; main()",
        tmp_path / "home",
        **{name: "1"},
    )
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_variable_that_is_like_none_is_a_warning_and_those_of_tests_are_none(
    tmp_path: Path,
) -> None:
    """Another program may use the same beginning."""
    quiet = {
        "ESPER_CHAOS_KILLS": "1",
        "ESPER_FUZZ": "1",
        "ESPER_DEBUG": "1",
        "ESPER_KAFKA__OPTIONS": "{}",
        "esper_home": "h",
    }
    done = run(
        "from esper.config import Settings; Settings.load()",
        tmp_path / "home",
        ESPER_WEATHER="1",
        **quiet,
    )
    assert done.returncode == 0
    assert (
        done.stderr
        == "esper: ESPER_WEATHER is not a variable of Esper and changes nothing; unset it.\n"
    )
