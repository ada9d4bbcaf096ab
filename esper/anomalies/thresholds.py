"""Where each detector draws its line."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Limits of the detectors. The defaults are those of the table in this package's README.

    Attributes:
        z: Robust standard deviations of a logarithm that count as far from usual.
        loss_spike: Factor above its usual value from which a loss is a spike.
        loss_spike_steps: Such steps in a row; one alone is a batch of outliers.
        divergence: Factor above its lowest level from which a loss diverges.
        divergence_sum: Decision limit of the cumulative sum, standard deviations.
        divergence_drift: Rise that the sum forgives a step, standard deviations.
        plateau_epochs: Epochs without a better held-out loss.
        plateau_gain: Fraction by which a held-out loss has to be better to count.
        dead_ratio: Fraction of a chunk's features without variance from which it is dead.
        dead_variance: Variance of a chunk's output below which it is dead.
        dead_samples: Dead samples in a row of every seed of the layer.
        explosion: Factor above its usual value from which a gradient norm explodes.
        explosion_steps: Such steps in a row.
        vanishing: Fraction of its usual value below which a gradient norm vanishes.
        vanishing_steps: Such steps in a row.
        stuck_epochs: Epochs that a seed may stay in a stage that should pass.
        loading_epochs: The same for a seed that waits for its kernel, or is being reset.
        silence_s: Seconds without any event of a run that has not ended.
        silence_gaps: The same in units of the longest gap between two events of that run.
        slow_step: Factor above its usual value from which the time of a step is slow.
        slow_steps: Such steps in a row.
        thrash_evictions: Evictions between two samples of a cache that count as many.
        thrash_samples: Such samples in a row.
        compile_failures: Attempts to compile in a row that fail.
        kernel_failures: Failures of a kernel in a row from which it is critical.
    """

    z: float = 5.0
    loss_spike: float = 1.5
    loss_spike_steps: int = 3
    divergence: float = 1.25
    divergence_sum: float = 40.0
    divergence_drift: float = 1.0
    plateau_epochs: int = 12
    plateau_gain: float = 0.001
    dead_ratio: float = 0.999
    dead_variance: float = 1e-12
    dead_samples: int = 3
    explosion: float = 5.0
    explosion_steps: int = 3
    vanishing: float = 1e-3
    vanishing_steps: int = 10
    stuck_epochs: int = 40
    loading_epochs: int = 10
    silence_s: float = 300.0
    silence_gaps: float = 10.0
    slow_step: float = 3.0
    slow_steps: int = 5
    thrash_evictions: int = 8
    thrash_samples: int = 3
    compile_failures: int = 3
    kernel_failures: int = 3
