"""What a recipe names and passes arguments to: found by name, and held against what it takes."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from esper.errors import UsageError, printable
from esper.kasmina.adamw import EagerAdamW
from esper.tolaria.recipes.recipe import WITH_ARGUMENTS, Permit, function, require_permit

Maker = Callable[..., Any]


def part_of(
    section: str,
    name: str,
    permit: Permit,
    *,
    own: Mapping[str, Maker],
    known: Callable[[], Mapping[str, Maker]],
    unsuited: Mapping[str, str],
    wanted: str,
) -> Maker:
    """What the `name` of a recipe's section stands for: `own` has Esper's and torch's, `known`
    gives those of packages too, `unsuited` says why others are refused.

    Raises:
        UsageError: there is none of the name, it cannot be called (`wanted` says what can), it is
            unsuited, or `permit` does not cover it.
    """
    key = f"{section}.name"
    if ":" in name:
        target: Any = function(name, key, permit)
        if not callable(target):
            raise UsageError(f"{key} = {name!r} is {type(target).__name__}: give {wanted}.")
        maker: Maker = target
        return maker
    if name in unsuited:
        raise UsageError(f"{key} = {name!r} {unsuited[name]}")
    if name in own:  # before packages are loaded: a broken one stops only those who name another
        return own[name]
    makers = known()
    if name not in makers:
        near = difflib.get_close_matches(name, makers, n=1, cutoff=0.4)
        raise UsageError(
            f"There is no {section} {name!r}{f'; did you mean {near[0]}?' if near else '.'} There "
            f"are: {', '.join(sorted(makers))}; an installed package may bring others (entry "
            f"points {WITH_ARGUMENTS[key]})."
        )
    require_permit(name, key, permit)
    return makers[name]


def require_types(
    section: str, name: str, make: Callable[..., Any], arguments: Mapping[str, Any]
) -> None:
    """Make sure that no text stands where something else is wanted.

    `--set optimizer.arguments.amsgrad=False` is no TOML, and so a text, which Python takes as true.

    Raises:
        UsageError: one does.
    """
    torch_own = make.__module__.startswith("torch.") or make is EagerAdamW
    parameters = signature_of(section, name, make).parameters
    for key, value in arguments.items():
        texts = [
            one
            for one in (value if isinstance(value, tuple | list) else [value])
            if isinstance(one, str)
        ]
        default = parameters[key].default if key in parameters else inspect.Parameter.empty
        open_ended = default is inspect.Parameter.empty and not torch_own
        if texts and not isinstance(default, str) and not open_ended:
            raise UsageError(
                f"{section}.arguments.{key} = {printable(texts[0])!r} is a text, and {name} wants "
                "something else there: write numbers as they are, and true or false."
            )


def signature_of(section: str, name: str, make: Callable[..., Any]) -> inspect.Signature:
    """What a maker takes.

    Raises:
        UsageError: Python does not know it.
    """
    try:
        return inspect.signature(make)
    except (ValueError, TypeError):
        raise UsageError(
            f"{section}.name = {name!r} does not say what it takes, as classes and functions of "
            "Python do: name one of these."
        ) from None
