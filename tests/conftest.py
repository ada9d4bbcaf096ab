"""Fixtures that every test may use, which tests share a worker, and what no session may leave
behind.

A file's tests run one after another in one worker. Those on the whole stack are one group, which
begins first: they share the stack, and one of them kills its parts. The files after them come in
the order of what they take, longest first, so that workers end together.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]  # it has no types

from tests import commands
from tests.samples import EXAMPLES, VARIANTS
from tests.waiting import eventually

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # workers share the cores: threads of torch that wait for each other burn them

pytest_plugins = ("tests.stackfixtures", "tests.processorfixtures", "tests.integration.run.whole")

settings.register_profile(
    "shared machine", deadline=None, max_examples=100 * EXAMPLES
)  # what takes 5 ms takes 500 beside others
if settings.get_current_profile_name() == "default":
    settings.load_profile("shared machine")

TESTS = Path(__file__).parent
WHOLE = (
    "integration/run/test_clients",
    "integration/run/test_control",
    "integration/run/test_emergency",
    "integration/run/test_forks",
    "integration/run/test_own_models",
    "integration/run/test_whole",
    "chaos/replay",
    "chaos/run/test_kill",
)
"""Tests on the stack that they share (`home`), those that kill its parts last."""
LONG = (
    "bench",
    "chaos/run",
    "integration/stack",
    "integration/replay",
    "attacks",
    "clusters",
    "fuzz",
    "integration",
    "chaos",
    "contract",
    "unit/tolaria",
    "unit/kasmina",
    "unit/checkpoint",
)
"""The rest, longest first; what is not named comes last."""
TOGETHER = (
    "clusters",
    "attacks/test_history",
    "integration/foundry",
    "integration/processors",
    "integration/registry",
)
"""Files that share what is started for them."""


def place(path: str) -> int:
    """When the tests of a file begin, as a number; equal ones as they come."""
    wanted = (*WHOLE, *LONG)
    return next(
        (number for number, start in enumerate(wanted) if path.startswith(start)), len(wanted)
    )


class Groups(LoadScopeScheduling):  # type: ignore[misc]  # the same
    """Which tests go to one worker."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0].removeprefix("tests/")
        return (
            "whole"
            if path.startswith(WHOLE)
            else next((one for one in TOGETHER if path.startswith(one)), path)
        )


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Groups:
    """Give each group to a worker, in the order of the tests."""
    return Groups(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the variants unless they are asked for, and put the long ones in front."""
    if not VARIANTS:
        variants = [item for item in items if item.get_closest_marker("variant")]
        config.hook.pytest_deselected(items=variants)
        items[:] = [item for item in items if not item.get_closest_marker("variant")]
    items.sort(key=lambda item: place(item.path.relative_to(TESTS).as_posix()))


def left_behind(folder: Path) -> list[psutil.Process]:
    """Processes that the tests began: children of this one, and those of a stack in a folder of
    this session, whoever their parent is now.
    """
    mine = psutil.Process()
    above = {one.pid for one in mine.parents()}  # `timeout 600 pytest --basetemp=...` names it too
    found = {one.pid: one for one in mine.children(recursive=True)}
    for one in psutil.process_iter():
        try:
            words = [*one.cmdline(), one.environ().get("ESPER_HOME", "")]
        except psutil.Error:
            continue
        if one.pid not in {mine.pid, *above} and any(str(folder) in word for word in words):
            found[one.pid] = one
    return [one for one in found.values() if not _of_python(one)]


def _of_python(process: psutil.Process) -> bool:
    """Whether a process ends with the interpreter that began it."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE or any(
            one in word
            for word in process.cmdline()
            for one in ("resource_tracker", "multiprocessing.forkserver")
        )
    except psutil.Error:
        return True


def _home(process: psutil.Process) -> str:
    """Whose installation a process belongs to, which names its test."""
    try:
        return str(process.environ().get("ESPER_HOME", "nobody"))
    except psutil.Error:
        return "nobody"


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Name and end every process that the tests have left; each fails the session."""
    commands.close()
    factory = getattr(session.config, "_tmp_path_factory", None)
    if factory is None:
        return
    folder: Path = factory.getbasetemp()
    told = (folder.parent if hasattr(session.config, "workerinput") else folder) / "left-behind"
    eventually(lambda: not left_behind(folder), 20)
    for one in left_behind(folder):
        with told.open("a") as file:
            file.write(
                f"LEFT BEHIND: pid {one.pid} of {_home(one)}: {' '.join(one.cmdline())[:300]}\n"
            )
        one.kill()
    if told.exists() and not hasattr(session.config, "workerinput"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if (reporter := session.config.pluginmanager.get_plugin("terminalreporter")) is not None:
            reporter.write_line(told.read_text(), red=True)
