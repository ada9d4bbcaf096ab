"""What a recipe may say to Tamiyo's policies: their names and the settings of each.

Trainers refuse a wrong setting before a run costs anything, and Tamiyo reads the same settings in
packets. So they stand here, where both may import them; what decides stands in
`esper_processors.tamiyo.deciding`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from esper.errors import UsageError, printable
from esper.lifecycle import Guardrails
from esper.plugins import BANDITS, POLICIES, names_in, together

P = TypeVar("P", bound="PolicySpec")
_ACCEPTED: Final = Guardrails()  # what the trainer accepts by default
DEFAULT: Final = "thompson-schedule"
"""The policy of a recipe that names none."""
OWN_BANDITS: Final = ("thompson", "ucb", "epsilon-greedy", "performance-weighted")
"""Esper's own bandits; packages bring others."""


class CommonSettings(BaseModel):
    """What a recipe may set whatever policy it names: what kernels are asked for, and when Tamiyo
    sends a run back.

    Settings of a policy derive from it. Values are numbers, texts, truth values or lists of texts,
    and each has a default.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(default=DEFAULT, description="the policy that decides")
    version: str = Field(
        default="",
        max_length=200,
        description=(
            "version of the policy; part of the key of its randomness; empty: the policy's own"
        ),
    )
    parameter_budget: int = Field(
        default=20000, ge=1, description="largest number of parameters of one kernel"
    )
    families: tuple[str, ...] = Field(
        default=(), description="blueprint families to try; empty means all"
    )
    emergency_ratio: float = Field(
        default=2.0,
        ge=0,
        description=(
            "a validation loss above this multiple of its recent best, plus 1 nat, is out of "
            "bounds; 0: no emergency"
        ),
    )
    emergency_window: int = Field(
        default=10, ge=1, description="packets within bounds among which the recent best is sought"
    )
    emergency_packets: int = Field(
        default=2,
        ge=1,
        description=(
            "packets out of bounds in a row that are an emergency; one that is not finite is "
            "at once"
        ),
    )
    emergency_limit: int = Field(default=3, ge=0, description="times that a run may be sent back")


class ScheduleSettings(CommonSettings):
    """When the policy `thompson-schedule` germinates, how much at once, and what it must be sure
    of.

    Epochs and steps are the trainer's.
    """

    bandit: str = Field(
        default="thompson",
        description=(
            "how an arm is chosen: thompson, ucb, epsilon-greedy, performance-weighted, or a "
            "bandit of an installed package"
        ),
    )
    first_epoch: int = Field(
        default=5, ge=0, description="epochs completed before the first germination"
    )
    first_fraction: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="no germination before this fraction of the foreseen steps",
    )
    every_epochs: int = Field(
        default=3, ge=1, description="epochs between two occasions to germinate"
    )
    last_fraction: float = Field(
        default=0.6,
        ge=0,
        le=1,
        description="no germination after this fraction of the foreseen steps",
    )
    max_active: int = Field(
        default=4, ge=0, description="seeds that hold a kernel and are not fossilised yet, at most"
    )
    max_training: int = Field(
        default=2, ge=0, description="seeds in GERMINATED or TRAINING at most"
    )
    min_confidence: float = Field(
        default=_ACCEPTED.confidence,
        ge=0,
        le=1,
        description="a command needs more confidence than this",
    )
    min_urgency: float = Field(
        default=_ACCEPTED.urgency,
        ge=0,
        le=1,
        description="a germination needs more urgency than this",
    )
    fossilise_after_epochs: int = Field(
        default=3, ge=0, description="epochs in PROBATIONARY before a kernel may be kept"
    )
    cull_training_after_steps: int = Field(
        default=0,
        ge=0,
        description=(
            "shadow-pass steps before a kernel that promises too little may be culled early"
        ),
    )

    @field_validator("bandit")
    @classmethod
    def _there_is_such_a_bandit(cls, value: str) -> str:
        """Only names are compared: a trainer loads no bandit."""
        known = sorted({*OWN_BANDITS, *names_in(BANDITS)})
        if value not in known:
            shown = printable(value[:200])
            raise ValueError(f"There is no bandit {shown!r}; {_nearest(shown, known, BANDITS)}")
        return value


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """What a recipe may say of a policy.

    Attributes:
        name: What recipes call it.
        version: What decisions and their evidence call it, such as `mine-2`; another whenever it
            may decide otherwise.
        settings: The class of its settings.

    Raises:
        UsageError: the name or version is empty, or settings are not derived from `CommonSettings`
            with a default for each.
    """

    name: str
    version: str
    settings: type[CommonSettings]

    def __post_init__(self) -> None:
        """Refuse what no packet could name or no recipe leave out."""
        if not self.name or not self.version or len(self.version) > 200:
            raise UsageError(
                f"A policy needs a name and a version of at most 200 characters, not {self.name!r} "
                f"and {self.version!r}."
            )
        if not (isinstance(self.settings, type) and issubclass(self.settings, CommonSettings)):
            raise UsageError(
                f"The settings of policy {self.name} have to be a class that derives from "
                "esper.policies.CommonSettings."
            )
        # a recipe may leave every setting out, so a required one would refuse recipes that name the
        # policy
        missing = [
            key for key, setting in self.settings.model_fields.items() if setting.is_required()
        ]
        if missing:
            raise UsageError(
                f"The settings of policy {self.name} need a default for {', '.join(missing)}."
            )


SCHEDULE: Final = PolicySpec(DEFAULT, "thompson-2", ScheduleSettings)
"""Esper's own: a schedule of when to germinate, and a bandit over families on layers."""
OWN: Final[Mapping[str, PolicySpec]] = {SCHEDULE.name: SCHEDULE}


def spec_of(section: Mapping[str, Any]) -> PolicySpec:
    """The policy that a recipe's `[tamiyo.policy]` names.

    Packages are loaded only for a name that is none of Esper's.

    Raises:
        UsageError: there is none of the name, or a package's cannot be used.
    """
    name = str(section.get("name", DEFAULT))
    # the default policy must not fail because of a broken package that nobody asked for
    return named(section, OWN if name in OWN else together(POLICIES, PolicySpec, OWN))


def named(section: Mapping[str, Any], known: Mapping[str, P]) -> P:
    """The policy of `known` that a recipe's `[tamiyo.policy]` names.

    Raises:
        UsageError: there is none of the name.
    """
    name = str(section.get("name", DEFAULT))
    if name not in known:
        shown = printable(name[:200])
        raise UsageError(
            f"There is no policy {shown!r}; {_nearest(shown, sorted(known), POLICIES)}"
        )
    return known[name]


def settings_of(section: Mapping[str, Any], spec: PolicySpec) -> CommonSettings:
    """The settings of a policy in `given`; keys that it leaves out have their defaults.

    Raises:
        UsageError: an unknown key (the nearest right one is named), or a value out of range.
    """
    known = list(spec.settings.model_fields)
    # asked before pydantic, whose error for an unknown key does not name the nearest one
    for key in section:
        if key not in known:
            near = get_close_matches(str(key), known, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}."
            raise UsageError(
                f"The policy {spec.name} has no setting {printable(str(key)[:200])!r}; {remedy}"
            )
    try:
        return spec.settings.model_validate(
            # filled in, because the version is part of the key of the randomness
            {**section, "name": spec.name, "version": section.get("version") or spec.version}
        )
    except ValidationError as error:
        raise UsageError(_sentence(error, spec)) from error
    except Exception as error:  # a validator of somebody's package may raise anything
        raise UsageError(
            f"The settings of policy {spec.name} cannot be read ({type(error).__name__}: "
            f"{printable(str(error)[:400])}); mend or uninstall the package that brings it."
        ) from error


def require_settings(section: Mapping[str, Any]) -> None:
    """Make sure that Tamiyo can take what a recipe says to its policy.

    Raises:
        UsageError: as `spec_of` and `settings_of` do.
    """
    settings_of(section, spec_of(section))


def _sentence(error: ValidationError, spec: PolicySpec) -> str:
    first = error.errors()[0]
    if first["type"] == "value_error":
        # a validator of ours, whose sentence is complete
        return str(first["ctx"]["error"])
    key = ".".join(str(part) for part in first["loc"])
    return (
        f"Policy setting {key or spec.name} = {printable(str(first.get('input'))[:200])} does not "
        f"fit: {first['msg'][0].lower()}{first['msg'][1:]}."
    )


def _nearest(name: str, known: list[str], group: str) -> str:
    near = get_close_matches(name, known, n=1)
    if near:
        return f"did you mean {near[0]}?"
    return (
        f"known are {', '.join(known)}; a package that is installed may bring others (entry "
        f"points {group})."
    )
