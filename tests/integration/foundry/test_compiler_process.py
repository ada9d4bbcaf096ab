"""The compiler's own process: what it gives, what its death costs, and when it ends."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress

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


def test_it_gives_what_the_compiler_gives_whatever_becomes_of_it(
    compiler: CompilerProcess,
) -> None:
    """The same kernel and the same news; over its budget, a sentence. Killed over a kernel, it
    begins again; where its news cannot be told, it is no answer to the next kernel.
    """
    ir, news, clock = blueprint(), list[object](), SystemClock()
    here = compile_kernel(ir, BUDGET, clock=clock, progress=lambda _: None)

    def kill(event: object) -> None:
        news.append(event)
        if len(news) == 1:
            assert compiler.pid is not None
            os.kill(compiler.pid, signal.SIGKILL)

    there = compiler()(ir, BUDGET, clock=clock, progress=kill)
    assert there.sealed == here.sealed
    assert [check.name for check in there.checks] == [check.name for check in here.checks]
    assert news == [AttemptStarted(1, "exported")] * 2
    with pytest.raises(BuildError, match="Verification failed: budget"):
        compiler()(ir, Budget.of(1), clock=clock, progress=news.append)

    def lost(_: object) -> None:
        raise UnavailableError("The broker is away.")

    pid = compiler.pid
    assert pid is not None
    with pytest.raises(UnavailableError, match="away"):
        compiler()(blueprint("gate"), BUDGET, clock=clock, progress=lost)
    assert gone(pid)


def test_what_ends_it_twice_has_failed(compiler: CompilerProcess) -> None:
    """Killed while it loads, too."""
    over = threading.Event()

    def kill() -> None:
        while not over.wait(0.05):
            if (pid := compiler.pid) is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with pytest.raises(BuildError, match=r"ended 2 times over it, .* with exit code -9"):
            compiler()(blueprint(), BUDGET, clock=SystemClock(), progress=lambda _: None)
    finally:
        over.set()
        killer.join(PATIENCE_S)


def test_it_rests_when_nothing_was_compiled_for_a_while() -> None:
    """Its process is gone then."""
    clock = ManualClock()
    compiler = CompilerProcess(clock)
    try:
        compiler.start()
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
