"""The compiler, loaded beside the service: importing torch and its first `torch.export` take
seconds, and known kernels need neither.
"""

from __future__ import annotations

import threading
from importlib import import_module
from typing import cast

from esper.clock import Clock
from esper.events.geometry import parse
from esper.karn import Budget, generate
from esper.tezzeret.compilation import Compiler

_EVERY_OPERATOR = (
    ("mlp", ""),
    ("conv1d", ""),
    ("gate", ""),
    ("conv2d", "conv2d k3x3 s1x1 p1x1 d1x1 g1 in 2x2"),
    ("attention", "sequence in 2"),
)
"""Families and geometries that together have nearly every operator."""


class WarmCompiler:
    """Loads and warms up `esper.tezzeret.compile` in a thread of its own, on `start` or on the
    first call, which waits for it.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._compiler: Compiler | None = None
        self._error: Exception | None = None
        self._guard = threading.Lock()
        self._thread = threading.Thread(target=self._load, name="warm-up", daemon=True)

    def start(self) -> None:
        """Begin, unless it has begun."""
        with self._guard:
            # a thread can be started only once, and two callers may come at the same time
            if self._thread.ident is None:
                self._thread.start()

    def __call__(self) -> Compiler:
        """The compiler. Raises what loading it raised."""
        self.start()
        self._thread.join()
        if self._error is not None:
            raise self._error
        return cast("Compiler", self._compiler)

    def _load(self) -> None:
        try:
            self._compiler = load(self._clock)
        except Exception as error:  # noqa: BLE001 -- raised again for whoever asks for the compiler
            self._error = error


def load(clock: Clock) -> Compiler:
    """Tezzeret's compiler, warm, with PyTorch held to one thread because the trainer needs the
    cores.
    """
    import_module("torch").set_num_threads(1)
    compiler = cast("Compiler", import_module("esper.tezzeret.compile").compile_kernel)
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
            compiler(blueprint, budget, clock=clock, progress=lambda _: None)
    return compiler
