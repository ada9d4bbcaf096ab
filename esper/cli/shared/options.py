"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Allow = Annotated[
    list[str] | None,
    typer.Option(
        "--allow",
        metavar="MODULE:FUNCTION",
        help=(
            "A function that a run which was not begun here may call; may be given again. Its "
            "source is shown before."
        ),
    ),
]
