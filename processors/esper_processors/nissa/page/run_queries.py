"""What the page reads of runs from the history: lists, one run, curves, health.

Every value of a caller goes as a parameter of the query; what stands in its text is ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from esper.bounded.names import is_run_id
from esper.errors import UsageError
from esper.history.queries import QuerySource

MOST_RUNS: Final = 1_000
"""Runs that the list shows, the latest."""
MOST_MOVES: Final = 200_000
MOST_DECISIONS: Final = 20_000
_RUNS: Final = f"SELECT * FROM runs WHERE NOT deleted ORDER BY started_at DESC LIMIT {MOST_RUNS}"  # noqa: S608  # a number of ours
_RUN: Final = "SELECT * FROM runs WHERE run_id = {run:String}"
_STARTED: Final = """
SELECT config, versions, layers.name AS names, layers.kind AS kinds,
arrayMap(chunks -> length(chunks), layers.chunks) AS seeds
FROM raw_run_started WHERE run_id = {run:String} ORDER BY sequence LIMIT 1
"""
_MOVES: Final = f"""
SELECT layer, seed, timeline, epoch, step, from_stage, to_stage, family, kernel_id, decision_id,
alpha, reason, occurred_at AS at, false AS inherited
FROM seed_transitioned WHERE run_id = {{run:String}} ORDER BY sequence LIMIT {MOST_MOVES}
"""  # noqa: S608  # a number of ours
# a fork begins with what its parent had grown
_INHERITED: Final = """
SELECT one.layer AS layer, one.seed AS seed, timeline, epoch, step, 'DORMANT' AS from_stage,
one.stage AS to_stage, one.family AS family, one.kernel_id AS kernel_id,
one.decision_id AS decision_id, one.alpha AS alpha, 'inherited' AS reason, at, true AS inherited
FROM (SELECT timeline, epoch, step, occurred_at AS at, arrayJoin(seeds) AS one FROM run_forked
WHERE run_id = {run:String}) WHERE one.stage != 'DORMANT'
"""
_DECISIONS: Final = f"""
SELECT * FROM decisions WHERE run_id = {{run:String}} ORDER BY decided_at, layer, seed
LIMIT {MOST_DECISIONS}
"""  # noqa: S608  # a number of ours
_ROLLBACKS: Final = """
SELECT from_step AS step, step AS to_step, reason, timeline, occurred_at AS at
FROM run_rolled_back WHERE run_id = {run:String} ORDER BY sequence LIMIT 1000
"""
_FORKS: Final = """
SELECT run_id, parent_step AS step FROM run_forked WHERE parent_run_id = {run:String}
ORDER BY step, run_id LIMIT 1000
"""
_KERNELS: Final = """
SELECT kernel_id, family, parameters, flops, latency_us, grafts, fossilized, culled, mean_reward,
mean_shadow_gap FROM kernel_league WHERE kernel_id IN
(SELECT DISTINCT kernel_id FROM seed_transitioned WHERE run_id = {run:String}) LIMIT 1000
"""
_WORTH: Final = """
SELECT decision_id, mode, orders, until_epoch, score_name, score_effect, score_low, score_high,
loss_effect, loss_low, loss_high, measured_at FROM counterfactuals WHERE run_id = {run:String}
ORDER BY measured_at LIMIT 1000
"""
# aggregates, which give a row where there is none yet
_METRICS: Final = """
SELECT
(SELECT groupUniqArrayArray(mapKeys(metrics)) FROM
(SELECT metrics FROM raw_training_step WHERE run_id = {run:String} LIMIT 1)) AS by_step,
(SELECT groupUniqArrayArray(mapKeys(metrics)) FROM
(SELECT metrics FROM raw_epoch_ended WHERE run_id = {run:String} LIMIT 1)) AS by_epoch
"""
# there are few, and the view of runs costs as much as it has to look at
_BASELINES: Final = """
SELECT run_id FROM run_annotated GROUP BY run_id
HAVING argMaxIf(toUInt8(on), _offset, change = 'BASELINE') = 1 LIMIT 1000
"""
_SOME: Final = "SELECT * FROM runs WHERE run_id IN {runs:Array(String)}"
_SETTINGS: Final = """
SELECT run_id, any(config) AS config FROM raw_run_started
WHERE run_id IN {runs:Array(String)} GROUP BY run_id
"""
# of a step a run has the same metrics; a look at its epochs reads a thousandth
_NAMES: Final = """
SELECT run_id, any(mapKeys(metrics)) AS names FROM raw_epoch_ended
WHERE run_id IN {runs:Array(String)} GROUP BY run_id
"""
_HEALTH: Final = """
SELECT layer, intDiv(step * {columns:Int64}, {last:Int64} + 1) AS place,
avgIf(health, isFinite(health)) AS health, avgIf(dead_ratio, isFinite(dead_ratio)) AS dead,
avgIf(gradient_norm, isFinite(gradient_norm)) AS gradient
FROM raw_seed_health WHERE run_id = {run:String} AND step <= {last:Int64} GROUP BY layer, place
"""
_LAST: Final = "SELECT max(step) AS last FROM raw_seed_health WHERE run_id = {run:String}"


@dataclass(frozen=True, slots=True)
class _Curve:
    """Where the values of a curve stand: the SQL of one, and its unit."""

    value: str
    unit: str = ""


_BY_STEP: Final = {
    "training loss": _Curve("loss"),
    "training accuracy": _Curve("accuracy", "fraction"),
    "gradient norm": _Curve("gradient_norm"),
    "learning rate": _Curve("learning_rate"),
    "step time": _Curve("duration_us / 1e3", "ms"),
}
_BY_EPOCH: Final = {
    "held-out loss": _Curve("validation_loss"),
    "held-out accuracy": _Curve("validation_accuracy", "fraction"),
    "test loss": _Curve("test_loss"),
    "test accuracy": _Curve("test_accuracy", "fraction"),
    "score": _Curve("if(score_name = '', validation_accuracy, score)"),
}
_HELD_OUT: Final = "held-out "


def runs_of(history: QuerySource) -> list[dict[str, Any]]:
    """The latest runs, newest first, without those that were deleted."""
    return [_run(row) for row in history.rows(_RUNS)]


def run_of(history: QuerySource, run_id: str) -> dict[str, Any] | None:
    """All that the page shows of one run but its curves; None where the history has no such run."""
    mine = {"param_run": run_id}
    rows = history.rows(_RUN, mine)
    if not rows:
        return None
    (started, *_) = [*history.rows(_STARTED, mine), _NOTHING]
    (metrics,) = history.rows(_METRICS, mine)
    return {
        "run": _run(rows[0]),
        "baseline": _baseline(history, rows[0]["recipe"]),
        "settings": flat(started["config"]),
        "environment": flat(started["versions"]),
        "layers": [
            {"name": name, "kind": kind, "seeds": int(seeds)}
            for name, kind, seeds in zip(
                started["names"], started["kinds"], started["seeds"], strict=True
            )
        ],
        "moves": [
            _timed(row, "at") for query in (_INHERITED, _MOVES) for row in history.rows(query, mine)
        ],
        "decisions": [_decision(row) for row in history.rows(_DECISIONS, mine)],
        "rollbacks": [_timed(row, "at") for row in history.rows(_ROLLBACKS, mine)],
        "forks": history.rows(_FORKS, mine),
        "kernels": history.rows(_KERNELS, mine),
        "counterfactuals": [_timed(row, "measured_at") for row in history.rows(_WORTH, mine)],
        "curves": _named(metrics["by_step"], metrics["by_epoch"]),
    }


def _baseline(history: QuerySource, recipe: str) -> dict[str, Any] | None:
    """The run that others of a recipe are compared with."""
    marked = [row["run_id"] for row in history.rows(_BASELINES)]
    found = history.rows(_SOME, {"param_runs": _array(marked)}) if marked else []
    of_recipe = [row for row in found if row["recipe"] == recipe and not row["deleted"]]
    return _run(max(of_recipe, key=lambda row: row["started_at"])) if of_recipe else None


def compared_of(history: QuerySource, runs: Sequence[str]) -> list[dict[str, Any]]:
    """Figures, settings and names of curves of those of some runs that the history has."""
    # what stands in an address and is no run's id is a run that the history lacks
    mine = {"param_runs": _array([run for run in runs if is_run_id(run)])}
    found = {row["run_id"]: _run(row) for row in history.rows(_SOME, mine)}
    settings = {row["run_id"]: flat(row["config"]) for row in history.rows(_SETTINGS, mine)}
    names = {row["run_id"]: row["names"] for row in history.rows(_NAMES, mine)}
    return [
        {
            "run": found[run],
            "settings": settings.get(run, {}),
            "curves": _named(names.get(run, []), names.get(run, [])),
        }
        for run in dict.fromkeys(runs)
        if run in found
    ]


def curves_of(
    history: QuerySource,
    runs: Sequence[str],
    names: Sequence[str],
    *,
    points: int,
    first: int,
    last: int,
) -> list[dict[str, Any]]:
    """Curves of some runs, each of at most `points` points that keep the picture.

    Of a step that was done again after a rollback, the latest. Points that are not finite are left
    out. A name that is neither Esper's nor begins with `held-out ` is a metric of the task.

    Largest triangle three buckets: Steinarsson, "Downsampling time series for visual
    representation", 2013.
    """
    where = {"param_runs": _array(runs), "param_first": str(first), "param_last": str(last)}
    by_epoch = [name for name in names if name in _BY_EPOCH or name.startswith(_HELD_OUT)]
    by_step = [name for name in names if name not in by_epoch]
    found: list[dict[str, Any]] = []
    for per, asked, table, known in (
        ("step", by_step, "raw_training_step", _BY_STEP),
        ("epoch", by_epoch, "raw_epoch_ended", _BY_EPOCH),
    ):
        if not asked:
            continue
        curves = {name: known.get(name) or _metric(place) for place, name in enumerate(asked)}
        metrics = {
            f"param_m{place}": name.removeprefix(_HELD_OUT) if per == "epoch" else name
            for place, name in enumerate(asked)
            if name not in known
        }
        query = _sampled(table, [curve.value for curve in curves.values()], points)
        for row in history.rows(query, where | metrics):
            for place, (name, curve) in enumerate(curves.items()):
                sampled = row[f"c{place}"]
                if not sampled and name not in known:
                    continue  # a metric that this run's task does not have
                found.append(
                    {
                        "run_id": row["run_id"],
                        "name": name,
                        "unit": curve.unit,
                        "per": per,
                        "steps": [int(step) for step, _ in sampled],
                        "values": [value for _, value in sampled],
                        "total": int(row["total"]),
                    }
                )
    return found


def health_of(history: QuerySource, run_id: str, columns: int) -> dict[str, Any]:
    """Health, dead units and gradient norm of each layer, means over its seeds and a column."""
    mine = {"param_run": run_id}
    (started, *_) = [*history.rows(_STARTED, mine), _NOTHING]
    last = int(history.rows(_LAST, mine)[0]["last"])
    names: list[str] = list(started["names"])
    grids: dict[str, list[list[float | None]]] = {
        what: [[None] * columns for _ in names] for what in ("health", "dead", "gradient")
    }
    rows = {name: number for number, name in enumerate(names)}
    given = {"param_columns": str(columns), "param_last": str(last)}
    for row in history.rows(_HEALTH, mine | given):
        if (number := rows.get(row["layer"])) is not None:
            for what, grid in grids.items():
                grid[number][int(row["place"])] = row[what]
    steps = [(last + 1) * place // columns for place in range(columns)]
    return {"layers": names, "steps": steps, **grids}


_NOTHING: Final[Mapping[str, Any]] = {
    "config": "{}",
    "versions": "{}",
    "names": [],
    "kinds": [],
    "seeds": [],
}


def _named(by_step: Sequence[str], by_epoch: Sequence[str]) -> list[str]:
    """The names of a run's curves; a task's metric that is called as one of ours is ours."""
    held_out = [f"{_HELD_OUT}{name}" for name in by_epoch]
    return list(dict.fromkeys([*_BY_STEP, *_BY_EPOCH, *by_step, *held_out]))


def _sampled(table: str, values: Sequence[str], points: int) -> str:
    """The query for curves of one table; the values are SQL of ours, in which the parameter m0 is
    the name of the first curve's metric.
    """
    latest = ", ".join(
        f"argMax({value}, occurred_at) AS v{place}" for place, value in enumerate(values)
    )
    sampled = ", ".join(
        f"largestTriangleThreeBucketsIf({points:d})(step, v{place}, isFinite(v{place})) AS c{place}"
        for place in range(len(values))
    )
    return (
        f"SELECT run_id, count() AS total, {sampled} FROM "  # noqa: S608  # ours
        f"(SELECT run_id, step, {latest} FROM {table} WHERE run_id IN {{runs:Array(String)}} "
        "AND step BETWEEN {first:Int64} AND {last:Int64} GROUP BY run_id, step) GROUP BY run_id "
        "ORDER BY run_id"
    )


def _metric(place: int) -> _Curve:
    name = f"{{m{place}:String}}"
    return _Curve(f"if(mapContains(metrics, {name}), metrics[{name}], nan)")


def _array(runs: Sequence[str]) -> str:
    """Runs as ClickHouse's text of an array."""
    for run in runs:
        if not is_run_id(run):
            raise UsageError(f"{run[:80]!r} is no run's id; `esper runs` lists them.")
    return "[" + ", ".join(f"'{run}'" for run in runs) + "]"


def flat(text: str, most: int = 2_000) -> dict[str, Any]:
    """A JSON object as one level: names of inner objects are joined by dots."""
    try:
        inner = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    found: dict[str, Any] = {}
    waiting = [("", inner)]
    while waiting and len(found) < most:
        prefix, value = waiting.pop()
        if isinstance(value, dict) and value:
            waiting += [
                (f"{prefix}.{name}" if prefix else str(name), one)
                for name, one in reversed(value.items())
            ]
        elif prefix:
            found[prefix] = value
    return found


def _decision(row: dict[str, Any]) -> dict[str, Any]:
    try:
        evidence = json.loads(row["evidence"] or "{}")
    except (ValueError, RecursionError):
        evidence = {}
    return _timed(row, "decided_at") | {"evidence": evidence}


def _run(row: dict[str, Any]) -> dict[str, Any]:
    return _timed(row, "started_at", "last_event_at") | {"baseline": bool(row["baseline"])}


def _timed(row: dict[str, Any], *names: str) -> dict[str, Any]:
    """Times as ISO 8601 has them; ClickHouse writes a blank and no zone, and means UTC."""
    return row | {
        name: f"{row[name].replace(' ', 'T')}Z" for name in names if isinstance(row[name], str)
    }
