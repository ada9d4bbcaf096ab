"""Optimizers of the host: which one a recipe names, the parameter groups that it gets, and what a
snapshot keeps of it beside tensors.

A maker is a class of `torch.optim`, or a function `make(groups, **arguments)`: `groups` are what
every torch optimizer takes, dictionaries with `params`, `param_names`, `lr` and, where the recipe
says one, `weight_decay`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from esper.blame import located
from esper.errors import UsageError, printable
from esper.kasmina import GrowingModel
from esper.kasmina.adamw import EagerAdamW
from esper.kasmina.seeded.hosts import matches
from esper.plugins import OPTIMIZERS, plugged_functions
from esper.tolaria.recipes.recipe import OptimizerSection, Permit
from esper.tolaria.step.named_parts import part_of, require_types, signature_of

MakeOptimizer = Callable[..., Optimizer]
UNSUITED: Final = {
    "LBFGS": "cannot train here: it asks for the loss several times a step, and a step has one.",
    "SparseAdam": (
        "cannot train here: it takes sparse gradients alone, and layers that grow have dense ones."
    ),
}
"""Classes of torch.optim that cannot move a host, and why."""
_OWN_KEYS: Final = {"lr": "optimizer.learning_rate", "weight_decay": "optimizer.weight_decay"}
_MOVED: Final = ("params", "param_names", "lr")
"""Keys of a group that are no state: parameters have tensors, and the schedule gives the rate."""
_TORCHS: Final = frozenset({"_opt_called", "_zero_grad_profile_name"})
"""Attributes that torch's schedulers and profiler set."""
_SCALARS: Final = (bool, int, float, str, type(None))


@cache
def own() -> Mapping[str, MakeOptimizer]:
    """The optimizers of torch, by name."""
    makers: dict[str, MakeOptimizer] = {
        name: kind
        for name, kind in vars(torch.optim).items()
        if isinstance(kind, type) and issubclass(kind, Optimizer) and name not in UNSUITED
    }
    # the base class has no step of its own
    del makers["Optimizer"]
    # the same bits as torch's, without the compiler that torch's would import
    makers["AdamW"] = EagerAdamW
    return makers


@cache
def known() -> Mapping[str, MakeOptimizer]:
    """The optimizers of torch and of installed packages, by name.

    Raises:
        UsageError: a package's cannot be used; the package is named.
    """
    # unsuited names stay taken: a package's optimizer of that name would be refused by the recipe
    return {**own(), **plugged_functions(OPTIMIZERS, own().keys() | UNSUITED.keys())}


def optimizer_of(name: str, permit: Permit) -> MakeOptimizer:
    """The maker that a recipe names: one of `known`, or `module:attribute`.

    Raises:
        UsageError: there is none of the name, it cannot be called, it cannot move a host, or
            `permit` does not cover it.
    """
    return part_of(
        "optimizer",
        name,
        permit,
        own=own(),
        known=known,
        unsuited=UNSUITED,
        wanted="a class of an optimizer, or a function that makes one of parameter groups",
    )


def host_optimizer(
    growing: GrowingModel, settings: OptimizerSection, make: MakeOptimizer
) -> Optimizer:
    """The optimizer of the host's parameters, made by `make` of the recipe's groups.

    Raises:
        UsageError: a pattern matches no parameter, or `make` does not take the arguments, raises,
            gives something else, or gives an optimizer that Esper cannot step or restore.
    """
    if not growing.host_parameters:
        raise UsageError("Every parameter of the model is frozen: let one have requires_grad.")
    groups = groups_of(growing, settings)
    arguments = {
        # TOML and JSON have no tuples, and torch demands them for betas
        key: tuple(value) if isinstance(value, list) else value
        for key, value in settings.arguments.items()
    }
    for key in arguments.keys() & _OWN_KEYS.keys():
        raise UsageError(f"optimizer.arguments has {key}: it is {_OWN_KEYS[key]} in a recipe.")
    require_types("optimizer", settings.name, make, arguments)
    # a function sets its own defaults; a class of torch may demand a learning rate
    if isinstance(make, type):
        arguments |= _defaults(make, settings, groups)
    _rehearse(settings.name, make, groups, arguments)
    optimizer = _called(settings.name, make, groups, arguments)
    _check(settings.name, optimizer, groups)
    return optimizer


def groups_of(growing: GrowingModel, settings: OptimizerSection) -> list[dict[str, Any]]:
    """The parameter groups of a recipe: what no pattern matches first, then a group for each entry
    of `optimizer.groups`. A parameter is in the first whose pattern matches its name.

    Raises:
        UsageError: a group is left without a parameter.
    """
    members: list[dict[str, nn.Parameter]] = [{} for _ in range(len(settings.groups) + 1)]
    names = {
        # by identity: `==` on tensors compares elements. A tied parameter has its first name alone
        id(parameter): name
        for name, parameter in growing.module.named_parameters(remove_duplicate=True)
    }
    for parameter in growing.host_parameters:
        name = names[id(parameter)]
        place = next(
            (
                number
                for number, group in enumerate(settings.groups, start=1)
                if name in group.match or matches(name, group.match)  # names may have brackets
            ),
            0,
        )
        members[place][name] = parameter
    for number, (group, own) in enumerate(zip(settings.groups, members[1:], strict=True)):
        if not own:
            trained = [names[id(parameter)] for parameter in growing.host_parameters]
            raise UsageError(
                f"optimizer.groups[{number}] matches no parameter with {', '.join(group.match)} "
                "that is trained and that an earlier group has not taken; the model trains "
                f"{_some(trained)}."
            )
    rates = [settings.learning_rate, *(group.learning_rate for group in settings.groups)]
    decays = [settings.weight_decay, *(group.weight_decay for group in settings.groups)]
    groups = []
    for own, rate, decay in zip(members, rates, decays, strict=True):
        decayed = settings.weight_decay if decay is None else decay
        groups.append(
            {
                "params": list(own.values()),
                "param_names": list(own),
                "lr": settings.learning_rate if rate is None else rate,
                **({} if decayed is None else {"weight_decay": decayed}),
            }
        )
    return [group for group in groups if group["params"]]


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _defaults(
    kind: type, settings: OptimizerSection, groups: list[dict[str, Any]]
) -> dict[str, float]:
    """What a class is told beside the groups: some demand a learning rate that no group sets."""
    takes = signature_of("optimizer", settings.name, kind).parameters
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in takes.values()):
        return {"lr": settings.learning_rate}
    # a torch optimizer takes any key in a group, and does nothing with it
    if "lr" not in takes:
        raise UsageError(
            f"optimizer.name = {settings.name!r} takes no lr, so that no learning rate could reach "
            "it: name another optimizer, or a function that makes this one."
        )
    if "weight_decay" not in takes and any("weight_decay" in group for group in groups):
        raise UsageError(
            f"optimizer.name = {settings.name!r} takes no weight_decay: leave "
            "optimizer.weight_decay out, or name another optimizer."
        )
    return {"lr": settings.learning_rate}


def _rehearse(
    name: str,
    make: MakeOptimizer,
    groups: list[dict[str, Any]],
    arguments: Mapping[str, Any],
) -> None:
    """Step an optimizer of copies once: what raises there, or keeps what no snapshot can hold, is
    refused before the run has begun.
    """
    copies = [_sample(group) for group in groups]
    # an optimizer may draw noise: the run's own streams are not moved by a rehearsal
    with torch.random.fork_rng():
        optimizer = _called(name, make, copies, arguments)
        _check(name, optimizer, copies)
        for group in copies:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        state, before = HostState(name, optimizer), _figures(optimizer)
        try:
            optimizer.step()
        except Exception as error:
            raise UsageError(
                f"optimizer.name = {name!r} cannot step with these arguments "
                f"({type(error).__name__}: {printable(str(error))}){located(error)}: change "
                "optimizer.arguments, or name another."
            ) from error
    state.state_dict()
    moved = sorted(key for key, value in _figures(optimizer).items() if before.get(key) != value)
    if moved:
        raise UsageError(
            f"optimizer.name = {name!r} counts in its attribute {moved[0]}, which no snapshot can "
            "hold: let it keep that in its groups or in the state of a parameter."
        )


def _sample(group: Mapping[str, Any]) -> dict[str, Any]:
    """Copies of a group's smallest parameters, one of each kind: those of all, with their gradients
    and state, might not fit beside the model.
    """
    smallest: dict[tuple[int, torch.dtype, torch.device], tuple[str, nn.Parameter]] = {}
    for name, one in zip(group["param_names"], group["params"], strict=True):
        kind = (one.dim(), one.dtype, one.device)
        if kind not in smallest or one.numel() < smallest[kind][1].numel():
            smallest[kind] = (name, one)
    return {
        **group,
        "params": [nn.Parameter(one.detach().clone()) for _, one in smallest.values()],
        "param_names": [name for name, _ in smallest.values()],
    }


def _figures(optimizer: Optimizer) -> dict[str, Any]:
    """An optimizer's own figures: torch's own hold nothing there that a step moves."""
    return {
        key: value
        for key, value in vars(optimizer).items()
        if isinstance(value, bool | int | float | str) and key not in _TORCHS
    }


def _called(
    name: str, make: MakeOptimizer, groups: list[dict[str, Any]], arguments: Mapping[str, Any]
) -> Optimizer:
    try:
        # before the call: a TypeError from inside the optimizer is no wrong argument
        signature_of("optimizer", name, make).bind(groups, **arguments)
    except TypeError as error:
        raise UsageError(f"optimizer.arguments does not fit {name}: {error}.") from None
    try:
        # torch fills the groups that it is given
        optimizer = make([dict(group) for group in groups], **arguments)
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"optimizer.name = {name!r} refuses the model's parameters or optimizer.arguments "
            f"({type(error).__name__}: {printable(str(error))}){located(error)}: change "
            "optimizer.arguments or optimizer.groups, or name another."
        ) from error
    if not isinstance(optimizer, Optimizer):
        raise UsageError(
            f"optimizer.name = {name!r} gave {type(optimizer).__name__}, and must give a "
            "torch.optim.Optimizer."
        )
    return optimizer


def _check(name: str, optimizer: Optimizer, groups: list[dict[str, Any]]) -> None:
    """Refuse what could not be stepped, would move what is not the host's, or leaves some of it."""
    closure = next(iter(inspect.signature(optimizer.step).parameters.values()), None)
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise UsageError(
            f"optimizer.name = {name!r} cannot train here: its step asks for a closure, and "
            "a step has one loss."
        )
    # a parameter that is not the host's is in no snapshot: stepping it could not be replayed
    given = {id(parameter) for group in groups for parameter in group["params"]}
    if {id(one) for one in _parameters(optimizer)} != given:
        raise UsageError(
            f"optimizer.name = {name!r} has other parameters than the groups it was given; let it "
            "take all of those and no others, and freeze what is not to be trained."
        )
    for group in optimizer.param_groups:
        rate = group.get("lr")
        # some optimizers take a tensor: the schedule assigns a number, which would replace it
        if isinstance(rate, bool) or not isinstance(rate, int | float):
            raise UsageError(
                f"optimizer.name = {name!r} has a group whose lr is {type(rate).__name__}: the "
                "schedule needs a number there."
            )
        if not 0 < rate < math.inf:
            raise UsageError(
                f"optimizer.name = {name!r} has a group whose lr is {rate}: a learning rate is "
                "above 0."
            )


class HostState:
    """What an optimizer holds beside tensors of the size of parameters, as JSON: figures in its
    state, values of its groups that it moves, and tensors that are not where others are.

    For torch's AdamW it is empty, and so is not in a snapshot.
    """

    def __init__(self, name: str, optimizer: Optimizer) -> None:
        self._name = name
        self._optimizer = optimizer
        # compared with later: only values that the optimizer moved by itself go into a snapshot
        self._first = [
            {key: self._storable(key, value) for key, value in _values(group)}
            for group in optimizer.param_groups
        ]

    def state_dict(self) -> dict[str, Any]:
        """Its state now.

        Raises:
            UsageError: it holds something that is neither a tensor nor a figure.
        """
        strangers = self._optimizer.state.keys() - set(_parameters(self._optimizer))
        if strangers:
            raise UsageError(
                f"optimizer.name = {self._name!r} keeps state under {strangers.pop()!r}, which is "
                "no parameter, so no snapshot can hold it: let it keep that with a parameter."
            )
        figures: dict[str, Any] = {}
        devices: dict[str, str] = {}
        for number, key, value, parameter in self._state():
            if not isinstance(value, Tensor):
                figures[f"{number}/{key}"] = self._storable(key, value)
            elif not isinstance(key, str):
                self._storable(key, value)
            elif value.device != _usual(key, parameter):
                devices[f"{number}/{key}"] = str(value.device)
        groups = {
            f"{number}/{key}": value
            for number, group in enumerate(self._optimizer.param_groups)
            for key, value in ((key, self._storable(key, one)) for key, one in _values(group))
            if key not in self._first[number] or value != self._first[number][key]
        }
        notes = {"figures": figures, "devices": devices, "groups": groups}
        return {kind: values for kind, values in notes.items() if values}

    def load_state_dict(self, notes: Mapping[str, Any]) -> None:
        """Make it what `state_dict` gave; the tensors of its state are there already."""
        for group, first in zip(self._optimizer.param_groups, self._first, strict=True):
            # a snapshot omits what had not moved, so all values go back first
            group.update({key: _loaded(value) for key, value in first.items()})
        for name, value in notes.get("groups", {}).items():
            number, _, key = name.partition("/")
            group = self._optimizer.param_groups[int(number)]
            group[key] = _loaded(value)
        parameters = _parameters(self._optimizer)
        for name, value in notes.get("figures", {}).items():
            number, _, key = name.partition("/")
            self._optimizer.state[parameters[int(number)]][key] = _loaded(value)
        for name, device in notes.get("devices", {}).items():
            number, _, key = name.partition("/")
            state = self._optimizer.state[parameters[int(number)]]
            # the tensors were restored beside their parameters, and this one was not there
            state[key] = state[key].to(device)

    def _state(self) -> Iterator[tuple[int, Any, Any, nn.Parameter]]:
        for number, parameter in enumerate(_parameters(self._optimizer)):
            for key, value in self._optimizer.state.get(parameter, {}).items():
                yield number, key, value, parameter

    def _storable(self, key: object, value: object) -> object:
        kind = type(value).__name__
        parts = value if isinstance(value, tuple | list) else (value,)
        if isinstance(key, str) and all(isinstance(part, _SCALARS) for part in parts):
            return {kind: list(parts)} if isinstance(value, tuple | list) else value
        raise UsageError(
            f"optimizer.name = {self._name!r} keeps {key}, of type {kind}, which "
            "no snapshot can hold: let it keep tensors in its state, and figures in its groups."
        )


def _values(group: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The values of a group that an optimizer may move by itself."""
    yield from ((key, value) for key, value in group.items() if key not in _MOVED)


def _loaded(value: Any) -> Any:
    """What `_storable` made JSON of: that has lists where Python has tuples."""
    if not isinstance(value, dict):
        return value
    ((kind, parts),) = value.items()
    return tuple(parts) if kind == "tuple" else list(parts)


def _parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _usual(key: str, parameter: nn.Parameter) -> torch.device:
    """Where a snapshot puts a tensor of that name back: torch's counts of steps are on the host."""
    return torch.device("cpu") if key == "step" else parameter.device
