"""Attack: the state file of a running stack is damaged, replaced or deleted, so that the stack
looks gone.

Expected: status, up and down find the supervisor by the file that it holds; it mends the state
file; a second stack is never started.
"""

from __future__ import annotations

import json
import os
import signal
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from esper import stack
from esper.config import KafkaSettings, Settings
from esper.errors import UnavailableError
from esper.identity import Identity
from esper.stack.processes import stack_state
from tests.stackfixtures import bring_up, eventually, now, tiny_stack


def damages(settings: Settings) -> dict[str, bytes | None]:
    """What may become of the file; None deletes it."""
    good = now(settings)
    me = Identity.of(os.getpid())
    assert me is not None
    foreign = json.dumps(asdict(replace(good, supervisor=me, ports={"nissa": 1})))
    gone = json.dumps(asdict(replace(good, supervisor=Identity(1 << 21, 1))))
    texts = ("", "{", "[]", "null", "\0" * 100, '{"phase": "running"}', foreign, gone)
    whole = stack_state.path_of(settings.stack_dir).read_bytes()
    return {
        **{text[:20]: text.encode() for text in texts},
        "torn": whole[: len(whole) // 2],
        "no UTF-8": b"\xff" + whole,
        "deleted": None,
    }


def damage(settings: Settings, content: bytes | None) -> None:
    """Damage the file as no supervisor would."""
    path = stack_state.path_of(settings.stack_dir)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)


def test_a_damaged_state_file_hides_no_stack(tmp_path: Path, broker: str) -> None:
    """However it is damaged: status and up find the same supervisor with the same ports, the file
    is whole again, and down ends it.
    """
    settings = Settings(home=tmp_path / "home", kafka=KafkaSettings(bootstrap=broker))
    with tiny_stack(settings) as endpoints:
        supervisor = now(settings).supervisor
        for name, content in damages(settings).items():
            damage(settings, content)
            assert now(settings).supervisor == supervisor, name
            damage(settings, content)
            assert bring_up(settings) == endpoints, name
            assert stack.running(settings) == endpoints, name
            assert eventually(
                lambda: (
                    (found := stack_state.read(settings.stack_dir)) is not None
                    and found.supervisor == supervisor
                ),
                10,
            ), name
        damage(settings, b"{")
        assert stack.down(settings)
        assert not supervisor.lives()
    assert stack.status(settings) is None


def test_a_supervisor_that_does_not_mend_it_is_told_and_never_doubled(
    tmp_path: Path, broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that stands still: it is silent, up refuses with the remedy.

    With the lock file damaged as well no second one comes.
    """
    monkeypatch.setattr("esper.stack.control._MEND_S", 0.3)
    settings = Settings(home=tmp_path / "home", kafka=KafkaSettings(bootstrap=broker))
    with tiny_stack(settings):
        supervisor = now(settings).supervisor
        os.kill(supervisor.pid, signal.SIGSTOP)
        try:
            damage(settings, b"{")
            silent = now(settings)
            assert (silent.phase, silent.supervisor) == ("silent", supervisor)
            with pytest.raises(
                UnavailableError, match=rf"supervisor {supervisor.pid} .*esper down"
            ):
                bring_up(settings)
            (settings.stack_dir / stack_state.LOCK).write_text("{")
            with pytest.raises(UnavailableError, match="did not start"):
                bring_up(settings)
        finally:
            os.kill(supervisor.pid, signal.SIGCONT)
        assert eventually(
            lambda: (
                (found := stack_state.read(settings.stack_dir)) is not None
                and found.supervisor == supervisor
            ),
            10,
        )
        assert now(settings).supervisor == supervisor


def test_a_lock_file_of_a_supervisor_that_is_gone_holds_nobody(tmp_path: Path) -> None:
    """Killed, it leaves the file: the process that it names does not live."""
    (tmp_path / stack_state.LOCK).write_text(json.dumps(asdict(Identity(os.getpid(), 1))))
    assert stack_state.holder(tmp_path) is None
    settings = Settings(home=tmp_path)
    settings.stack_dir.mkdir()
    assert stack.status(settings) is None
