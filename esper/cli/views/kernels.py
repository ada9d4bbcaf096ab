"""`esper kernels`: what the foundry has made, what it was worth, and whether it is what it says."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from esper.cli.views.by_id import FETCHED, only, require_beginning
from esper.errors import CorruptError, UsageError, printable
from esper.json_text import json_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from esper.history.queries import QuerySource

_LISTING = "`esper kernels ls`"
_SHOWN = 12  # characters of an id in sentences and tables
AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]
_LISTED = (
    "kernel_id",
    "family",
    "in_features",
    "out_features",
    "geometry",
    "parameters",
    "flops",
    "latency_us",
    "grafts",
    "fossilized",
    "culled",
    "runs",
    "mean_reward",
    "mean_shadow_gap",
)
_PUBLISHED = "(SELECT * FROM kernel_published ORDER BY occurred_at DESC LIMIT 1 BY kernel_id)"
_FOUND = f"""
SELECT * FROM {_PUBLISHED} WHERE startsWith(kernel_id, {{id:String}}) LIMIT {FETCHED}
"""  # noqa: S608  # ours
_EVERY = f"SELECT kernel_id, address, sha256 FROM {_PUBLISHED} ORDER BY kernel_id"  # noqa: S608  # ours
_WORTH = "SELECT * FROM kernel_league WHERE kernel_id = {id:String}"
_BLUEPRINT = "SELECT ir FROM blueprint_proposed WHERE blueprint_id = {id:String} LIMIT 1"
_CHILDREN = f"SELECT kernel_id FROM {_PUBLISHED} WHERE has(parents, {{id:String}})"  # noqa: S608  # ours
_CHECKED = """
SELECT arrayJoin(checks) AS check FROM (
    SELECT checks FROM kernel_validated WHERE kernel_id = {id:String}
    ORDER BY occurred_at DESC LIMIT 1
)
"""
_GRAFTS = """
SELECT run_id, timeline, layer, seed, min(step) AS from_step,
    toString(argMax(to_stage, sequence)) AS stage, argMax(reason, sequence) AS reason
FROM seed_transitioned WHERE kernel_id = {id:String}
GROUP BY run_id, timeline, layer, seed ORDER BY min(occurred_at)
"""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        help="What the foundry has made, what it was worth, and whether it is what it says.",
        no_args_is_help=True,
    )
    for name, command in (("ls", ls), ("show", show), ("verify", verify)):
        group.command(name)(command)
    app.add_typer(group, name="kernels")


def ls(
    *,
    family: Annotated[str, typer.Option("--family", help="Only kernels of this family.")] = "",
    grafted: Annotated[
        bool, typer.Option("--grafted", help="Only kernels that some run has tried.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List published kernels, those first whose grafts were worth most."""
    from esper.cli.shared.tables import open_history, show_table  # noqa: PLC0415 - `esper --help` waits for nothing that a command needs

    with open_history() as history:
        every = history.rows("SELECT * FROM kernel_league")
    rows = [
        row for row in every if family in ("", row["family"]) and (row["grafts"] or not grafted)
    ]
    if as_json:
        print(json_text(rows))
    elif not every:
        raise UsageError("No kernel was published yet; the first run has the foundry make some.")
    elif not rows:
        families = ", ".join(sorted({row["family"] for row in every}))
        print(f"None of the {len(every)} kernels is so; families are {families}.")
    else:
        cells = [[row[name] for name in _LISTED] for row in rows]
        for row in cells:
            row[0] = row[0][:_SHOWN]
        show_table(list(_LISTED), cells)


def show(
    kernel: Annotated[
        str, typer.Argument(metavar="KERNEL", help="The beginning of its id (`esper kernels ls`).")
    ],
    *,
    as_json: AsJson = False,
) -> None:
    """Say what a kernel computes, what it descends from, where it was grafted and what came of
    it.
    """
    from esper.cli.shared.tables import open_history  # noqa: PLC0415 - as above

    with open_history() as history:
        told = _told(history, _one(history, kernel))
    if as_json:
        print(json_text(told))
    else:
        _show(told)


def verify(
    kernels: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KERNEL...]", help="Beginnings of their ids; all, if none."),
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Read kernels out of the store and check them: seal, SHA-256, blueprint, weights, identity."""
    from esper.cli.shared.consoles import standard_error  # noqa: PLC0415 - as above
    from esper.cli.shared.tables import open_history  # noqa: PLC0415 - as above
    from esper.config import Settings  # noqa: PLC0415 - as above
    from esper.urza.artefact import fetch  # noqa: PLC0415 - as above
    from esper.urza.sealed import open_kernels  # noqa: PLC0415 - as above

    with open_history() as history:
        wanted = [_one(history, one) for one in kernels] if kernels else history.rows(_EVERY)
    if not wanted:
        raise UsageError("No kernel was published yet, so there is none to verify.")
    store = open_kernels(Settings.load())
    damaged: dict[str, str] = {}
    console = standard_error()
    for number, one in enumerate(wanted, 1):
        if console.is_terminal:
            console.print(f"{number} of {len(wanted)}", end="\r")
        try:
            fetch(store, **{name: one[name] for name in ("kernel_id", "address", "sha256")})
        except CorruptError as error:
            damaged[one["kernel_id"]] = str(error)
    if as_json:
        print(json_text({"verified": len(wanted) - len(damaged), "damaged": damaged}))
    for why in damaged.values():
        sys.stderr.write(f"{printable(why)}\n")
    if damaged:
        raise CorruptError(f"{len(damaged)} of {len(wanted)} kernels are not what was published.")
    if not as_json:
        many = f"All {len(wanted)} kernels are" if len(wanted) > 1 else "The kernel is"
        print(f"{many} what was published.")


def _one(history: QuerySource, kernel: str) -> dict[str, Any]:
    """The published kernel that is meant.

    Raises:
        UsageError: there is none, or there are several.
    """
    require_beginning(kernel, "kernel", _LISTING)
    return only(
        history.rows(_FOUND, {"param_id": kernel}),
        kernel,
        kind="kernel",
        column="kernel_id",
        listing=_LISTING,
    )


def _told(history: QuerySource, one: dict[str, Any]) -> dict[str, Any]:
    """Everything that is known of a kernel."""
    import json  # noqa: PLC0415 - as above

    mine = {"param_id": one["kernel_id"]}
    proposed = history.rows(_BLUEPRINT, {"param_id": one["blueprint_id"]})
    (worth,) = history.rows(_WORTH, mine)
    return {
        "kernel": one,
        "blueprint": json.loads(proposed[0]["ir"]) if proposed else None,
        "worth": worth,
        "checks": [row["check"] for row in history.rows(_CHECKED, mine)],
        "children": [row["kernel_id"] for row in history.rows(_CHILDREN, mine)],
        "grafts": history.rows(_GRAFTS, mine),
    }


def _show(told: Mapping[str, Any]) -> None:
    def say(text: str) -> None:
        print(printable(text))

    one, worth = told["kernel"], told["worth"]
    geometry = f", {one['geometry']}" if one["geometry"] else ""
    say(f"Kernel {one['kernel_id']}")
    say(
        f"{one['family']}, {one['in_features']} to {one['out_features']} features{geometry}; "
        f"{one['parameters']:,} parameters, {one['flops']:,} operations a sample, "
        f"{one['latency_us']:.0f} us for a batch of 32 where it was compiled"
    )
    print()
    reads = "the layer's input" if one["tap"] == "LAYER_INPUT" else "its own chunk"
    blend = "added to its chunk" if one["blend"] == "RESIDUAL" else "in place of its chunk"
    say(f"Computes    reads {reads}, {blend}, up to a weight of {one['alpha_target']:g}")
    for node in (told["blueprint"] or {}).get("nodes", ()):
        rest = {key: value for key, value in node.items() if key not in ("name", "op", "inputs")}
        given = ", ".join(f"{key} {value}" for key, value in sorted(rest.items()))
        say(f"            {node['name']} = {node['op']}({', '.join(node['inputs'])}) {given}")
    for number, check in enumerate(told["checks"]):
        holds = "" if check["passed"] else "does not hold: "
        say(f"{'' if number else 'Checked':12}{check['name']}: {holds}{check['detail']}")
    say(f"Descends    {_ids(one['parents']) or 'from no other kernel'}")
    if told["children"]:
        say(f"Ancestor of {_ids(told['children'])}")
    for number, graft in enumerate(told["grafts"]):
        say(
            f"{'Grafts' if not number else '':12}{graft['run_id']} {graft['layer']}"
            f"[{graft['seed']}] from step {graft['from_step']}: {graft['stage']}, {graft['reason']}"
        )
    if not told["grafts"]:
        say("Grafts      none yet")
    if worth["mean_shadow_gap"] is not None:
        say(
            f"Worth       {worth['mean_shadow_gap']:.4g} nats of held-out loss and a reward of "
            f"{worth['mean_reward']:.2f} on average"
        )
    say(f"Artefact    {one['address']}, {one['size_bytes']:,} bytes, SHA-256 {one['sha256']}")


def _ids(kernels: Sequence[str]) -> str:
    return ", ".join(one[:_SHOWN] for one in kernels)
