"""The process that compiles: `python -m esper.tezzeret.compiler_worker DESCRIPTOR`.

Over the socket it gets blueprints with their budgets, and gives ("told", event) while it compiles,
then ("compiled", kernel) or ("refused", sentence). It ends when the foundry closes the socket.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from multiprocessing.connection import Connection

import torch

from esper import logs
from esper.clock import Clock, SystemClock
from esper.errors import BuildError
from esper.events.geometry import parse
from esper.karn.ir import Budget
from esper.karn.templates import generate
from esper.tezzeret.compile import compile_kernel

_EVERY_OPERATOR = (
    ("mlp", ""),
    ("conv1d", ""),
    ("gate", ""),
    ("conv2d", "conv2d k3x3 s1x1 p1x1 d1x1 g1 in 2x2"),
    ("attention", "sequence in 2"),
)
"""Families and geometries that together have nearly every operator."""
_LOOK_S = 1.0


def warm_up(clock: Clock) -> None:
    """Compile small kernels, so that a first one does not wait for what torch loads on the way."""
    budget = Budget.of(1000)
    for family, geometry in _EVERY_OPERATOR:
        blueprint = generate(
            in_features=8,
            out_features=2,
            family=family,
            budget=budget,
            seed=0,
            geometry=parse(geometry),
        )
        if blueprint is not None:
            compile_kernel(blueprint, budget, clock=clock, progress=lambda _: None)


def serve(pipe: Connection, clock: Clock) -> None:
    """Compile what comes, until the other end is closed."""
    while True:
        try:
            ir, budget = pipe.recv()
        except EOFError:
            return
        try:
            compiled = compile_kernel(
                ir, budget, clock=clock, progress=lambda event: pipe.send(("told", event))
            )
        except BuildError as error:
            pipe.send(("refused", str(error)))
        else:
            pipe.send(("compiled", compiled))


def main() -> None:
    """Serve the socket of the command line."""
    logs.configure()
    # the foundry ends it, which a Ctrl-C in a terminal reaches too
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    torch.set_num_threads(1)  # the trainer needs the cores
    clock = SystemClock()
    warm_up(clock)
    try:
        serve(Connection(int(sys.argv[1])), clock)
    except (BrokenPipeError, ConnectionResetError):
        return  # nobody waits for it any more


def _end_with(parent: int) -> None:
    """End with a foundry that was killed, in whatever this process is."""
    waiting = threading.Event()
    while os.getppid() == parent:
        waiting.wait(_LOOK_S)
    os._exit(1)


if __name__ == "__main__":
    main()
