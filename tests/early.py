"""Settings with which growth begins at once and goes through every stage in a short run."""

from __future__ import annotations

from typing import Any


def early(steps: int, *, longest: int = 200, **policy: Any) -> dict[str, Any]:
    """Sections of a recipe: kernels train and blend for `steps` steps each, an epoch, and are given
    up after the `longest` training; `policy` changes more of Tamiyo's.
    """
    return {
        "kernels": {"blend_steps": steps},
        "gates": {
            "min_training_steps": steps,
            "max_training_steps": longest,
            "min_gap": 1e-9,
            "z": 0.01,
            "shadow_epochs": 1,
            "embargo_epochs": 1,
        },
        "guardrails": {"urgency": 0.0, "confidence": 0.0},
        "tamiyo": {
            "policy": {
                "first_epoch": 1,
                "every_epochs": 1,
                "fossilise_after_epochs": 1,
                "last_fraction": 0.9,
                "cull_training_after_steps": 200,
                "min_urgency": 0.0,
                "min_confidence": 0.0,
                **policy,
            }
        },
    }
