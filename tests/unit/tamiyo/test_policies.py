"""Policies and bandits of other packages: how they come in, what they may be, and that their
mistakes stay their own.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from esper import plugins
from esper import policies as specs
from esper.clock import SystemClock
from esper.errors import EsperError, UnavailableError, UsageError
from esper.events import decode, event_id
from esper.events.records import EpochReviewed, FieldReport, ReviewedCommand
from esper.policies import OWN_BANDITS, CommonSettings, PolicySpec
from esper.tolaria.recipes.recipe import Recipe, load
from esper_processors.tamiyo.answers import PolicyFault, answer
from esper_processors.tamiyo.deciding import bandits, plan, policies
from esper_processors.tamiyo.deciding.bandits import Beta
from esper_processors.tamiyo.deciding.plan import Plan, reviewed
from esper_processors.tamiyo.deciding.policies import Policy
from esper_processors.tamiyo.row import Row
from esper_processors.time_limit import time_limit
from tests.plugins import POLICY, install
from tests.unit.tamiyo.world import Family, World
from tests.waiting import PATIENCE_S

GROUPS = {plugins.POLICIES: {"first-open": "FIRST_OPEN"}, plugins.BANDITS: {"last": "LAST"}}
CONV, MLP = Family("conv1d", 0.2, blend="LERP"), Family("mlp", 0.03)


def small(**policy: Any) -> World:
    """One layer of four seeds and two families."""
    return World({"0": 40}, {"0": (CONV, MLP)}, policy=policy, epoch=3)


@pytest.fixture
def forgotten() -> Iterator[None]:
    """Nothing is remembered of what was installed before, nor afterwards of this."""
    caches = (policies.known, policies.parse, bandits.known)
    for one in caches:
        one.cache_clear()
    yield
    for one in caches:
        one.cache_clear()


@pytest.fixture
def installing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: None
) -> Callable[[str], None]:
    """Install a package of this source beside Esper; each is a module of its own."""

    def put(source: str) -> None:
        monkeypatch.delitem(sys.modules, "esper_first_open", raising=False)
        monkeypatch.syspath_prepend(install(tmp_path / "site", "esper_first_open", source, GROUPS))

    return put


def test_an_installed_policy_decides_under_its_version(installing: Callable[[str], None]) -> None:
    """It is asked by its name with its own settings, its commands are Tamiyo's, and trials, states
    and outcomes go on as with Esper's own.
    """
    installing(POLICY)
    world = small(name="first-open", until_epoch=40)
    for _ in range(60):
        world.turn()
    first = world.answers[0]
    assert (first.policy_version, first.reason) == ("first-open-1", "Takes the first of 2 arms.")
    (command,) = first.commands
    assert (command.command, command.layer, command.seed) == ("GERMINATE", "0", 0)
    assert json.loads(command.evidence) == {"open": 2}
    asked = [one.epoch for one in world.answers if one.commands]
    assert len(asked) >= 4
    assert max(asked) <= 40
    assert {one.reason for one in world.answers if one.epoch > 40} == {"Nothing is open."}
    assert all(seed.stage == "PROBATIONARY" for seed in world.seeds["0"])
    assert len(world.row.state.trials) == 4


def test_a_recipe_may_name_what_is_installed_and_nothing_else(
    installing: Callable[[str], None],
) -> None:
    """Before anything begins: the name, and the keys of that policy's own settings; a key of
    another policy is none of its.
    """
    with pytest.raises(UsageError, match="There is no policy 'first-open'; known are thompson-"):
        load("mnist1d", ['tamiyo.policy={name="first-open"}'])
    with pytest.raises(UsageError, match="There is no bandit 'last'"):
        load("mnist1d", ["tamiyo.policy.bandit=last"])
    installing(POLICY)
    assert load("mnist1d", ["tamiyo.policy.bandit=last"])
    assert load("mnist1d", ['tamiyo.policy={name="first-open", until_epoch=3}'])
    with pytest.raises(UsageError, match="policy first-open has no setting 'max_active'; known"):
        load("mnist1d", ['tamiyo.policy={name="first-open", max_active=3}'])
    with pytest.raises(UsageError, match="did you mean until_epoch"):
        load("mnist1d", ['tamiyo.policy={name="first-open", until_epochs=3}'])


def test_a_journal_is_read_without_the_policy_that_decided() -> None:
    """What a run was begun with is read as it stands, whatever is installed now."""
    wanted = {"name": "gone", "its_setting": 3}
    text = load("mnist1d").model_copy(
        update={"tamiyo": load("mnist1d").tamiyo.model_copy(update={"policy": wanted})}
    )
    assert Recipe.model_validate_json(text.canonical()).tamiyo.policy == wanted


def test_an_installed_bandit_chooses(installing: Callable[[str], None]) -> None:
    """The last arm in order is germinated first, where Esper's own would draw."""
    installing(POLICY)
    for seed in range(8):
        world = replace(small(bandit="last", first_epoch=0, every_epochs=1), run_seed=seed)
        first = world.turn().commands[0]
        assert (first.family, bandits.known()["last"].name) == ("mlp", "last")


def test_trainers_know_the_names_of_esper_s_own() -> None:
    """Trainers load no bandit and no decision: what they compare names with is what there is."""
    assert set(OWN_BANDITS) == set(bandits.OWN)
    assert {name: (one.version, one.settings) for name, one in policies.OWN.items()} == {
        name: (one.version, one.settings) for name, one in specs.OWN.items()
    }


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("import nothing_like_it", r"package esper_first_open .* cannot be loaded \(ModuleNotFo"),
        ("FIRST_OPEN = LAST = 1", "package esper_first_open .* is int, and has to be a Policy"),
        (POLICY.replace('Policy("first-open"', 'Policy("f"'), "package esper_first_open .*for 'f'"),
        (POLICY.replace('"first-open-1"', '""'), "needs a name and a version"),
        (POLICY.replace("Settings, first", "dict, first"), "have to be a class that derives from"),
        (POLICY.replace("int = 1000", "int"), "need a default for until_epoch"),
    ],
)
def test_a_package_that_cannot_be_used_is_named(
    installing: Callable[[str], None], source: str, sentence: str
) -> None:
    """By Tamiyo when it starts, and by whoever asks for a run with its policy."""
    installing(source)
    with pytest.raises(UsageError, match=sentence):
        policies.known()
    with pytest.raises(UsageError, match=sentence.replace("a Policy", "a PolicySpec")):
        load("mnist1d", ['tamiyo.policy={name="first-open"}'])
    assert load("mnist1d")  # nobody else's run is kept from beginning


@pytest.mark.usefixtures("forgotten")
def test_a_package_takes_no_name_of_esper_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a policy's nor a bandit's."""
    source = POLICY.replace('"first-open"', '"thompson-schedule"').replace('"last"', '"ucb"')
    groups = {
        plugins.POLICIES: {"thompson-schedule": "FIRST_OPEN"},
        plugins.BANDITS: {"ucb": "LAST"},
    }
    monkeypatch.delitem(sys.modules, "esper_first_open", raising=False)
    monkeypatch.syspath_prepend(install(tmp_path, "esper_first_open", source, groups))
    for known in (policies.known, bandits.known):
        with pytest.raises(UsageError, match=r"package esper_first_open .* name of one of Esper's"):
            known()


class Strange(BaseException):
    """What no `except Exception` holds."""


def _raises(error: BaseException) -> Callable[..., Any]:
    def decide(*_: object) -> Any:
        raise error

    return decide


def _gives(change: Callable[[ReviewedCommand], Any]) -> Callable[..., Any]:
    """A policy whose only command is a good one, changed."""

    def decide(state: Any, packet: Any, settings: Any, prior: Any, generator: Any) -> Any:
        del state, settings, prior, generator
        kernel = packet.catalogue[0]
        good = reviewed(
            packet,
            "GERMINATE",
            ("0", 1),
            confidence=1.0,
            urgency=1.0,
            expected_impact=0.0,
            evidence={},
            kernel_id=kernel.kernel_id,
            family=kernel.family,
        )
        changed = change(good)
        return changed if isinstance(changed, Plan) else Plan((changed,), "Why not.")

    return decide


def _grown(good: ReviewedCommand) -> Any:
    return replace(
        good,
        command="GROW",  # type: ignore[arg-type]
        decision_id=event_id("run", 0, "decision/3/0/1/GROW"),
    )


def _endless(*given: object) -> Any:
    return _endless(*given)


FAULTS: dict[str, tuple[Callable[..., Any], str]] = {
    "raises": (_raises(ZeroDivisionError("by zero")), "ZeroDivisionError: by zero"),
    "cannot reach something": (_raises(UnavailableError("away")), "UnavailableError: away"),
    "is timed out": (_raises(TimeoutError("slow")), "TimeoutError: slow"),
    "ends the process": (_raises(SystemExit(3)), "SystemExit: 3"),
    "interrupts": (_raises(KeyboardInterrupt("now")), "KeyboardInterrupt: now"),
    "raises what is no Exception": (_raises(Strange("odd")), "Strange: odd"),
    "recurses for ever": (_endless, "RecursionError"),
    "raises a long text": (_raises(ValueError("x\n" * 5000)), "ValueError: x"),
    "gives nothing": (lambda *_: None, "it gave NoneType and has to give a Plan"),
    "has no reason": (_gives(lambda one: Plan((one,), None)), "a Plan with a reason"),  # type: ignore[arg-type]
    "has a list": (_gives(lambda one: Plan([one], "")), "tuple of ReviewedCommand"),  # type: ignore[arg-type]
    "commands words": (_gives(lambda _: "GERMINATE"), "tuple of ReviewedCommand"),
    "commands no seed": (_gives(lambda one: replace(one, seed=9)), r"commands 0\[9\], which the"),
    "commands no layer": (_gives(lambda one: replace(one, layer="7")), r"commands 7\[1\], which"),
    "commands twice": (_gives(lambda one: Plan((one, one), "")), r"commands 0\[1\] twice"),
    "has ids of its own": (_gives(lambda one: replace(one, decision_id="mine")), "the id of its"),
    "has no kernel": (_gives(lambda one: replace(one, kernel_id="k")), "catalogue does not have"),
    "mistakes the family": (_gives(lambda one: replace(one, family="gate")), "of family 'gate'"),
    "is too sure": (_gives(lambda one: replace(one, confidence=7.0)), "confidence"),
    "is no number": (_gives(lambda one: replace(one, urgency=float("nan"))), "urgency"),
    "has a word for one": (_gives(lambda one: replace(one, alpha="much")), "Error"),  # type: ignore[arg-type]
    "has no evidence": (_gives(lambda one: replace(one, evidence="{")), "evidence"),
    "knows another command": (_gives(_grown), "GROW"),
}


@pytest.mark.parametrize("kind", sorted(FAULTS))
def test_what_a_policy_does_wrong_is_that_packet_s_alone(
    kind: str, monkeypatch: pytest.MonkeyPatch, forgotten: None
) -> None:
    """The packet is answered, without commands and with the reason; what is common to all policies
    goes on (the state, the field report), and the fault is there to be counted.

    A packet that comes again gets the same answer, and no second fault.
    """
    decide, sentence = FAULTS[kind]
    bad = Policy("bad", "bad-1", CommonSettings, decide)
    monkeypatch.setattr(policies, "known", lambda: {**policies.OWN, "bad": bad})
    world = small(name="bad")
    packet, reply = world.packet(), world.ask()
    assert isinstance(reply.fault, PolicyFault)
    events = [decode(message.value) for message in reply.messages]
    assert [type(event) for event in events] == [EpochReviewed, FieldReport]
    review = events[0]
    assert isinstance(review, EpochReviewed)
    assert (review.commands, review.policy_version) == ((), "bad-1")
    assert review.reason.startswith("The policy bad decided nothing on this packet: ")
    with pytest.raises(PolicyFault, match=sentence):
        raise reply.fault
    assert len(review.reason) < 3000
    assert world.row.state.packet == 3
    assert not world.row.state.trials
    again = world.ask(packet)
    assert (again.messages, again.fault) == (reply.messages, None)
    other = small(first_epoch=0, every_epochs=1)
    assert other.turn().commands


def _sleeps(*_: object) -> Any:
    SystemClock().sleep(10 * PATIENCE_S)


def _turns(*_: object) -> Any:
    """Goes on whatever it is told, for a while."""
    told = 0
    while told < 2:
        try:
            while True:
                pass
        except BaseException:  # noqa: BLE001  # it is meant to be rude
            told += 1
    return None


@pytest.mark.parametrize("decide", [_sleeps, _turns, _endless])
def test_a_policy_that_does_not_end_is_ended(
    decide: Any, monkeypatch: pytest.MonkeyPatch, forgotten: None
) -> None:
    """Whether it waits or computes: its packet is answered, and nothing is left that could strike
    the next one.
    """
    bad = Policy("bad", "bad-1", CommonSettings, decide)
    monkeypatch.setattr(policies, "known", lambda: {"bad": bad})
    world = small(name="bad")
    before, (_, again) = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)
    asked = partial(answer, prior=lambda _c, _p: Beta(), clock=world.clock)
    reply = asked(Row(), world.packet(), limit=partial(time_limit, 0.2))
    assert isinstance(reply.fault, PolicyFault)
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL)[1] == again


@pytest.mark.parametrize(
    "choose",
    [
        lambda *_: ("none of them", 1.0),
        lambda arms, _: (arms[0][0], float("nan")),
        lambda *_: None,
        lambda arms, _: arms[len(arms)],
    ],
)
def test_what_a_bandit_does_wrong_is_that_packet_s_alone(
    choose: Any, monkeypatch: pytest.MonkeyPatch, forgotten: None
) -> None:
    """The policy that asked it decides nothing, and says so."""
    bad = bandits.Bandit("last", choose)
    names = frozenset({"last"})
    monkeypatch.setattr("esper.policies.names_in", lambda _: names)
    monkeypatch.setattr(bandits, "known", lambda: {**bandits.OWN, "last": bad})
    world = small(bandit="last", first_epoch=0, every_epochs=1)
    reply = world.ask()
    assert isinstance(reply.fault, EsperError)
    review = decode(reply.messages[0].value)
    assert isinstance(review, EpochReviewed)
    assert not review.commands


def test_settings_whose_validator_fails_are_a_sentence() -> None:
    """A validator of somebody else may raise anything."""

    class Settings(CommonSettings):
        def model_post_init(self, context: object) -> None:
            raise ZeroDivisionError(str(context))

    spec = PolicySpec("odd", "odd-1", Settings)
    with pytest.raises(UsageError, match=r"settings of policy odd cannot be read \(ZeroDivision"):
        specs.settings_of({}, spec)


def test_trials_are_what_was_germinated() -> None:
    """One for each germination, in order, and none for what ends a kernel."""
    world = small(first_epoch=0, every_epochs=1)
    packet = world.packet()
    commands = world.turn().commands
    assert [one.decision_id for one in plan.trials_of(packet, commands)] == [
        one.decision_id for one in commands
    ]
    assert list(world.row.state.trials) == [one.decision_id for one in commands]
    ends = tuple(replace(one, command="CULL") for one in commands)
    assert plan.trials_of(packet, ends) == ()
