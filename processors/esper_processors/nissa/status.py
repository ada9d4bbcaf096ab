"""What `/api/v1/status` says. Pure."""

from __future__ import annotations

from typing import Any

from esper_processors.nissa.runs import RunView
from esper_processors.nissa.scene import Scene


def status(scene: Scene, *, samples: int) -> dict[str, Any]:
    """The parts of the answer as JSON: runs, newest first, and Nissa itself, with the last
    `samples` aggregated samples.
    """
    current = {view.run_id for view in scene.live.current(scene.runs, scene.now_us)}
    ordered = sorted(scene.runs, key=lambda view: view.updated_at, reverse=True)
    return {
        "uptime_seconds": scene.uptime_s,
        "lag": scene.lag,
        "delay_seconds": scene.live.delay_us / 1e6,
        "events": dict(sorted(scene.live.events.items())),
        "runs": [_run(view, scene, live=view.run_id in current) for view in ordered],
        "compilations": {
            "started": scene.compilations.started,
            "failed": scene.compilations.failed,
            "compiled": scene.compilations.compiled,
            "last_seconds": scene.compilations.last_s,
        },
        "samples": list(scene.live.samples)[-samples:] if samples else [],
    }


def standing(scene: Scene) -> dict[str, Any]:
    """How far Nissa herself is."""
    return {
        "uptime_s": scene.uptime_s,
        "lag": scene.lag,
        "delay_s": scene.live.delay_us / 1e6,
    }


def _run(view: RunView, scene: Scene, *, live: bool) -> dict[str, Any]:
    return {
        "run_id": view.run_id,
        "recipe": view.recipe,
        "status": view.status if live or view.ended else "SILENT",
        "reason": view.reason,
        "epoch": view.epoch,
        "step": scene.live.step(view),
        "total_steps": view.total_steps,
        "training_loss": scene.live.training_loss(view),
        "validation_loss": view.validation_loss,
        "validation_accuracy": view.validation_accuracy,
        "loss": view.loss,
        "accuracy": view.accuracy,
        "score": view.score,
        "score_name": view.score_name,
        "seeds": view.stages(),
        "layers": view.seeds,
        "adaptations": view.adaptations,
        "rejections": view.rejections,
        "reviews": view.reviews,
        "failures": view.failures,
        "timeline": view.timeline,
        "checkpoints": view.checkpoints,
        "checkpoint_step": view.checkpoint_step,
        "rollbacks": view.rollbacks,
        "instabilities": view.instabilities,
        "last_instability": view.last_instability or None,
        "telemetry_lost": view.lost,
        "last_decision": view.last_decision or None,
        "updated_at": view.updated_at,
    }
