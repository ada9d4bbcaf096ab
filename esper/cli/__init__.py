"""The `esper` command.

Imports nothing heavy until a command needs it: `--help` answers in under 200 ms.
"""

from __future__ import annotations

import os
import sys

import typer

from esper.blame import is_own, mistake
from esper.cli.installation import (
    audit,
    bench,
    dead_letters,
    deploy,
    history,
    kafka,
    keys,
    mcp,
    stack,
    token,
    topics,
)
from esper.cli.runs import (
    fork,
    init,
    model,
    portable,
    recipes,
    replay,
    run,
    run_control,
    runs,
    snapshots,
    whatif,
)
from esper.cli.views import alerts, compare, explain, kernels, page, run_report, watch
from esper.errors import EsperError, UsageError, printable

app = typer.Typer(
    name="esper",
    help="Train PyTorch models that grow while they train, and keep the whole run as events.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich's help takes 300 ms to import
)
for part in (
    run,
    run_control,
    runs,
    init,
    recipes,
    replay,
    fork,
    whatif,
    page,
    watch,
    alerts,
    explain,
    run_report,
    compare,
    kernels,
    snapshots,
    portable,
    history,
    audit,
    dead_letters,
    deploy,
    token,
    keys,
    model,
    kafka,
    stack,
    topics,
    bench,
    mcp,
):
    part.register(app)


def main() -> None:
    """Entry point: a user's error is one sentence and an exit code, never a traceback.

    `--debug` anywhere, or ESPER_DEBUG=1, shows it.
    """
    debug = "--debug" in sys.argv or os.environ.get("ESPER_DEBUG") == "1"
    arguments = _literal([argument for argument in sys.argv[1:] if argument != "--debug"])
    try:
        app(args=arguments)
    except EsperError as error:
        if debug:
            raise
        sys.stderr.write(f"esper: {printable(str(error))}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if debug:
            raise
        if is_own(error):
            sys.stderr.write(f"esper: {printable(str(mistake('Code of your own', error)))}\n")
            sys.exit(UsageError.exit_code)
        sys.stderr.write(
            f"esper: unexpected {type(error).__name__}: {printable(str(error))} This is a "
            "fault in Esper; --debug shows where.\n"
        )
        sys.exit(70)


def _literal(arguments: list[str]) -> list[str]:
    """Arguments in which a query that begins with a comment is no option."""
    if arguments[:1] != ["sql"]:
        return arguments
    comments = [one for one in arguments if one.startswith("--") and len(one.split()) > 1]
    # an option has no blanks in it, unless behind its equals sign
    comments = [one for one in comments if "=" not in one.split()[0]]
    rest = [one for one in arguments if one not in comments]
    return [*rest, "--", *comments] if comments and "--" not in arguments else arguments
