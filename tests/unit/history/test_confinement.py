"""What a confined process can still do, tried in a process of its own, because nothing gives back
what was taken.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from esper.history.confined.confinement import Confinement, offered

TRIED = """
import json, os, socket, sys
from pathlib import Path
from esper.history.confined.confinement import confine
home = Path(sys.argv[1])
confine(write=[home / "own"], read=[home / "shared", home / "absent", home / "one.txt"])
found = {}
def attempt(name, action):
    try:
        action()
        found[name] = "done"
    except OSError as error:
        found[name] = type(error).__name__
def connect():
    with socket.socket() as one:
        one.connect(("127.0.0.1", int(sys.argv[2])))
attempt("write own", lambda: (home / "own" / "new").write_text("x"))
attempt("read own", lambda: (home / "own" / "new").read_text())
attempt("read shared", lambda: (home / "shared" / "a").read_text())
attempt("write shared", lambda: (home / "shared" / "a").write_text("x"))
attempt("read one", lambda: (home / "one.txt").read_text())
attempt("read secret", lambda: (home / "secret.txt").read_text())
attempt("read by link", lambda: (home / "own" / "link").read_text())
attempt("rename out", lambda: os.rename(home / "own" / "new", home / "new"))
attempt("hard link in", lambda: os.link(home / "secret.txt", home / "own" / "hard"))
attempt("list", lambda: os.listdir(home))
attempt("parent's memory", lambda: open(f"/proc/{os.getppid()}/environ").read())
attempt("connect", connect)
attempt("datagram", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close())
attempt("execute", lambda: os.execv(sys.executable, [sys.executable, "-c", ""]))
attempt("signal", lambda: os.kill(os.getppid(), 0))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """How each attempt of a confined process ended."""
    home = tmp_path_factory.mktemp("home")
    for folder in ("own", "shared"):
        (home / folder).mkdir()
    for file in ("one.txt", "secret.txt", "shared/a"):
        (home / file).write_text("x")
    (home / "own" / "link").symlink_to(home / "secret.txt")
    command = (sys.executable, "-c", TRIED, str(home), "9")
    result = subprocess.run(
        command, capture_output=True, timeout=60, check=True, cwd=Path(__file__).parents[3]
    )
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.mark.skipif(
    not offered().files, reason="this kernel has no Landlock (Linux 5.13 with lsm=landlock)"
)
def test_files_outside_are_out_of_reach(tried: dict[str, Any]) -> None:
    """Its own folder is written and read, shared ones are read, anything else is neither, by no
    link, name or process.
    """
    done = {name for name, result in tried.items() if result == "done"}
    assert {"write own", "read own", "read shared", "read one"} <= done
    assert not done & {
        "write shared",
        "read secret",
        "read by link",
        "rename out",
        "hard link in",
        "list",
        "parent's memory",
    }


@pytest.mark.skipif(not offered().seccomp, reason="this machine's system calls are not known here")
def test_network_and_programs_are_out_of_reach(tried: dict[str, Any]) -> None:
    """No socket is made and no program is begun."""
    assert {tried[name] for name in ("connect", "datagram", "execute")} == {"PermissionError"}


def test_what_a_kernel_offers_is_said() -> None:
    """Landlock has files from the first version on and TCP from the fourth.

    Seccomp has the network alone.
    """
    old, none, plain = (
        Confinement(2, seccomp=False),
        Confinement(0, seccomp=False),
        Confinement(0, seccomp=True),
    )
    assert (old.files, old.network, Confinement(4, seccomp=False).network) == (True, False, True)
    assert (plain.files, plain.network, none.files, none.network) == (False, True, False, False)
    assert (Confinement(7, seccomp=True).words, none.words) == ("Landlock 7 and seccomp", "nothing")
