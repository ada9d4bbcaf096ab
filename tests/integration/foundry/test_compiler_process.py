"""The compiler's own process: what it gives, what its death costs, and when it ends."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import psutil
import pytest

from esper.clock import ManualClock, SystemClock
from esper.errors import BuildError, UnavailableError
from esper.karn.ir import BlueprintIR, Budget
from esper.karn.templates import generate
from esper.tezzeret.compilation import AttemptStarted
from esper.tezzeret.compile import compile_kernel
from esper.tezzeret.compiler_process import REST_S, CompilerProcess
from tests.waiting import PATIENCE_S, eventually

BUDGET = Budget.of(100_000)


def blueprint(family: str = "mlp") -> BlueprintIR:
    ir = generate(in_features=8, out_features=4, family=family, budget=BUDGET, seed=3)
    assert ir is not None
    return ir


@pytest.fixture
def compiler() -> Iterator[CompilerProcess]:
    made = CompilerProcess(SystemClock())
    yield made
    made.stop()


def gone(pid: int) -> bool:
    """Whether a child of ours has ended and was waited for."""
    return eventually(lambda: not psutil.pid_exists(pid), PATIENCE_S)


def test_it_gives_what_the_compiler_gives(compiler: CompilerProcess) -> None:
    """The same kernel and the same news; a blueprint over its budget is refused in a sentence."""
    ir, news = blueprint(), list[object]()
    here = compile_kernel(ir, BUDGET, clock=SystemClock(), progress=lambda _: None)
    there = compiler()(ir, BUDGET, clock=SystemClock(), progress=news.append)
    assert there.sealed == here.sealed
    assert [check.name for check in there.checks] == [check.name for check in here.checks]
    assert news == [AttemptStarted(1, "exported")]
    with pytest.raises(BuildError, match="Verification failed: cost"):
        compiler()(ir, Budget.of(1), clock=SystemClock(), progress=news.append)


def test_killed_over_a_kernel_it_begins_again(compiler: CompilerProcess) -> None:
    """The kernel comes all the same. What kills it twice has failed."""
    left = 1

    def kill(_: object) -> None:
        nonlocal left
        if left:
            left -= 1
            assert compiler.pid is not None
            os.kill(compiler.pid, signal.SIGKILL)

    found = compiler()(blueprint(), BUDGET, clock=SystemClock(), progress=kill)
    assert found.attempt == 1
    left = 2
    with pytest.raises(BuildError, match="ended 2 times over it, the last time with exit code -9"):
        compiler()(blueprint("gate"), BUDGET, clock=SystemClock(), progress=kill)


def test_news_that_cannot_be_told_are_no_answer_to_the_next_kernel(
    compiler: CompilerProcess,
) -> None:
    """The process goes with them."""

    def lost(_: object) -> None:
        raise UnavailableError("The broker is away.")

    with pytest.raises(UnavailableError, match="away"):
        compiler()(blueprint("gate"), BUDGET, clock=SystemClock(), progress=lost)
    found = compiler()(blueprint(), BUDGET, clock=SystemClock(), progress=lambda _: None)
    assert found.ir == blueprint()


def test_it_rests_when_nothing_was_compiled_for_a_while() -> None:
    """Its process is gone then."""
    clock = ManualClock()
    compiler = CompilerProcess(clock)
    try:
        compiler()(blueprint(), BUDGET, clock=SystemClock(), progress=lambda _: None)
        pid = compiler.pid
        assert pid is not None
        clock.advance(REST_S - 1)
        compiler.rest()
        assert compiler.pid == pid
        clock.advance(2)
        compiler.rest()
        assert gone(pid)
    finally:
        compiler.stop()


def test_a_foundry_that_ends_does_not_wait_for_a_kernel(compiler: CompilerProcess) -> None:
    """Stopped while it loads, whoever compiles is told, and nothing is started again."""
    said = list[Exception]()

    def ask() -> None:
        try:
            compiler()(blueprint(), BUDGET, clock=SystemClock(), progress=lambda _: None)
        except UnavailableError as error:
            said.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    assert eventually(lambda: compiler.pid is not None, PATIENCE_S)
    pid = compiler.pid
    assert pid is not None
    compiler.stop()
    asking.join(PATIENCE_S)
    assert [str(error) for error in said] == ["The foundry is ending."]
    assert gone(pid)
