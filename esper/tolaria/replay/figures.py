"""What a run told of its steps while it trained: with it, a difference is narrowed to a step of
which the journal itself has no digest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from esper.bounded import open_in
from esper.bounded.parquet import rows_of
from esper.errors import CorruptError
from esper.events.records import TrainingStep
from esper.history.queries import QuerySource
from esper.history.tables.ddl import snake
from esper.journal.portable import Export

TABLE = snake(TrainingStep.NAME)


@dataclass(frozen=True, slots=True)
class StepTold:
    """Training loss of a step, nats, and the norm of its gradient before clipping, as the trainer's
    telemetry has them, every bit of them.
    """

    loss: float
    gradient_norm: float

    def odd(self, other: StepTold) -> str:
        """Which of the two another execution of the step has otherwise, in words.

        The loss first, which is computed first.
        """
        if not _same(self.loss, other.loss):
            return "loss"
        return "" if _same(self.gradient_norm, other.gradient_norm) else "gradient norm"


def from_history(history: QuerySource, run_id: str) -> Mapping[str, StepTold]:
    """The steps of a run by the id of their event, which another execution gives them too.

    Raises:
        UsageError, UnavailableError: as `Source.ask` does.
    """
    query = f"SELECT event_id, loss, gradient_norm FROM {TABLE} WHERE run_id = {{run:String}}"  # noqa: S608  # the run is a parameter
    # without the option ClickHouse writes NaN and infinity as null
    rows = history.rows(query, {"param_run": run_id, "output_format_json_quote_denormals": "1"})
    return {
        row["event_id"]: StepTold(float(row["loss"]), float(row["gradient_norm"])) for row in rows
    }


def from_export(export: Export) -> Mapping[str, StepTold]:
    """The same out of the Parquet files of an export; nothing, where it has none.

    Raises:
        CorruptError: the file is damaged, or reading it takes more than the limits allow.
    """
    name = f"history/{TABLE}.parquet"
    if name not in export.content.files:
        return {}
    place = str(export.folder / name)
    with open_in(export.folder, name, export.limits.file) as file:
        rows = rows_of(file, ("event_id", "loss", "gradient_norm"), export.limits, place)
        try:
            return {
                event_id: StepTold(float.fromhex(loss), float.fromhex(norm))
                for event_id, loss, norm in rows
            }
        except ValueError:
            raise CorruptError(f"{place} has values that are not numbers.") from None


def _same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))
