"""`esper explain DECISION`: one decision of Tamiyo in words, with what came of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from esper.cli.views.by_id import FETCHED, only, require_beginning
from esper.errors import UsageError, printable
from esper.json_text import json_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from esper.history.queries import QuerySource

_LISTING = "the view decisions of `esper sql`"
_DOES = {
    "GERMINATE": "graft a kernel onto",
    "FOSSILISE": "keep the kernel of",
    "CULL": "give up the kernel of",
}
_EVIDENCE = {
    "strategy": "strategy of the round",
    "gain_median": "nats that such a kernel gained by the median",
    "sampled_worth": "worth that was drawn for it (Thompson sampling)",
    "success": "successes and failures that the draw was made of",
    "trials": "kernels kept, given up and harmful on this layer",
    "epochs_left": "epochs left to learn",
    "graft_epochs": "epochs from graft to live, and their error",
    "gap": "shadow gap: nats by which the held-out loss is lower with it",
    "gap_error": "standard error of the gap",
    "z": "standard errors that the gap is above 0",
    "dependence": "nats that the model would lose without it now",
    "negative": "validations that were worse with it",
    "of": "validations looked at",
}
"""What a built-in policy says as evidence; what others say stands under its own name."""
_FOUND = f"""
SELECT * FROM decisions WHERE startsWith(decision_id, {{id:String}}) AND
({{run:String}} = '' OR run_id = {{run:String}}) ORDER BY decided_at LIMIT {FETCHED}
"""  # noqa: S608  # ours
_BESIDE = """
SELECT command, layer, seed, family FROM decisions WHERE run_id = {run:String} AND
timeline = {timeline:Int32} AND step = {step:Int64} AND decision_id != {id:String}
ORDER BY layer, seed
"""
_PATH = """
SELECT timeline, epoch, step, to_stage, reason FROM seed_transitioned WHERE run_id = {run:String}
AND decision_id = {id:String} ORDER BY sequence
"""
_WORTH = """
SELECT mode, orders, until_epoch, score_name, score_effect, score_low, score_high, loss_effect,
loss_low, loss_high, proven FROM counterfactuals WHERE run_id = {run:String} AND
decision_id = {id:String} ORDER BY measured_at
"""
_LOSSES = """
SELECT epoch + 1 AS epoch, validation_loss AS loss, score, score_name FROM epoch_ended
WHERE run_id = {run:String} AND timeline = {timeline:Int32} ORDER BY sequence
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("explain")(explain)


def explain(
    decision: Annotated[
        str,
        typer.Argument(
            metavar="DECISION",
            help="The beginning of its id (`esper sql 'SELECT * FROM decisions'`).",
        ),
    ],
    *,
    run: Annotated[str, typer.Option("--run", help="Only decisions of this run.")] = "",
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot", help="Write the run's held-out loss, with the marks of this kernel's stages."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Say what Tamiyo decided, on which evidence, beside what, and what came of it."""
    from esper.cli.shared.plots import require_format  # noqa: PLC0415 - `esper --help` waits for nothing that a command needs
    from esper.cli.shared.tables import open_history  # noqa: PLC0415 - as above

    require_beginning(decision, "decision", _LISTING)
    if plot:
        require_format(plot)
    with open_history() as history:
        told = _told(history, decision, run)
    if plot:
        _draw(plot, told)
    if as_json:
        print(json_text(told))
        return
    _show(told)
    if plot:
        print(f"Picture     {plot}")


def _told(history: QuerySource, decision: str, run: str) -> dict[str, Any]:
    """The decision, the commands beside it, the path of its seed, and the run's losses.

    Raises:
        UsageError: no decision is meant, or several are.
    """
    one = only(
        history.rows(_FOUND, {"param_id": decision, "param_run": run}),
        decision,
        kind=f"decision of run {run}" if run else "decision",
        column="decision_id",
        listing=_LISTING,
        more="more of the id, or the run by --run",
    )
    of_it = {"param_run": one["run_id"], "param_id": one["decision_id"]}
    line = {"param_run": one["run_id"], "param_timeline": str(one["timeline"])}
    return {
        "decision": one | {"evidence": json.loads(one["evidence"] or "{}")},
        "beside": history.rows(_BESIDE, of_it | line | {"param_step": str(one["step"])}),
        "path": history.rows(_PATH, of_it),
        "worth": history.rows(_WORTH, of_it),
        "losses": history.rows(_LOSSES, line),
    }


def _show(told: Mapping[str, Any]) -> None:
    """Print it for people, names of others without what moves a terminal."""
    from esper.cli.shared.plots import spark  # noqa: PLC0415 - as above

    def say(text: str) -> None:
        for line in text.split("\n"):
            print(printable(line))

    one = told["decision"]
    kernel = f" ({one['family']} {one['kernel_id'][:12]})" if one["kernel_id"] else ""
    does = _DOES.get(one["command"], f"{one['command'].lower()} at")
    say(
        f"Decision {one['decision_id']}\nRun {one['run_id']}, after epoch {one['epoch']} "
        f"(step {one['step']}): {does} {one['layer']}[{one['seed']}]{kernel}.\n"
    )
    say(f"Tamiyo      {one['policy_version']}: {one['reason']}")
    say(
        f"Why         {one['confidence']:.2f} sure that it does no harm; {one['urgency']:.2f} that "
        "waiting an epoch costs more"
    )
    say(f"            expected to lower the loss by {one['expected_impact']:.4g} nats")
    for name, value in one["evidence"].items():
        say(f"            {_EVIDENCE.get(name, name)}: {_value(value)}")
    if told["beside"]:
        others = ", ".join(
            f"{' '.join(filter(None, (other['command'], other['family'])))} "
            f"{other['layer']}[{other['seed']}]"
            for other in told["beside"]
        )
        say(f"Beside it   {others}")
    say(f"Answer      {_answer(one)}")
    for number, step in enumerate(told["path"]):
        say(
            f"{'Path' if not number else '':12}step {step['step']:>6}  {step['to_stage']:14}"
            f"{step['reason']}"
        )
    say(f"Outcome     {_outcome(one)}")
    losses = [point["loss"] for point in told["losses"] if point["loss"] is not None]
    if losses:
        say(
            f"Held out    {spark(losses)}  loss {losses[0]:.4g} to {losses[-1]:.4g} nats, epochs 1 "
            f"to {told['losses'][-1]['epoch']}"
        )
    if one["command"] == "GERMINATE" and one["answer"] == "APPLIED":
        say(f"What if not esper whatif {one['run_id']} --decision {one['decision_id']}")
    for answer in told["worth"]:
        say(f"            {_worth(answer)}")


def _answer(one: Mapping[str, Any]) -> str:
    if one["answer"] == "APPLIED":
        return f"applied by the trainer at step {one['applied_step']}"
    if one["answer"] == "REJECTED":
        return f"rejected by the trainer: {one['rejected_because']}"
    return "none yet: the trainer has neither applied nor rejected it"


def _outcome(one: Mapping[str, Any]) -> str:
    if one["verdict"] is None:
        return "not known: only a graft has one, once its kernel was kept or given up"
    return (
        f"{one['verdict']} at step {one['outcome_step']}: the held-out loss was "
        f"{abs(one['shadow_gap']):.4g} nats {'lower' if one['shadow_gap'] >= 0 else 'higher'} with "
        f"it; reward {one['reward']:.0f}"
    )


def _worth(answer: Mapping[str, Any]) -> str:
    """An answer of `esper whatif`: what the run has by the decision."""
    effects = (
        f"{answer[f'{what}_effect']:+.4g}{_between(answer[f'{what}_low'], answer[f'{what}_high'])} "
        f"of {name}"
        for what, name in (("score", answer["score_name"].replace("_", " ")), ("loss", "loss"))
    )
    return (
        f"with it {', '.join(effects)} after epoch {answer['until_epoch']} "
        f"({answer['mode'].lower()} loop, batch orders: {answer['orders']})"
    )


def _between(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" [{low:.4g}, {high:.4g}]"


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(_value(one) for one in value)
    return str(value)


def _draw(path: Path, told: Mapping[str, Any]) -> None:
    """The held-out loss by epochs, with a mark at each stage of the kernel."""
    from esper.cli.shared.plots import Curve, Panel, draw  # noqa: PLC0415 - as above

    one = told["decision"]
    points = [point for point in told["losses"] if point["loss"] is not None]
    if not points:
        raise UsageError(f"Run {one['run_id']} has ended no epoch, so there is nothing to draw.")
    marks = [(float(step["epoch"]), step["to_stage"].lower()) for step in told["path"]]
    panel = Panel(
        "held-out loss, nats",
        [Curve("loss", [point["epoch"] for point in points], [point["loss"] for point in points])],
        marks=marks or [(float(one["epoch"]), one["command"].lower())],
    )
    draw(path, f"{one['run_id']}: {one['command']} {one['layer']}[{one['seed']}]", [panel])
