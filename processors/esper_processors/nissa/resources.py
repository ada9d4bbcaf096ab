"""Samplers of resources: this process, the machine, and its GPUs where NVML can be asked.

Each gives readings when it is called.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from esper.events import Origin
from esper.events.records import ResourceSampled


@dataclass(frozen=True, slots=True)
class Reading:
    """Resources of one process or of the `machine`, as in ResourceSampled: CPU since the last
    reading in percent of one core, memory in bytes.
    """

    process: str
    pid: int
    cpu_percent: float
    rss_bytes: int
    gpu_bytes: int


Sampler = Callable[[], Iterable[Reading]]
"""Takes readings now. The time between two calls is what its CPU figures are the mean of."""


def own_process(name: str) -> Sampler:
    """This process."""
    process = psutil.Process()
    process.cpu_percent()  # the first call only begins the measurement

    def read() -> Iterable[Reading]:
        yield Reading(name, os.getpid(), process.cpu_percent(), process.memory_info().rss, 0)

    return read


def machine(gpu_bytes: Callable[[], int]) -> Sampler:
    """The whole machine, as the process `machine` with pid 0: memory is what is not available,
    `gpu_bytes` what is used on all GPUs.
    """
    psutil.cpu_percent()

    def read() -> Iterable[Reading]:
        memory = psutil.virtual_memory()
        cores = psutil.cpu_count() or 1
        # psutil's percent is the mean over cores; memory that the kernel only caches in counts as
        # free
        yield Reading(
            "machine", 0, psutil.cpu_percent() * cores, memory.total - memory.available, gpu_bytes()
        )

    return read


def nvml() -> Callable[[], int]:
    """Memory in use on all NVIDIA GPUs, bytes, by NVML.

    Always 0 where pynvml is not installed or finds no driver.

    Source: NVML API reference, nvmlDeviceGetMemoryInfo.
    """
    try:
        # by name at run time: pynvml is no dependency, and most machines have no GPU
        library: Any = importlib.import_module("pynvml")
    except ImportError:
        return lambda: 0
    try:
        library.nvmlInit()
        handles = [
            library.nvmlDeviceGetHandleByIndex(index)
            for index in range(library.nvmlDeviceGetCount())
        ]
    except library.NVMLError:
        return lambda: 0

    def used() -> int:
        try:
            return sum(int(library.nvmlDeviceGetMemoryInfo(handle).used) for handle in handles)
        except library.NVMLError:  # a GPU that was taken away
            return 0

    return used


def default_samplers(process: str) -> tuple[Sampler, ...]:
    """This process and the machine with its GPUs."""
    return own_process(process), machine(nvml())


def sampled(samplers: Sequence[Sampler], origin: Origin) -> list[ResourceSampled]:
    """One event for each reading."""
    at = origin.clock.now_us()
    return [
        ResourceSampled(
            **origin.envelope(f"resources/{reading.process}/{reading.pid}/{at}"),
            process=reading.process,
            pid=reading.pid,
            cpu_percent=reading.cpu_percent,
            rss_bytes=reading.rss_bytes,
            gpu_bytes=reading.gpu_bytes,
        )
        for read in samplers
        for reading in read()
    ]
