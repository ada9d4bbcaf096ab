"""The views: one a record type, showing each event once, and those that analysts ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from esper.history.tables.ddl import RecordTable, literal, quote, record_tables

_ENVELOPE: Final = ("event_id", "occurred_at", "run_id", "sender_id", "trace_id", "causation_id")


@dataclass(frozen=True, slots=True)
class View:
    """A view, its comment and its query."""

    name: str
    comment: str
    query: str
    columns: str = ""

    @property
    def sql(self) -> str:
        """The statement that makes it, or puts it in the place of an older one."""
        return (
            f"CREATE OR REPLACE VIEW {quote(self.name)} {self.columns} AS {self.query} COMMENT "
            f"{literal(self.comment)}"
        )


def once(table: RecordTable) -> View:
    """Each event of a record type once.

    `run_id` stands in the LIMIT BY so that a condition on it reaches the table's primary key.
    """
    shown = [column for column in table.columns if column.shown]
    declared = [
        f"{quote(column.name)} {column.type} COMMENT {literal(column.comment)}" for column in shown
    ]
    declared += [
        "_partition Int32 COMMENT 'Kafka partition'",
        "_offset Int64 COMMENT 'Kafka offset'",
    ]
    names = ", ".join([*(quote(column.name) for column in shown), "_partition", "_offset"])
    by = "run_id, event_id" if table.record.KEY == "run_id" else "event_id"
    query = f"SELECT {names} FROM {table.name} LIMIT 1 BY {by}"  # noqa: S608 - every name comes from the schemas
    return View(table.view, table.comment, query, f"({', '.join(declared)})")


def _union(prefix: str) -> str:
    """The envelope of every event, from the raw tables or from the views."""
    envelope = ", ".join(_ENVELOPE)
    parts = [
        (
            f"SELECT {literal(table.record.TOPIC)} AS topic, {literal(name)} AS record, "  # noqa: S608
            f"{envelope}, _partition, _offset FROM {prefix}{table.view}"
        )
        for name, table in record_tables().items()
    ]
    return " UNION ALL ".join(parts)


_SEED_TIMELINE: Final = """
SELECT
    run_id, timeline, layer, seed, sequence, occurred_at, epoch, step, from_stage, to_stage, execution, kernel_id, family, decision_id,
    alpha, alpha_target, reason,
    leadInFrame(toNullable(step)) OVER following - step AS steps_in_stage,
    dateDiff('microsecond', occurred_at, leadInFrame(toNullable(occurred_at)) OVER following) / 1e6 AS seconds_in_stage
FROM seed_transitioned
WINDOW following AS (PARTITION BY run_id, timeline, layer, seed ORDER BY sequence ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING)
"""

# toNullable: by default a LEFT JOIN fills what is missing with 0 or "", not with null
_DECISIONS: Final = """
SELECT
    r.run_id AS run_id, r.occurred_at AS decided_at, r.timeline AS timeline, r.epoch AS epoch, r.step AS step,
    toString(c.decision_id) AS decision_id, c.command AS command, c.layer AS layer, c.seed AS seed, c.family AS family,
    c.kernel_id AS kernel_id, c.confidence AS confidence, c.urgency AS urgency, c.expected_impact AS expected_impact,
    multiIf(applied.at IS NOT NULL, 'APPLIED', rejected.why IS NOT NULL, 'REJECTED', 'OPEN') AS answer,
    applied.at AS applied_step, rejected.why AS rejected_because,
    outcome.verdict AS verdict, outcome.reward AS reward, outcome.shadow_gap AS shadow_gap, outcome.step AS outcome_step,
    c.evidence AS evidence, r.reason AS reason, r.policy_version AS policy_version
FROM (SELECT * EXCEPT (commands), arrayJoin(commands) AS c FROM epoch_reviewed) AS r
LEFT JOIN (SELECT run_id, decision_id, toNullable(min(step)) AS at FROM adaptation_applied GROUP BY run_id, decision_id) AS applied
    ON applied.run_id = r.run_id AND applied.decision_id = toString(r.c.decision_id)
LEFT JOIN (SELECT run_id, decision_id, toNullable(any(reason)) AS why FROM adaptation_rejected GROUP BY run_id, decision_id) AS rejected
    ON rejected.run_id = r.run_id AND rejected.decision_id = toString(r.c.decision_id)
LEFT JOIN (
    SELECT
        run_id, decision_id, toNullable(toString(argMax(verdict, occurred_at))) AS verdict,
        toNullable(argMax(reward, occurred_at)) AS reward, toNullable(argMax(shadow_gap, occurred_at)) AS shadow_gap,
        toNullable(argMax(adaptation_outcome.step, occurred_at)) AS step
    FROM adaptation_outcome GROUP BY run_id, decision_id
) AS outcome ON outcome.run_id = r.run_id AND outcome.decision_id = r.c.decision_id
"""

_KERNEL_LEAGUE: Final = """
SELECT
    k.kernel_id AS kernel_id, k.family AS family, k.blueprint_id AS blueprint_id, k.in_features AS in_features,
    k.out_features AS out_features, k.geometry AS geometry, k.blend AS blend, k.parameters AS parameters, k.flops AS flops, k.latency_us AS latency_us,
    g.grafts AS grafts, g.fossilized AS fossilized, g.culled AS culled, g.runs AS runs,
    o.mean_reward AS mean_reward, o.mean_shadow_gap AS mean_shadow_gap,
    p.mean_accuracy_delta AS mean_accuracy_delta, p.mean_loss_delta AS mean_loss_delta
FROM (SELECT * FROM kernel_published ORDER BY occurred_at LIMIT 1 BY kernel_id) AS k
LEFT JOIN (
    SELECT
        kernel_id, countIf(to_stage = 'TRAINING') AS grafts, countIf(to_stage = 'FOSSILIZED') AS fossilized,
        countIf(to_stage = 'CULLED') AS culled, uniqExact(run_id) AS runs
    FROM seed_transitioned WHERE kernel_id != '' GROUP BY kernel_id
) AS g ON g.kernel_id = k.kernel_id
LEFT JOIN (
    SELECT kernel_id, toNullable(avg(reward)) AS mean_reward, toNullable(avg(shadow_gap)) AS mean_shadow_gap
    FROM adaptation_outcome GROUP BY kernel_id
) AS o ON o.kernel_id = k.kernel_id
LEFT JOIN (
    SELECT kernel_id, toNullable(avg(accuracy_delta)) AS mean_accuracy_delta, toNullable(avg(loss_delta)) AS mean_loss_delta
    FROM performance_delta GROUP BY kernel_id
) AS p ON p.kernel_id = k.kernel_id
ORDER BY mean_reward DESC NULLS LAST, grafts DESC, kernel_id
"""

# `raw.`, because ClickHouse takes a name for the alias beside it, an aggregate, where both are
# equal
_RUNS: Final = """
SELECT
    s.run_id AS run_id, s.recipe AS recipe, s.seed AS seed, s.decisions AS decisions,
    multiIf(last.kind = '', 'RUNNING', last.kind) AS state, s.started_at AS started_at,
    greatest(s.started_at, e.last_at, last.at) AS last_event_at,
    dateDiff('millisecond', started_at, last_event_at) / 1e3 AS seconds,
    e.epochs AS epochs, greatest(e.steps, last.step) AS steps, s.total_steps AS total_steps,
    if(c.completed = 1, c.accuracy, e.test_accuracy) AS accuracy, if(c.completed = 1, c.loss, e.test_loss) AS loss,
    if(c.completed = 1, c.score, e.test_score) AS score, if(c.completed = 1, c.score_name, e.score_name) AS score_name,
    e.best_accuracy AS best_accuracy, s.parameters AS host_parameters, if(c.completed = 1, c.parameters, s.parameters) AS parameters,
    t.grafts AS grafts, t.fossilized AS fossilized, t.culled AS culled, c.digest AS digest, last.reason AS reason,
    f.parent AS parent, f.forked_step AS forked_step,
    said.name AS name, said.note AS note, marked.tags AS tags, said.baseline = 1 AS baseline, gone.deleted = 1 AS deleted
FROM (
    SELECT
        run_id, any(recipe) AS recipe, any(raw.seed) AS seed, any(raw.decisions) AS decisions, min(occurred_at) AS started_at,
        any(raw.total_steps) AS total_steps, any(raw.parameters) AS parameters
    FROM run_started AS raw GROUP BY run_id
) AS s
LEFT JOIN (
    SELECT
        run_id, argMax(raw.epoch, sequence) + 1 AS epochs, argMax(raw.step, sequence) AS steps, max(occurred_at) AS last_at,
        toNullable(argMax(raw.test_accuracy, sequence)) AS test_accuracy, toNullable(argMax(raw.test_loss, sequence)) AS test_loss,
        toNullable(max(raw.test_accuracy)) AS best_accuracy,
        toNullable(argMax(if(raw.score_name = '', raw.test_accuracy, raw.test_score), sequence)) AS test_score,
        argMax(if(raw.score_name = '', 'accuracy', raw.score_name), sequence) AS score_name
    FROM epoch_ended AS raw GROUP BY run_id
) AS e ON e.run_id = s.run_id
LEFT JOIN (
    SELECT
        run_id, 1 AS completed, argMax(raw.accuracy, sequence) AS accuracy, argMax(raw.loss, sequence) AS loss,
        argMax(raw.parameters, sequence) AS parameters, argMax(raw.digest, sequence) AS digest,
        argMax(if(raw.score_name = '', raw.accuracy, raw.score), sequence) AS score,
        argMax(if(raw.score_name = '', 'accuracy', raw.score_name), sequence) AS score_name
    FROM run_completed AS raw GROUP BY run_id
) AS c ON c.run_id = s.run_id
LEFT JOIN (
    SELECT
        run_id, countIf(to_stage = 'TRAINING') AS grafts, countIf(to_stage = 'FOSSILIZED') AS fossilized,
        countIf(to_stage = 'CULLED') AS culled
    FROM seed_transitioned GROUP BY run_id
) AS t ON t.run_id = s.run_id
LEFT JOIN (
    SELECT
        run_id, argMax(raw.kind, sequence) AS kind, argMax(raw.reason, sequence) AS reason, max(occurred_at) AS at, argMax(raw.step, sequence) AS step
    FROM (
        SELECT run_id, sequence, occurred_at, step, toString(outcome) AS kind, '' AS reason FROM run_completed
        UNION ALL SELECT run_id, sequence, occurred_at, step, 'FAILED', reason FROM run_failed
        UNION ALL SELECT run_id, sequence, occurred_at, step, 'PAUSED', reason FROM run_paused
        UNION ALL SELECT run_id, sequence, occurred_at, step, 'RUNNING', reason FROM run_resumed
        UNION ALL SELECT run_id, sequence, occurred_at, step, 'RUNNING', reason FROM run_rolled_back
    ) AS raw GROUP BY run_id
) AS last ON last.run_id = s.run_id
LEFT JOIN (
    SELECT run_id, any(raw.parent_run_id) AS parent, toNullable(any(raw.parent_step)) AS forked_step FROM run_forked AS raw GROUP BY run_id
) AS f ON f.run_id = s.run_id
LEFT JOIN (
    SELECT
        run_id, argMaxIf(raw.text, _offset, change = 'RENAMED') AS name, argMaxIf(raw.text, _offset, change = 'NOTED') AS note,
        argMaxIf(toUInt8(raw.on), _offset, change = 'BASELINE') AS baseline
    FROM run_annotated AS raw GROUP BY run_id
) AS said ON said.run_id = s.run_id
LEFT JOIN (
    SELECT run_id, arraySort(groupArray(tag)) AS tags
    FROM (
        SELECT run_id, tag, argMax(present, _offset) AS has
        FROM (
            SELECT
                run_id, _offset,
                arrayJoin(arrayConcat(arrayMap(one -> (one, 1), added), arrayMap(one -> (one, 0), removed))) AS pair,
                pair.1 AS tag, pair.2 AS present
            FROM run_annotated WHERE change = 'TAGGED'
        ) GROUP BY run_id, tag
    ) WHERE has = 1 GROUP BY run_id
) AS marked ON marked.run_id = s.run_id
LEFT JOIN (SELECT run_id, 1 AS deleted FROM run_deleted GROUP BY run_id) AS gone ON gone.run_id = s.run_id
ORDER BY started_at DESC
"""

_COUNTERFACTUALS: Final = """
SELECT
    c.run_id AS run_id, c.decision_id AS decision_id, d.command AS command, d.layer AS layer, d.seed AS seed,
    d.family AS family, d.kernel_id AS kernel_id, c.mode AS mode, c.orders AS orders, c.until_epoch AS until_epoch,
    c.score_name AS score_name, c.higher_is_better AS higher_is_better, c.score_effect AS score_effect,
    c.score_low AS score_low, c.score_high AS score_high, c.loss_effect AS loss_effect, c.loss_low AS loss_low,
    c.loss_high AS loss_high, c.with_runs AS with_runs, c.without_runs AS without_runs, c.proven AS proven,
    c.seconds AS seconds, c.actor AS actor, c.occurred_at AS measured_at
FROM counterfactual_measured AS c
LEFT JOIN (
    SELECT
        run_id, decision_id, any(raw.command) AS command, any(raw.layer) AS layer, any(raw.seed) AS seed,
        any(raw.family) AS family, any(raw.kernel_id) AS kernel_id
    FROM adaptation_applied AS raw GROUP BY run_id, decision_id
) AS d ON d.run_id = c.run_id AND d.decision_id = c.decision_id
ORDER BY measured_at DESC, run_id, decision_id
"""

_RUN_COMPARISON: Final = """
SELECT
    r.run_id AS run_id, r.recipe AS recipe, r.seed AS seed, r.decisions AS decisions, r.state AS state, r.accuracy AS accuracy,
    r.loss AS loss, r.best_accuracy AS best_accuracy, r.accuracy - h.accuracy AS accuracy_over_host, r.grafts AS grafts,
    r.fossilized AS fossilized, r.culled AS culled, r.host_parameters AS host_parameters, r.parameters AS parameters,
    r.epochs AS epochs, r.steps AS steps, r.seconds AS seconds
FROM runs AS r
LEFT JOIN (
    SELECT recipe, seed, total_steps, argMax(raw.accuracy, started_at) AS accuracy
    FROM runs AS raw WHERE grafts = 0 AND state = 'FINISHED' GROUP BY recipe, seed, total_steps
) AS h ON h.recipe = r.recipe AND h.seed = r.seed AND h.total_steps = r.total_steps
ORDER BY recipe, seed, accuracy DESC
"""


def views() -> tuple[View, ...]:
    """Every view, those that others read first."""
    return (
        *(once(table) for table in record_tables().values()),
        View("raw_events", "Every committed message: topic, record and envelope", _union("raw_")),
        View("events", "Every event once: topic, record and envelope", _union("")),
        View(
            "seed_timeline",
            "Each seed's path through the stages, with how long it stayed in each",
            _SEED_TIMELINE,
        ),
        View(
            "decisions",
            "Tamiyo's commands with the trainer's answer and how they ended",
            _DECISIONS,
        ),
        View("kernel_league", "Published kernels by what their grafts were worth", _KERNEL_LEAGUE),
        View(
            "counterfactuals",
            "What decisions were worth: each answer of esper whatif, with its intervals",
            _COUNTERFACTUALS,
        ),
        View("runs", "One row a run: state, figures, growth, and what people say of it", _RUNS),
        View(
            "run_comparison",
            (
                "Runs side by side, with the gain over the run of the same recipe, seed and "
                "length that grew nothing"
            ),
            _RUN_COMPARISON,
        ),
    )
