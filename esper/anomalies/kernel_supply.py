"""Detectors of what brings kernels: the cache, the compiler, and kernels that fail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from esper.anomalies.anomaly import CLEAN, UNJUDGED, Judgement, Severity
from esper.anomalies.detector import Detector
from esper.anomalies.thresholds import Thresholds
from esper.events.records import (
    CacheSampled,
    CompilationFailed,
    KernelCompiled,
    KernelFailed,
    SeedTransitioned,
)


class CacheCounts(NamedTuple):
    """Memory of the cache detector: counts at the last sample, and thrashing samples in a row."""

    lookups: int = -1
    evictions: int = 0
    thrashing: int = 0


def _process(event: CacheSampled) -> str:
    return event.sender_id


def _cache_thrash(
    memory: CacheCounts, event: CacheSampled, thresholds: Thresholds
) -> tuple[CacheCounts, Sequence[Judgement]]:
    """Samples in a row between which every second lookup or more drove a kernel out of memory."""
    lookups = event.hits_memory + event.hits_disk + event.hits_store + event.misses
    if memory.lookups < 0 or lookups < memory.lookups or event.evictions < memory.evictions:
        # the first sample of a process: counts begin at 0 there
        return CacheCounts(lookups, event.evictions), UNJUDGED
    evicted, asked = event.evictions - memory.evictions, lookups - memory.lookups
    bad = evicted >= thresholds.thrash_evictions and 2 * evicted >= asked
    thrashing = memory.thrashing + 1 if bad else 0
    now = CacheCounts(lookups, event.evictions, thrashing)
    if thrashing < thresholds.thrash_samples:
        return now, CLEAN
    sentence = (
        f"The kernel cache of {event.sender_id} thrashes: {evicted} kernels left memory in "
        f"{asked} lookups; it holds {event.limit_entries} at most."
    )
    return now, (Judgement("WARNING", evicted, thresholds.thrash_evictions, sentence),)


def _compile_failures(
    memory: tuple[str, ...], event: CompilationFailed | KernelCompiled, thresholds: Thresholds
) -> tuple[tuple[str, ...], Sequence[Judgement]]:
    """Attempts to compile in a row that fail. Memory: the ids of the latest failures."""
    if isinstance(event, KernelCompiled):
        return (), CLEAN
    failures = (*memory[1 - thresholds.compile_failures :], event.event_id)
    if len(failures) < thresholds.compile_failures:
        return failures, CLEAN
    sentence = (
        f"{len(failures)} attempts to compile a kernel or more failed in a row: {event.error}"
    )
    value = float(len(failures))
    expected = float(thresholds.compile_failures)
    return failures, (Judgement("WARNING", value, expected, sentence, failures[:-1]),)


def _kernel_failures(
    memory: None, event: KernelFailed | SeedTransitioned, thresholds: Thresholds
) -> tuple[None, Sequence[Judgement]]:
    """A kernel that could not be loaded or failed; over when its seed changes its stage."""
    layer, seed = event.layer, event.seed
    if isinstance(event, SeedTransitioned):
        return memory, (Judgement(layer=layer, seed=seed),)
    limit = thresholds.kernel_failures
    sentence = (
        f"Kernel {event.kernel_id[:12]} on {layer}[{seed}] failed {event.consecutive_errors} "
        f"times in a row ({event.phase}): {event.error}"
    )
    severity: Severity = "CRITICAL" if event.consecutive_errors >= limit else "WARNING"
    value = float(event.consecutive_errors)
    return memory, (Judgement(severity, value, 0.0, sentence, layer=layer, seed=seed),)


KERNEL_SUPPLY: tuple[Detector[CacheCounts], Detector[tuple[str, ...]], Detector[None]] = (
    Detector(
        "cache_thrash",
        "a kernel cache that drives out what it needs next",
        (CacheSampled,),
        CacheCounts(),
        _cache_thrash,
        clean=2,
        scope=_process,
    ),
    Detector(
        "compile_failures",
        "attempts to compile in a row that fail",
        (CompilationFailed, KernelCompiled),
        (),
        _compile_failures,
    ),
    Detector(
        "kernel_failures",
        "a kernel that could not be loaded or failed",
        (KernelFailed, SeedTransitioned),
        None,
        _kernel_failures,
    ),
)
"""Detectors of what brings kernels."""
