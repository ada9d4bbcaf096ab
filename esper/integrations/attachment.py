"""A run beside a framework's loop: begun when the loop begins, ended when it ends, however that
comes about.
"""

from __future__ import annotations

import atexit
from collections.abc import Collection, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from esper.config import Settings
from esper.errors import UsageError
from esper.integrations.loaded_state import host_digest, require_same
from esper.library import opened
from esper.tolaria.run.driven import NO_SNAPSHOTS, Driven, Mark, at_first_step
from esper.tolaria.run.own_loop import Growth, signals
from esper.tolaria.run.own_start import OwnLoop


class LoopLeft(Exception):  # noqa: N818  # reads as what happened
    """The framework has left its loop without saying so, as by an error of the user's code."""


@dataclass(slots=True)
class Attachment:
    """The run beside a loop of `framework`; `driven` is there from `begin` to `end`."""

    framework: str
    driven: Driven | None = None
    _stack: ExitStack = field(default_factory=ExitStack)

    def begin(
        self,
        asked: OwnLoop,
        *,
        batches: int,
        run_id: str,
        resume: bool,
        mark: Mark | None,
        loaded: Collection[str] = (),
        content: Mapping[str, Any] | None = None,
    ) -> Driven:
        """Begin the run, or go on with it: from the snapshot of a checkpoint that was loaded, or,
        with `resume`, from its first step. `loaded` are the host's tensors that the framework has
        from that checkpoint: they have to be the snapshot's. `content` says what it trains on.

        Raises:
            EsperError: it cannot begin; nothing is left behind.
        """
        self.end(LoopLeft("another loop begins"))
        if "checkpoints" in asked.settings:
            raise UsageError(
                f"Leave checkpoints out: in a loop of {self.framework}, Esper takes a snapshot "
                "whenever it saves a checkpoint."
            )
        if mark is not None and run_id not in ("", mark.run_id):
            raise UsageError(
                f"The checkpoint is of run {mark.run_id}, not of {run_id}: leave run_id out, or "
                "take a checkpoint of that run."
            )
        before = host_digest(asked.model, loaded)
        try:
            growth = self._stack.enter_context(
                opened(
                    replace(asked, settings={**asked.settings, "checkpoints": NO_SNAPSHOTS}),
                    run_id=mark.run_id if mark is not None else run_id,
                    resume=mark is not None or (resume and has_begun(run_id)),
                    wanted=mark.wanted if mark is not None else at_first_step,
                )
            )
            if mark is not None:
                require_same(asked.model, loaded, before, mark)
            self._stack.enter_context(signals(growth.rigged.session.standing))
            driven = Driven(growth, self.framework, batches, content or {})
            driven.begin()
        except BaseException as error:
            self._stack.__exit__(type(error), error, error.__traceback__)
            raise
        atexit.register(self._at_exit)
        self.driven = driven
        return driven

    @property
    def growth(self) -> Growth | None:
        """The run, while there is one."""
        return self.driven.growth if self.driven is not None else None

    def end(self, error: BaseException | None = None) -> None:
        """End the run: finished, or left by an `error`, so that it goes on when it is resumed.

        Raises:
            UsageError: a resumed loop has ended before it was where the run had been.
        """
        if self.driven is None:
            return
        self.driven = None
        atexit.unregister(self._at_exit)
        if error is None:
            self._stack.close()
            return
        # the error is the framework's to raise
        with suppress(type(error)):
            self._stack.__exit__(type(error), error, error.__traceback__)

    def _at_exit(self) -> None:
        self.end(LoopLeft("the program has ended"))


def has_begun(run_id: str) -> bool:
    """Whether a run of this name has begun in this installation."""
    return bool(run_id) and (Settings.load(guest=True).runs_dir / run_id / "outbox").is_dir()


def reported(attachment: Attachment) -> Driven:
    """The run of hooks that only a loop calls."""
    assert attachment.driven is not None  # noqa: S101  # `begin` comes first
    return attachment.driven
