"""What a run told of its steps while it trained: with it, a difference is narrowed to a step of which the journal itself has no digest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from esper.events.records import TrainingStep
from esper.history.ddl import snake
from esper.history.queries import Source

TABLE = snake(TrainingStep.NAME)


@dataclass(frozen=True, slots=True)
class StepTold:
    """Training loss of a step, nats, and the norm of its gradient before clipping, as the trainer's telemetry has them, every bit of them."""

    loss: float
    gradient_norm: float

    def odd(self, other: StepTold) -> str:
        """Which of the two another execution of the step has otherwise, in words; the loss first, which is computed first."""
        if not _same(self.loss, other.loss):
            return "loss"
        return "" if _same(self.gradient_norm, other.gradient_norm) else "gradient norm"


def from_history(history: Source, run_id: str) -> Mapping[str, StepTold]:
    """The steps of a run by the id of their event, which another execution gives them too.

    Raises:
        UsageError, UnavailableError: as `Source.ask` does.
    """
    query = f"SELECT event_id, loss, gradient_norm FROM {TABLE} WHERE run_id = {{run:String}}"  # noqa: S608  # the run is a parameter
    rows = history.rows(query, {"param_run": run_id, "output_format_json_quote_denormals": "1"})
    return {row["event_id"]: StepTold(float(row["loss"]), float(row["gradient_norm"])) for row in rows}


def from_export(folder: Path) -> Mapping[str, StepTold]:
    """The same out of the Parquet files of an export; nothing, where it has none."""
    from pyarrow import parquet  # noqa: PLC0415 - whoever proves a run without a fault does not wait for it

    file = folder / "history" / f"{TABLE}.parquet"
    if not file.is_file():
        return {}
    columns = parquet.read_table(file, columns=["event_id", "loss", "gradient_norm"]).to_pydict()
    ids = (name.decode() if isinstance(name, bytes) else name for name in columns["event_id"])
    return {name: StepTold(loss, norm) for name, loss, norm in zip(ids, columns["loss"], columns["gradient_norm"], strict=True)}


def _same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))
