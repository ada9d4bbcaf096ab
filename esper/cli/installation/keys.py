"""`esper keys`: which keys seal the snapshots; `esper keys rotate`: another master key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from esper.json_text import json_text

if TYPE_CHECKING:
    from esper.urza.store import Store

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    keys = typer.Typer(
        help="The keys that seal snapshots; none is ever printed.",
        rich_markup_mode=None,
        invoke_without_command=True,
    )
    keys.callback()(show)
    keys.command("rotate")(rotate)
    app.add_typer(keys, name="keys")


def show(context: typer.Context, *, as_json: AsJson = False) -> None:
    """Show the ids of the master keys at hand, and which of them wraps which family of runs."""
    if context.invoked_subcommand is not None:
        return
    from esper.config import Settings  # noqa: PLC0415 - as above
    from esper.urza.opening import open_store  # noqa: PLC0415 - as above
    from esper.vault.family_keys import listed  # noqa: PLC0415 - `esper --help` waits for nothing that a command needs
    from esper.vault.masters import masters  # noqa: PLC0415 - as above

    settings = Settings.load()
    keys = masters(settings)
    families = listed(open_store(settings), keys)
    if as_json:
        rows: list[dict[str, Any]] = [
            {"name": family.name or None, "master_key": family.master_id} for family in families
        ]
        print(
            json_text(
                {
                    "source": keys.source,
                    "master_keys": [key.id for key in keys.keys],
                    "families": rows,
                }
            )
        )
        return
    print(f"Master key {keys.current.id} from {keys.source}.")
    for key in keys.keys[1:]:
        print(
            f"Master key {key.id} still opens what it has wrapped: `esper keys rotate` "
            "goes on with a rotation."
        )
    plain = _in_the_clear(open_store(settings))
    if plain:
        print(
            f"{plain} kernels of an older Esper lie in the clear: `esper keys rotate` seals them."
        )
    for family in families:
        print(f"  {family.master_id}  {family.name or 'a family whose master key is not at hand'}")


def _in_the_clear(store: Store) -> int:
    """How many kernels lie in the store as an older Esper left them."""
    from esper.urza.sealed import PREFIX  # noqa: PLC0415 - as above
    from esper.vault.boxes import is_sealed  # noqa: PLC0415 - as above

    return sum(not is_sealed(store.get(key) or b"") for key in store.list(PREFIX))


def rotate(*, as_json: AsJson = False) -> None:
    """Wrap every family key by another master key; it can be killed at any point and run again."""
    from esper.checkpoint.rotation import rotate as rotate_keys  # noqa: PLC0415 - as above
    from esper.cli.shared.audited import audited  # noqa: PLC0415 - as above
    from esper.cli.shared.connection import cluster_of  # noqa: PLC0415 - as above
    from esper.clock import SystemClock  # noqa: PLC0415 - as above
    from esper.config import Settings  # noqa: PLC0415 - as above

    settings = Settings.load()
    with audited(
        settings,
        SystemClock(),
        cluster_of(settings, "operator"),
        action="keys rotate",
        resource="master key",
    ):
        done = rotate_keys(settings)
    if as_json:
        print(
            json_text(
                {
                    "master_key": done.current,
                    "retired": done.retired,
                    "rewrapped": done.rewrapped,
                    "left": done.left,
                    "sealed": done.sealed,
                }
            )
        )
        return
    print(
        f"Master key {done.current} wraps now; {done.rewrapped} families were rewrapped, "
        f"{', '.join(done.retired)} may be forgotten."
    )
    if done.sealed:
        print(f"{done.sealed} kernels that an older Esper had left in the clear are sealed now.")
    if done.left:
        print(
            f"{done.left} families are wrapped by master keys that are not at hand; they "
            "are as they were."
        )
