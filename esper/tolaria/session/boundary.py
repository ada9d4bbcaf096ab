"""The end of an epoch: validation, what each kernel is worth on held-out data, the record of the
epoch, and the gates.
"""

from __future__ import annotations

from dataclasses import dataclass

from esper.lifecycle import LIVE
from esper.lifecycle.commands import CountLost, EndEpoch
from esper.tolaria.exchange.packet import EpochFigures
from esper.tolaria.recipes.splits import Split
from esper.tolaria.session.cursor import Best, Sums
from esper.tolaria.session.recording import Recorder
from esper.tolaria.step.evaluation import (
    Figures,
    evaluate,
    measured_part,
    paired,
    parameters_digest,
    with_shadow,
    without,
)
from esper.tolaria.step.gates import Evidence, gate


@dataclass(slots=True)
class EpochBoundary:
    """Ends epochs."""

    recorder: Recorder

    def end(self) -> None:
        """Validate, measure the seeds, journal the epoch, and let the gates move."""
        recorder = self.recorder
        parts, growing, cursor = recorder.parts, recorder.parts.growing, recorder.standing.cursor
        held_out = measured_part(parts.held_out, parts.recipe.validation.samples)
        validation = evaluate(growing, held_out, parts.task)
        # for the report alone: no gate, packet or policy sees this split; where a loop of a user's
        # own has none, it is the held-out one
        same = parts.test is parts.held_out
        test = cursor.test = validation if same else evaluate(growing, parts.test, parts.task)
        measuring = (recorder.state.epoch + 1) % parts.recipe.validation.every_epochs == 0
        sums, scored = cursor.sums, parts.task.fields(validation.loss, validation.metrics)
        cursor.figures = EpochFigures(
            train_loss=sums.loss / sums.batches,
            train_accuracy=sums.metrics.get("accuracy", 0.0) / sums.batches,
            validation_loss=validation.loss,
            validation_accuracy=validation.accuracy,
            learning_rate=sums.learning_rate,
            gradient_norm=sums.gradient_norm,
            **scored,
        )
        if measuring:
            self._measure(validation, held_out)
        # what was dropped depends on the broker's speed: the record has its own count
        if not parts.journal.replaying:
            for topic, lost in parts.lost().items():
                recorder.do(CountLost(topic=topic, lost=lost))
        recorder.do(
            EndEpoch(
                step=cursor.step,
                train_loss=cursor.figures.train_loss,
                train_accuracy=cursor.figures.train_accuracy,
                validation_loss=validation.loss,
                validation_accuracy=validation.accuracy,
                test_loss=test.loss,
                test_accuracy=test.accuracy,
                learning_rate=sums.learning_rate,
                parameters_digest=parameters_digest(growing.module),
                alphas=tuple(growing.alpha(seed, cursor.step) for seed in recorder.state.seeds),
                test_metrics=dict(test.metrics),
                test_score=parts.task.scored(test.loss, test.metrics),
                **scored,
            )
        )
        # after EndEpoch, which completes the epoch that gates count from
        for seed in recorder.state.seeds if measuring else ():
            if move := gate(
                seed,
                cursor.known((seed.layer, seed.seed)),
                recorder.state.epoch,
                parts.recipe.gates,
                loss=cursor.figures.validation_loss,
            ):
                recorder.do(move)
        self._note_best()
        # last: no batches is how the loop and a snapshot know the beginning of an epoch
        cursor.sums = Sums()
        if parts.recipe.telemetry.enabled:
            parts.telemetry.resources(recorder.state)
            parts.telemetry.cache(recorder.state, parts.grafting.kernels.figures())
        parts.progress.epoch_ended(recorder.state, parts.task.told(test.loss, test.metrics))

    def _note_best(self) -> None:
        """Where the recipe asks for it: how good this epoch was beside those before."""
        recorder = self.recorder
        stopping, cursor = recorder.parts.recipe.stopping, recorder.standing.cursor
        if not stopping.patience and not stopping.keep_best:
            return
        figures, epoch = cursor.figures, recorder.state.epoch - 1
        cursor.best = (
            Best(figures.score, epoch)
            if cursor.best is None
            else cursor.best.after(
                figures.score,
                epoch,
                higher=figures.higher_is_better,
                least=stopping.min_change,
            )
        )

    def _measure(self, live: Figures, held_out: Split) -> None:
        """Take the evidence of every seed that holds a kernel, on the held-out split."""
        parts, cursor = self.recorder.parts, self.recorder.standing.cursor
        growing = parts.growing
        for seed in self.recorder.state.seeds:
            place = (seed.layer, seed.seed)
            if place not in growing.kernels:
                continue
            evidence = cursor.evidence.setdefault(place, Evidence())
            evidence.trained_steps = growing.kernels[place].trained
            evidence.blended = seed.stage == "BLENDING" and growing.blended(seed, cursor.step)
            if seed.stage == "TRAINING":
                shadow = with_shadow(growing, held_out, parts.task, place)
                evidence.shadow_gap, evidence.shadow_gap_error = paired(
                    live.batch_losses, shadow.batch_losses
                )
            elif seed.stage in LIVE:
                removed = without(growing, held_out, parts.task, place)
                evidence.dependence, evidence.dependence_error = paired(
                    removed.batch_losses, live.batch_losses
                )
                if parts.recipe.telemetry.enabled:
                    parts.telemetry.performance(self.recorder.state, place, live, removed)
