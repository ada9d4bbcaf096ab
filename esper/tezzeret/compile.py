"""From a blueprint to a sealed kernel: one configuration after the other, until one passes every
check.
"""

from __future__ import annotations

import math
import statistics
import traceback
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from esper.clock import Clock
from esper.errors import BuildError
from esper.karn.ir import BlueprintIR, Budget
from esper.kernels.build import KernelModule, module_of, weights_of
from esper.tezzeret.compilation import AttemptStarted, Compiled, Failed, Rejected
from esper.tezzeret.verify import POSITIONS, at_size, verify
from esper.urza.artefact import seal

LATENCY_BATCH = 32
_WARM_CALLS = 5
_TIMED_CALLS = 51
_LEAST_CALLS = 3
_TIMED_S = 0.5
_TIMED_NUMBERS = 1 << 22
"""Numbers that the nodes of one timed forward write at most: where 32 samples are more, fewer are
timed.
"""


@dataclass(frozen=True, slots=True)
class Configuration:
    """One way to make a built module ready to run.

    `prepare` may raise anything: then the next configuration is tried.
    """

    name: str
    prepare: Callable[[KernelModule], nn.Module]


def _exported(module: KernelModule) -> nn.Module:
    """The graph that `torch.export` captures, for any batch size, at the number of positions at
    which it is verified.
    """
    # two samples: torch.export takes a dimension of 1 for a constant
    sample = torch.zeros(2, *at_size(module.ir, module.ir.geometry.cut(POSITIONS)).reads.shape)
    program = torch.export.export(
        module, (sample,), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    graph: nn.Module = program.module()
    return graph


def _eager(module: KernelModule) -> nn.Module:
    """The module as it was built."""
    return module


CONFIGURATIONS = (Configuration("exported", _exported), Configuration("eager", _eager))


def compile_kernel(
    ir: BlueprintIR,
    budget: Budget,
    *,
    clock: Clock,
    progress: Callable[[AttemptStarted | Failed | Rejected], None],
    configurations: tuple[Configuration, ...] = CONFIGURATIONS,
) -> Compiled:
    """The kernel of a blueprint by the first configuration that passes.

    `progress` hears of every attempt as it happens.

    Raises:
        BuildError: no configuration passed; the sentence is that of the last.
    """
    error = "there is no configuration to try"
    for attempt, configuration in enumerate(configurations, start=1):
        progress(AttemptStarted(attempt, configuration.name))
        began = clock.monotonic()
        try:
            module = module_of(ir)
            # before `prepare` touches the module: the artefact has the initial weights
            sealed = seal(ir, weights_of(module))
            checks = verify(ir, configuration.prepare(module), budget)
        except Exception as fault:  # noqa: BLE001 -- whatever a compiler raises, the next configuration is tried
            error = f"{type(fault).__name__}: {fault}".partition("\n")[0]
            progress(Failed(attempt, configuration.name, error, traceback.format_exc()))
            continue
        if broken := [check for check in checks if not check.passed]:
            error = "Verification failed: " + "; ".join(
                f"{check.name} ({check.detail})" for check in broken
            )
            progress(Rejected(attempt, sealed.kernel_id, checks))
            progress(
                Failed(
                    attempt,
                    configuration.name,
                    error,
                    "\n".join(f"{check.name}: {check.detail}" for check in checks),
                )
            )
            continue
        compile_ms = (clock.monotonic() - began) * 1e3
        return Compiled(
            ir, sealed, checks, attempt, configuration.name, compile_ms, latency_us(module, clock)
        )
    raise BuildError(error)


@torch.inference_mode()
def latency_us(module: KernelModule, clock: Clock) -> float:
    """Median time of an eager forward of 32 samples on this machine, microseconds.

    Of large ones, as many times that of fewer samples.
    """
    written = sum(math.prod(value.shape) for value in module.ir.values.values())
    batch = max(1, min(LATENCY_BATCH, _TIMED_NUMBERS // written))
    x = torch.zeros(batch, *module.ir.reads.shape)
    for _ in range(_WARM_CALLS):
        module(x)
    times: list[float] = []
    # half a second at most for large kernels; three calls at least, or the median says nothing
    while len(times) < _TIMED_CALLS and (len(times) < _LEAST_CALLS or sum(times) < _TIMED_S):
        began = clock.monotonic()
        module(x)
        times.append(clock.monotonic() - began)
    return statistics.median(times) * 1e6 * LATENCY_BATCH / batch
