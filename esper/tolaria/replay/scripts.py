"""A run of a script executed again: the script runs once more, and what `esper.grow` gives it
stands on the record instead of on a bus.

A script calls; what rebuilds states calls too. So the script has the main thread of a process of
its own, as signal handlers and libraries expect, and who drives it has another. One of them runs
at a time. The script goes on to the step that is asked for, waits there, and is ended in the
middle once nobody needs it.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Final, Literal, TypeVar

import torch

from esper.blame import mistake
from esper.checkpoint import Snapshot
from esper.clock import SystemClock
from esper.errors import CorruptError, EsperError, UnavailableError, UsageError
from esper.events import JournalEvent
from esper.events.records import RunStarted
from esper.journal.story import fork_of
from esper.tolaria.recipes.recipe import Recipe
from esper.tolaria.record.resume import RestorePoint, recipe_of
from esper.tolaria.replay.reexecution import Archive, Cast, Driver, quiet
from esper.tolaria.run.own_loop import Growth
from esper.tolaria.run.own_script import Script
from esper.tolaria.run.own_start import OwnLoop, changed_since, prepare
from esper.tolaria.session.composition import Arrived
from esper.tolaria.session.progress import Progress
from esper.tolaria.session.session import Session

if TYPE_CHECKING:
    from esper.tolaria.replay.archive import Archived

T = TypeVar("T")
Told = Literal["waits", "ended"]
"""A script waits for the next goal, or its loop has ended."""
_OUTPUT: Final = (1, 2)  # file descriptors of standard output and error


class Left(BaseException):  # not an error: nobody needs the script any more
    """The script is left where it waits. No `except Exception` of a script's own stops it."""


@dataclass(slots=True)
class ScriptLoop:
    """The loop of a script whose run has these events; `source` opens the run in a process."""

    source: Archived
    events: Sequence[JournalEvent]
    script: Script
    _wanted: SimpleQueue[_Performance | None] = field(default_factory=SimpleQueue)
    _present: _Performance | None = None

    @property
    def threads(self) -> int:
        """Threads of torch when the run began; the script may say otherwise."""
        started = self.events[0]
        assert isinstance(started, RunStarted)  # noqa: S101  # a fold refused anything else
        return started.threads

    @property
    def seeded(self) -> bool:
        """The first parameters are the script's."""
        return False

    def begin(
        self, recipe: Recipe, begin: RestorePoint, session_of: Callable[[Cast], Session]
    ) -> Driver:
        """The script before its first step."""
        del recipe
        self._leave()
        performance = _Performance(
            replace(self.script, growths=[], begun=0, staging=None),
            partial(self._staged, begin.snapshot, session_of),
        )
        self._present = performance
        self._wanted.put(performance)
        performance.wait()
        return performance

    def apart(self, here: Callable[[], T], job: Callable[[Archive, Progress], T]) -> T:
        """In another process: a script leaves traces in the one where it runs."""
        del here
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, context, silent) as pool:
            try:
                return pool.submit(_there, self.source, job).result()
            except BrokenProcessPool as error:
                raise UnavailableError(
                    f"The process that executed {self.script.path.name} again was ended from "
                    "outside; try again."
                ) from error

    def driven(self, work: Callable[[], T]) -> T:
        """`work()`, which may execute this loop, while this thread, the main one, runs the
        script.
        """
        done: Future[T] = Future()

        def drive() -> None:
            try:
                done.set_result(work())
            except BaseException as error:  # noqa: BLE001  # raised in the main thread
                done.set_exception(error)
            finally:
                self._leave()
                self._wanted.put(None)

        # a daemon: Ctrl-C ends the main thread, and nobody is left to drive
        Thread(target=drive, daemon=True).start()
        while (performance := self._wanted.get()) is not None:
            performance.perform()
        return done.result()

    def _leave(self) -> None:
        if self._present is not None:
            self._present.leave()
            self._present = None

    def _staged(
        self,
        snapshot: Snapshot | None,
        session_of: Callable[[Cast], Session],
        performance: _Performance,
        asked: OwnLoop,
    ) -> Growth:
        """What `esper.grow` gives the script for what it asks.

        Raises:
            UsageError: what it asks for makes no sense.
            CorruptError: it is not what the run began with.
        """
        run_id = self.events[0].run_id
        # a fork has settings that its script says otherwise
        own = fork_of(self.events) is None
        recipe = asked.recipe() if own else recipe_of(self.events)
        prepared = prepare(asked, recipe, lambda _: None)
        changed = changed_since(self.events, prepared, snapshot)
        if changed is not None:
            raise CorruptError(
                f"Executed again, {self.script.path.name} gives esper.grow another value of "
                f"{changed} than run {run_id} began with: something else than its text and "
                "arguments decides that, such as a file or a variable of the environment."
            )
        session = performance.session = session_of(
            Cast(
                prepared.growing,
                prepared.task,
                prepared.own,
                prepared.held_out,
                prepared.held_out,
                prepared.steps,
            )
        )
        session.standing.arrive = partial(performance.pause, "waits")
        begun = session.parts.clock.monotonic()
        return Growth(run_id, performance, prepared.own, begun, prepared.fractions, snapshot)


@dataclass(slots=True)
class _Performance:
    """One execution of a script: what both threads tell each other, and what its loop stands on."""

    script: Script
    grow: Callable[[_Performance, OwnLoop], Growth]
    _session: Session | None = None
    _told: SimpleQueue[Told | BaseException | None] = field(default_factory=SimpleQueue)
    _asked: SimpleQueue[Literal["on", "leave"]] = field(default_factory=SimpleQueue)
    _last: Told | None = "waits"

    rerun = True

    # -- the thread that drives

    @property
    def session(self) -> Session:
        """The session, once the script has begun its run."""
        assert self._session is not None  # noqa: S101  # `wait` has seen it
        return self._session

    @session.setter
    def session(self, session: Session) -> None:
        self._session = session

    def wait(self) -> Told | None:
        """Wait until the script does.

        Raises what has ended it before that.
        """
        told = self._told.get()
        if isinstance(told, BaseException):
            self._last = None
            raise told
        self._last = told
        return told

    def train_on(self) -> None:
        """As `Driver.train_on`."""
        if self._last == "waits":
            self._asked.put("on")
            if self.wait() == "waits":
                raise Arrived

    def leave(self) -> None:
        """End the script where it waits, and wait until its own `finally` is done."""
        if self._last is not None:
            self._asked.put("leave")
            while (told := self._told.get()) is not None:
                if not isinstance(told, BaseException):
                    self._asked.put("leave")  # it has caught what ends it, and waits again
            self._last = None

    # -- the script's thread

    def perform(self) -> None:
        """Run the script."""
        self.script.staging = self
        ended: BaseException | None = None
        try:
            self.script.run()
        except Left:
            pass
        except EsperError as error:
            ended = error
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  # sys.exit among them
            ended = mistake(f"The script {self.script.path}", error)
        else:
            if self._session is None:
                ended = UsageError(
                    f"Executed again, {self.script.path} has begun no run by esper.grow(...)."
                )
        if ended is not None:
            self._told.put(ended)
        self._told.put(None)  # it is over, however

    @contextmanager
    def growing(self, asked: OwnLoop) -> Iterator[Growth]:
        """As `Staging.growing`.

        Raises:
            UsageError: the script has begun its run already.
        """
        if self._session is not None:
            raise UsageError(
                f"{self.script.path} begins a run within its run, and only the first of a script "
                "can be executed again: give each a script of its own."
            )
        growth = self.grow(self, asked)
        try:
            yield growth
        except BaseException as error:
            growth.end(error)
            raise
        growth.end(None)

    def ready(self) -> None:
        """Wait before the first step."""
        self.pause("waits")

    def settle(self) -> None:
        """The loop is over: what the script does afterwards is not part of its run."""
        self.pause("ended")

    def pause(self, told: Told) -> None:
        """Wait until there is another goal.

        Raises:
            Left: there is none.
        """
        self._told.put(told)
        if self._asked.get() == "leave":
            raise Left


def silent() -> None:
    """The beginning of a process that executes scripts: what they print was said when they ran."""
    null = os.open(os.devnull, os.O_WRONLY)
    for descriptor in _OUTPUT:
        os.dup2(null, descriptor)
    os.close(null)


def _there(source: Archived, job: Callable[[Archive, Progress], T]) -> T:
    archive = source.open(SystemClock())
    loop = archive.loop
    assert isinstance(loop, ScriptLoop)  # noqa: S101  # the process was made for one
    torch.set_num_threads(loop.threads)
    return loop.driven(partial(job, archive, quiet()))
