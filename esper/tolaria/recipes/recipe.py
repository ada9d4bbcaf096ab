"""Recipes: what to train and how, as validated TOML.

Unknown keys are refused with the nearest right one.
"""

from __future__ import annotations

import difflib
import importlib
import json
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from math import isfinite
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_serializer,
    model_validator,
)

from esper.blame import mistake
from esper.errors import UsageError
from esper.lifecycle import Guardrails
from esper.plugins import OPTIMIZERS, SCHEDULES, names_in
from esper.policies import require_settings

OWN_LOOP: Final = "own.loop:model"
"""The model of a run in a user's own loop, whose loop and data are not Esper's."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RunSection(_Section):
    """The loop."""

    seed: int = Field(
        default=0,
        ge=0,
        le=(1 << 63) - 1,
        description="random seed: model, batch order, dropout, policy",
    )
    order: int = Field(
        default=0,
        ge=0,
        le=(1 << 63) - 1,
        description=(
            "variant of the batch order; 0 is the seed's own, `esper whatif` repeats with others"
        ),
    )
    epochs: int = Field(default=100, ge=1, description="passes over the training split")
    batch_size: int = Field(
        default=100,
        ge=1,
        description="samples a step; the last, smaller batch of an epoch is left out",
    )
    threads: int = Field(default=1, ge=1, le=1024, description="intra-operation threads of torch")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="cpu", description="auto takes a GPU where there is one"
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32",
        description=(
            "of forward passes, by autocast; parameters stay in float32, and float16 scales "
            "the loss"
        ),
    )
    accumulate: int = Field(
        default=1,
        ge=1,
        description=(
            "micro-batches that a step is split into; batch_size stays the samples of a step"
        ),
    )
    channels_last: bool = Field(
        default=False, description="memory format of images [batch, channels, height, width]"
    )

    @model_validator(mode="after")
    def _every_micro_batch_has_samples(self) -> RunSection:
        if self.accumulate > self.batch_size:
            raise ValueError(
                f"run.accumulate = {self.accumulate} is more than the {self.batch_size} "
                "samples of a step; lower it."
            )
        return self


def _passable(arguments: Any) -> Any:
    """Refuse in a sentence what a union of types would refuse once for each of them."""
    for key, value in arguments.items() if isinstance(arguments, Mapping) else ():
        for one in value if isinstance(value, list) else [value]:
            plain = isinstance(one, bool | int | str) or (isinstance(one, float) and isfinite(one))
            if not plain:
                raise ValueError(
                    f"The argument {key} = {one!r} cannot be passed on: arguments are finite "
                    "numbers, texts, true or false, and lists of these."
                )
    return arguments


Arguments = Annotated[
    dict[str, bool | int | float | str | list[bool | int | float | str]],
    BeforeValidator(_passable),
]
"""What a recipe passes on to an optimizer or schedule."""
_PART: Final = r"^(?:[A-Za-z_][\w.-]*|[\w.]+:\w+)$"


class GroupSection(_Section):
    """Parameters of the host with a learning rate or weight decay of their own."""

    match: tuple[str, ...] = Field(
        min_length=1, description="patterns of parameter names, such as *.bias"
    )
    learning_rate: float | None = Field(default=None, gt=0)
    weight_decay: float | None = Field(default=None, ge=0)


class TaskSection(_Section):
    """What is optimised. `task = "regression"` is short for a section with that name alone."""

    name: str = Field(
        default="classification",
        pattern=r"^(?:[a-z][a-z0-9_]*|[\w.]+:\w+)$",
        description=(
            "classification, multi_label, regression, language_model, a task of an installed "
            "package, or module:name of an esper.Task"
        ),
    )
    label_smoothing: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="the part of each label that is spread over all classes",
    )
    class_weights: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        default=(), description="of a classification: the weight of each class in the loss"
    )
    shift: bool = Field(
        default=False,
        description="of a language model: the labels are the inputs, one position too early",
    )

    @property
    def arguments(self) -> dict[str, Any]:
        """What is not as it is by itself, by key."""
        return {
            key: getattr(self, key)
            for key, one in type(self).model_fields.items()
            if key != "name" and getattr(self, key) != one.default
        }

    @model_serializer
    def _short(self) -> str | dict[str, Any]:
        # a name alone stays one: so journals of before and now say the same task alike
        return {"name": self.name, **self.arguments} if self.arguments else self.name


def _named(task: Any) -> Any:
    return {"name": task} if isinstance(task, str) else task


class OptimizerSection(_Section):
    """The host's optimizer. Kernels have AdamW, with the settings of `kernels`."""

    name: str = Field(
        default="AdamW",
        pattern=_PART,
        description=(
            "a class of torch.optim, an optimizer of an installed package, or module:name of a "
            "class or of a function that makes one of parameter groups"
        ),
    )
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float | None = Field(
        default=None, ge=0, description="left out, it is the optimizer's own default"
    )
    clip_norm: float = Field(
        default=0.0,
        ge=0,
        description="largest Euclidean norm of the host's gradient; 0 leaves it alone",
    )
    arguments: Arguments = Field(
        default_factory=dict, description="passed on to the optimizer, such as momentum"
    )
    groups: tuple[GroupSection, ...] = Field(
        default=(), description="the first whose pattern matches has a parameter"
    )


class ScheduleSection(_Section):
    """The factor of all learning rates, host's and kernels', at a step."""

    name: str = Field(
        default="cosine",
        pattern=_PART,
        description=(
            "cosine, linear, constant, a class of torch.optim.lr_scheduler, a schedule of an "
            "installed package, or module:name of a function of step and total steps"
        ),
    )
    warmup_steps: int = Field(
        default=0, ge=0, description="steps over which the rates rise linearly, before the schedule"
    )
    arguments: Arguments = Field(
        default_factory=dict, description="passed on to the schedule, such as final"
    )


class KasminaSection(_Section):
    """Which layers get seeds."""

    seeds: int = Field(default=4, ge=1)
    chunk: int = Field(
        default=1,
        ge=1,
        description="the fewest output channels of a chunk: too narrow layers get fewer seeds",
    )
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()


class KernelsSection(_Section):
    """How kernels are optimised and blended; meanings in `esper.kasmina.KernelTraining`."""

    learning_rate: float = Field(default=5e-3, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    warmup_steps: int = Field(default=20, ge=0)
    clip_norm: float = Field(default=1.0, gt=0)
    blend_steps: int = Field(default=200, ge=1)
    shadow_passes: int = Field(
        default=1,
        ge=1,
        description="TRAINING seeds that a step gives a shadow pass to; more of them take turns",
    )


class CacheSection(_Section):
    """The kernel cache: limits of its tiers, 1 MiB being 1,048,576 bytes."""

    entries: int = Field(default=128, ge=1, description="most kernels in memory")
    memory_mib: int = Field(default=512, ge=1, description="most MiB of kernels in memory")
    layer_mib: int = Field(
        default=128, ge=1, description="most MiB in memory of the kernels that one layer used"
    )
    disk_mib: int = Field(
        default=2048,
        ge=0,
        description="most MiB on the disk that all runs share; 0 keeps nothing there",
    )
    prefetch: int = Field(
        default=32,
        ge=0,
        description="kernels of a packet's catalogue that are fetched before anyone asks; 0: none",
    )


class GatesSection(_Section):
    """When a seed goes from stage to stage by itself."""

    min_training_steps: int = Field(
        default=150, ge=1, description="shadow steps before the gate to BLENDING may open"
    )
    max_training_steps: int = Field(
        default=500,
        ge=1,
        description="shadow steps after which a seed that has not opened it is culled",
    )
    z: float = Field(
        default=2.0,
        gt=0,
        description="standard errors by which the paired difference must be away from zero",
    )
    min_gap: float = Field(
        default=0.02,
        ge=0,
        description=(
            "nats that a kernel must win on held-out batches at least, however surely it wins less"
        ),
    )
    min_gain: float = Field(
        default=0.0,
        ge=0,
        description=(
            "fraction of the held-out loss that a kernel must win at least, however surely it "
            "wins less"
        ),
    )
    shadow_epochs: int = Field(
        default=2, ge=1, description="validations in SHADOWING before PROBATIONARY"
    )
    embargo_epochs: int = Field(default=3, ge=1, description="epochs that a culled slot rests")


class ValidationSection(_Section):
    """What measuring costs: each epoch has a pass of the model over the held-out split, and one
    without or with each kernel that is not settled.
    """

    samples: int = Field(
        default=0,
        ge=0,
        description="held-out samples that are measured, from the first on; 0 takes all",
    )
    every_epochs: int = Field(
        default=1,
        ge=1,
        description=(
            "epochs between two measurements of the kernels, when gates may move them; the model's "
            "own figures come with each epoch"
        ),
    )


class TamiyoSection(_Section):
    """Whether and how Tamiyo is asked.

    `policy` goes to Tamiyo as it stands: `name` says which policy decides, the other keys are
    settings of that policy (`esper.policies`).
    """

    enabled: bool = True
    consult_timeout_s: float = Field(
        default=2.0, gt=0, le=2.5, description="longest wait for an answer in live mode"
    )
    start_timeout_s: float = Field(
        default=60.0,
        ge=0,
        description="longest wait before the first step, live, for Tamiyo and for first kernels",
    )
    policy: dict[str, int | float | str | bool | list[str]] = Field(default_factory=dict)


class TelemetrySection(_Section):
    """How much is measured."""

    enabled: bool = True
    every_steps: int = Field(
        default=50, ge=1, description="steps between two samples of seed statistics"
    )
    ring: int = Field(
        default=20_000,
        ge=100,
        description="events that wait for the broker before the oldest is dropped and counted",
    )


class CheckpointsSection(_Section):
    """When snapshots are taken: at the beginning of epochs, between steps, after a while, and on
    request; `esper run --resume` goes on from the last one.
    """

    every_epochs: int = Field(
        default=1, ge=0, description="epochs between two snapshots; 0 takes none by epochs"
    )
    every_steps: int = Field(
        default=0,
        ge=0,
        description=(
            "optimizer steps between two snapshots, within epochs too; 0 takes none by steps, "
            "and none waits for another"
        ),
    )
    every_minutes: float = Field(
        default=30.0, gt=0, description="minutes after which one is taken in any case"
    )


class StoppingSection(_Section):
    """When a run ends before its last epoch, by the score of the held-out split, and whether the
    model of its best epoch is kept.
    """

    patience: int = Field(
        default=0,
        ge=0,
        description="epochs in a row without a better score, after which the run ends; 0: never",
    )
    min_change: float = Field(
        default=0.0, ge=0, description="by how much a score has to be better to count"
    )
    keep_best: bool = Field(
        default=False,
        description="keep the model of the epoch with the best score: `esper model RUN --best`",
    )


class Recipe(_Section):
    """A whole recipe."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    model: str = Field(
        pattern=r"^[\w.]+:\w+$", description="module:function that returns the host module"
    )
    data: str = Field(
        pattern=r"^[\w.]+:\w+$",
        description="module:function that returns esper.tolaria.recipes.splits.Splits",
    )
    task: Annotated[TaskSection, BeforeValidator(_named)] = TaskSection()
    decisions: Literal["live", "lockstep"] = "live"
    run: RunSection = RunSection()
    optimizer: OptimizerSection = OptimizerSection()
    schedule: ScheduleSection = ScheduleSection()
    kasmina: KasminaSection = KasminaSection()
    kernels: KernelsSection = KernelsSection()
    cache: CacheSection = CacheSection()
    gates: GatesSection = GatesSection()
    validation: ValidationSection = ValidationSection()
    guardrails: Guardrails = Guardrails()
    tamiyo: TamiyoSection = TamiyoSection()
    telemetry: TelemetrySection = TelemetrySection()
    checkpoints: CheckpointsSection = CheckpointsSection()
    stopping: StoppingSection = StoppingSection()

    @property
    def references(self) -> dict[str, str]:
        """What it names by `module:name`, by key: code that training it runs.

        A part without a colon is Esper's or torch's, or came with a package that the owner has
        installed.
        """
        return references(self.model_dump(mode="json"))

    @property
    def own_loop(self) -> bool:
        """Whether it stands for a loop of a user's own, which has model and data itself."""
        return self.model == OWN_LOOP

    def canonical(self) -> str:
        """Canonical JSON of every value, defaults too."""
        # one spelling for equal recipes: the journal keeps this text
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


NAMING: Final = ("model", "data", "task.name", "optimizer.name", "schedule.name")
"""The values of a recipe that may name code, by `module:name`."""
WITH_ARGUMENTS: Final = {"optimizer.name": OPTIMIZERS, "schedule.name": SCHEDULES}
"""Those whose code is called with arguments of the recipe, with their groups of entry points.

A function that may be called as it stands may do anything with arguments: a model's, told where to
load weights from, runs what it finds there. So it has to be allowed under its key.
"""


def references(values: Mapping[str, Any]) -> dict[str, str]:
    """What the values of a recipe name by `module:name`, by key; names of installed packages too,
    where they are called with arguments.
    """
    by_key = {}
    for key in NAMING:
        *sections, leaf = key.split(".")
        section: Any = values
        for name in sections:
            section = section.get(name) if isinstance(section, Mapping) else None
        section = _named(section) if sections == ["task"] else section
        value = section.get(leaf) if isinstance(section, Mapping) else None
        if isinstance(value, str) and (
            ":" in value or (key in WITH_ARGUMENTS and value in names_in(WITH_ARGUMENTS[key]))
        ):
            by_key[key] = value
    return by_key


def names() -> tuple[str, ...]:
    """The recipes that come with Esper."""
    folder = resources.files("esper.tolaria.recipes")
    return tuple(
        sorted(
            entry.name.removesuffix(".toml")
            for entry in folder.iterdir()
            if entry.name.endswith(".toml")
        )
    )


def text(name: str) -> str:
    """The TOML of a recipe that comes with Esper, or of a file.

    Raises:
        UsageError: neither exists.
    """
    if name in names():
        file = resources.files("esper.tolaria.recipes").joinpath(f"{name}.toml")
        return file.read_text(encoding="utf-8")
    try:
        path = Path(name).expanduser()
        if path.is_dir():
            raise UsageError(f"{name} is a folder; name a recipe's file in it.")
        if path.is_file():
            # TOML is UTF-8, whatever the locale
            return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{name} is not UTF-8 at byte {error.start}; save it as UTF-8, as TOML is."
        ) from None
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(f"{name} cannot be read as a recipe: {error}.") from None
    near = difflib.get_close_matches(name, names(), n=1)
    hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(names())}."
    raise UsageError(f"There is no recipe or file {name}. {hint}")


def folder_of(name: str) -> Path | None:
    """The folder of a recipe's file, in which its modules may lie; None for one of Esper's own."""
    return None if name in names() else Path(name).expanduser().resolve().parent


def load(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe by name or file, with `section.key=value` overrides (values as in TOML.

    A bare word is a string).

    Raises:
        UsageError: no such recipe, broken TOML, an unknown key, or a value of the wrong type.
    """
    try:
        raw = tomllib.loads(text(name))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{name} is not valid TOML: {error}.") from error
    return overridden(raw, overrides)


def overridden(raw: dict[str, Any], overrides: Sequence[str]) -> Recipe:
    """The recipe of these values with overrides as `load` takes them; `raw` is changed.

    Raises as `load` does.
    """
    for override in overrides:
        _override(raw, override)
    return validated(raw)


def validated(raw: Mapping[str, Any]) -> Recipe:
    """The recipe of these values, for a run that is to begin.

    Raises:
        UsageError: an unknown key or policy, or a value of the wrong type.
    """
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        raise UsageError(_sentence(error)) from None
    # here and not in the model: a journal is read and replayed without the policy that decided
    require_settings(recipe.tamiyo.policy)
    return recipe


def _override(raw: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator or not key.strip():
        raise UsageError(f"--set takes section.key=value, not {override!r}.")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        # a bare word: the shell has eaten its quotes
        parsed = value
    *sections, leaf = key.strip().split(".")
    target = raw
    if sections == ["task"] and "task" in raw:
        raw["task"] = _named(raw["task"])
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise UsageError(f"--set {key}: {section} is a value, not a section.")
    target[leaf] = parsed


def _keys(path: Sequence[Any]) -> list[str]:
    """The keys that are right at `path`."""
    section: Any = Recipe
    for part in path:
        field = (
            section.model_fields.get(part)
            if isinstance(section, type) and issubclass(section, BaseModel)
            else None
        )
        section = field.annotation if field else None
    return (
        list(section.model_fields)
        if isinstance(section, type) and issubclass(section, BaseModel)
        else []
    )


def _sentence(error: ValidationError) -> str:
    """One sentence about the first thing that is wrong."""
    first = error.errors()[0]
    *section, key = first["loc"]
    dotted = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known_keys = _keys(section)
        near = difflib.get_close_matches(str(key), known_keys, n=1)
        everywhere = [
            f"{name}.{leaf}"
            for name, field in Recipe.model_fields.items()
            for leaf in _keys([name])
            if field
        ] + list(Recipe.model_fields)
        elsewhere = [name for name in everywhere if name.rsplit(".", 1)[-1] == str(key)]
        place = ".".join(str(part) for part in section)
        if near:
            hint = f"Did you mean {f'{place}.' if place else ''}{near[0]}?"
        elif elsewhere:
            hint = f"Did you mean {elsewhere[0]}?"
        else:
            hint = f"Known keys here: {', '.join(known_keys)}."
        return f"Unknown key {dotted}. {hint}"
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    if first["type"] == "missing":
        return f"The recipe lacks {dotted}; add it."
    return (
        f"{dotted} = {first.get('input')!r} does not fit: "
        f"{first['msg'][0].lower()}{first['msg'][1:]}."
    )


@cache
def shipped() -> frozenset[str]:
    """The functions that the recipes of Esper itself name: no others of its modules are meant to be
    called by a name in a file.
    """
    return frozenset(
        reference
        for name in names()
        for own in (load(name),)
        for reference in (own.model, own.data)
    )


@dataclass(frozen=True, slots=True)
class Permit:
    """Which functions may be called by the names that a recipe has for them: those of Esper's own
    recipes, and `names`.

    `every` is for whoever named the recipe himself; a recipe out of a journal has been named by
    whoever wrote that. `folder` is the one of the recipe's file, whose modules are found behind
    those on the path.
    """

    names: frozenset[str] = frozenset()
    every: bool = False
    folder: Path | None = None

    def covers(self, reference: str, key: str) -> bool:
        """Whether this function may be called for what a recipe has under `key`."""
        if self.every:
            return True
        if key in WITH_ARGUMENTS:
            return allowance(reference, key) in self.names
        return reference in self.names or reference in shipped()


def allowance(reference: str, key: str) -> str:
    """What `--allow` takes so that a function may be called for what a recipe has under `key`."""
    return f"{key}={reference}" if key in WITH_ARGUMENTS else reference


OWNER: Final = Permit(every=True)
"""The permit of a recipe that the user names on the command line."""


def require_permit(reference: str, key: str, permit: Permit) -> None:
    """Make sure that `permit` covers a function.

    Raises:
        UsageError: it does not.
    """
    if not permit.covers(reference, key):
        raise UsageError(
            f"{key} = {reference!r} names a function that is not Esper's own; allow it "
            f"with --allow {allowance(reference, key)}."
        )


def function(reference: str, key: str, permit: Permit) -> Callable[[], Any]:
    """The function that `module:function` names.

    Nothing is imported before it is clear that it may be.

    Raises:
        UsageError: there is none, or `permit` does not cover it.
    """
    # before the import, which runs the module's code
    require_permit(reference, key, permit)
    if reference.startswith(".") or ".." in reference:
        raise UsageError(
            f"{key} = {reference!r} has no module before the colon: give its full name."
        )
    module, _, attribute = reference.partition(":")
    _reach(permit.folder)
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{key} = {reference!r}: module {error.name} cannot be imported; put it beside the "
            "recipe or on PYTHONPATH, or correct the name."
        ) from error
    # importing runs the module's code, which may raise anything
    except (Exception, SystemExit) as error:
        raise mistake(f"{key} = {reference!r}: importing {module}", error) from error
    _require_own(imported, key, reference, permit.folder)
    if not hasattr(imported, attribute):
        near = difflib.get_close_matches(attribute, vars(imported), n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UsageError(
            f"{key} = {reference!r}: module {module} has no function {attribute}.{hint}"
        )
    target: Callable[[], Any] = getattr(imported, attribute)
    if key in ("model", "data") and not callable(target):
        raise UsageError(
            f"{key} = {reference!r} is {type(target).__name__}, and must be a function without "
            "arguments."
        )
    return target


def _reach(folder: Path | None) -> None:
    """Let modules in a folder be imported, until this process ends: a user's function may import
    others of them when it is called.
    """
    # behind all others: a file beside a recipe replaces no module of Python or of a package
    if folder is not None and str(folder) not in sys.path:
        sys.path.append(str(folder))


def _require_own(imported: ModuleType, key: str, reference: str, folder: Path | None) -> None:
    """Refuse another module than the one beside the recipe that has its name."""
    name, place = imported.__name__, getattr(imported, "__file__", None)
    own = [] if folder is None else [folder / f"{name}.py", folder / name / "__init__.py"]
    for path in own:
        if path.is_file() and (place is None or not path.samefile(place)):
            raise UsageError(
                f"{key} = {reference!r}: {path} is hidden by {place or 'a module of Python'}; "
                "rename one of them."
            )
