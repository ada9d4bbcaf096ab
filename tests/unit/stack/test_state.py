"""The state file, who wants the stack, and which process a pid means."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper.clock import SystemClock
from esper.identity import Identity
from esper.stack.processes import owners, stack_state
from esper.stack.processes.stack_state import PartState, StackState

IDENTITIES = st.builds(Identity, st.integers(1, 2**22), st.integers(0, 2**40))
PARTS = st.builds(
    PartState,
    name=st.text(max_size=9),
    phase=st.sampled_from(["waiting", "starting", "ready", "unready", "backing off", "stopped"]),
    process=st.none() | IDENTITIES,
    port=st.integers(0, 65535),
    restarts=st.integers(0),
    since_us=st.integers(0),
    log=st.text(),
    reason=st.text(),
)
STATES = st.builds(
    StackState,
    phase=st.sampled_from(["starting", "running", "stopping", "down", "failed"]),
    supervisor=IDENTITIES,
    embedded=st.booleans(),
    bootstrap=st.text(),
    started_at_us=st.integers(0),
    ports=st.dictionaries(st.text(), st.integers(0, 65535), max_size=3),
    parts=st.lists(PARTS, max_size=3).map(tuple),
    error=st.none() | st.tuples(st.text(), st.text()),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(written=STATES)
def test_what_is_written_is_read(tmp_path: Path, written: StackState) -> None:
    """The file keeps every field."""
    stack_state.write(tmp_path, written)
    assert stack_state.read(tmp_path) == written


def test_no_file_and_an_unreadable_one_say_that_nothing_is_known(tmp_path: Path) -> None:
    """Leftovers of another version or a torn file never stop a start."""
    assert stack_state.read(tmp_path) is None
    for text in ("", "{", "[]", '{"phase": "running"}', "\x00"):
        stack_state.path_of(tmp_path).write_text(text)
        assert stack_state.read(tmp_path) is None


def test_a_pid_that_was_used_again_is_another_process() -> None:
    """Pid and start time together name a process."""
    me = Identity.of(os.getpid())
    assert me is not None
    assert me.lives()
    assert not Identity(me.pid, me.started + 1).lives()


def test_a_process_that_ended_but_was_not_waited_for_does_not_live() -> None:
    """A zombie holds its pid and nothing else."""
    with subprocess.Popen(
        (sys.executable, "-I", "-S", "-c", "input()"), stdin=subprocess.PIPE
    ) as child:
        identity = Identity.of(child.pid)
        assert identity is not None
        identity.signal(9)
        assert identity.wait(clock=SystemClock(), timeout=10)
        assert not identity.lives()
        assert Identity.of(child.pid) is None


def test_a_stack_is_wanted_until_its_last_owner_is_gone(tmp_path: Path) -> None:
    """Owners that died count no more; `keep` counts until it is cleared."""
    me = Identity.of(os.getpid())
    assert me is not None
    owners.join(tmp_path, Identity(me.pid, me.started + 1))
    assert not owners.wanted(tmp_path)
    owners.join(tmp_path, me)
    assert owners.wanted(tmp_path)
    owners.leave(tmp_path, me)
    assert not owners.wanted(tmp_path)
    owners.join(tmp_path, None)
    assert owners.wanted(tmp_path)
    owners.clear(tmp_path)
    assert not owners.wanted(tmp_path)
