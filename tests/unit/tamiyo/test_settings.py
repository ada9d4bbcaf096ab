"""Claims about the policies' settings."""

from __future__ import annotations

import pytest

from esper.errors import UsageError
from esper.policies import ScheduleSettings
from esper.tolaria.recipes.recipe import load
from esper_processors.tamiyo.deciding.policies import SCHEDULE, parse


def test_keys_that_are_left_out_have_their_defaults() -> None:
    """An empty object is the default policy in its own version; a given key changes that one
    alone.
    """
    assert parse("{}") == (SCHEDULE, ScheduleSettings(version="thompson-2"))
    named = parse('{"max_training": 3, "name": "thompson-schedule", "version": "mine"}')
    assert named == (SCHEDULE, ScheduleSettings(max_training=3, version="mine"))


REFUSED = [
    ("max_trainings", "3", "no setting 'max_trainings'; did you mean max_training"),
    ("zzz", "3", "known are name"),
    ("max_training", '"many"', "Policy setting max_training = many does not fit: input should be"),
    ("last_fraction", "2", "last_fraction = 2 does not fit"),
    ("bandit", '"thomson"', "There is no bandit 'thomson'; did you mean thompson"),
    ("bandit", '"zzz"', "There is no bandit 'zzz'; known are epsilon-greedy, performance-weighted"),
    ("name", '"thompson-scedule"', "no policy 'thompson-scedule'; did you mean thompson-schedule"),
    ("name", '"zzz"', r"There is no policy 'zzz'; known are thompson-schedule; .*esper.policies"),
    ("name", "3", "There is no policy '3'"),
]


@pytest.mark.parametrize(("key", "value", "sentence"), REFUSED)
def test_what_cannot_be_meant_is_refused_by_name(key: str, value: str, sentence: str) -> None:
    """An unknown key, policy or bandit, a wrong type and a value out of range are refused in a
    sentence that names it: by Tamiyo, and before that when somebody asks for such a run.
    """
    with pytest.raises(UsageError, match=sentence):
        parse(f'{{"{key}": {value}}}')
    with pytest.raises(UsageError, match=sentence):
        load("mnist1d", [f"tamiyo.policy.{key}={value}"])


@pytest.mark.parametrize(("text", "sentence"), [("[]", "not a JSON object"), ("{", "not JSON")])
def test_a_packet_whose_policy_is_no_object_is_refused(text: str, sentence: str) -> None:
    """Text that is no JSON, and JSON that is no object."""
    with pytest.raises(UsageError, match=sentence):
        parse(text)
