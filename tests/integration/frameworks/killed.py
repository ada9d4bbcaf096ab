"""Runs a program as Python does, with two things changed: `python killed.py PROGRAM ARGS`.

Growth begins early enough for a short run. After step KILL_AT the process kills itself, after
BACK_AT a fossilised kernel seems to have failed, after RAISE_AT somebody's code raises.
"""

from __future__ import annotations

import dataclasses
import os
import runpy
import signal
import sys

import torch

from esper.tolaria.recipes.recipe import Recipe
from esper.tolaria.run.own_loop import Growth
from esper.tolaria.run.own_start import OwnLoop
from tests.early import early

EARLY = early(20)


def main() -> None:
    """Run the program."""
    torch.set_num_threads(1)
    recipe, step = OwnLoop.recipe, Growth.step
    kill, back, fail = (
        int(os.environ.get(name, "-1")) for name in ("KILL_AT", "BACK_AT", "RAISE_AT")
    )

    def early(self: OwnLoop) -> Recipe:
        return recipe(dataclasses.replace(self, settings={**EARLY, **self.settings}))

    def killed(self: Growth) -> None:
        step(self)
        if self.steps == kill:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.steps == back:
            self.rigged.session.standing.unstable = True
        if self.steps == fail:
            raise ValueError("mine")

    OwnLoop.recipe, Growth.step = early, killed  # type: ignore[method-assign]  # that is the purpose
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
