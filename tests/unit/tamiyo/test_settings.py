"""Claims about the policy's settings."""

from __future__ import annotations

import pytest

from esper.errors import UsageError
from esper_processors.tamiyo.deciding.policy_settings import PolicySettings, parse


def test_keys_that_are_left_out_have_their_defaults() -> None:
    """An empty object is the default policy; a given key changes that one alone."""
    assert parse("{}") == PolicySettings()
    assert parse('{"max_training": 3}') == PolicySettings(max_training=3)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"max_trainings": 3}', "did you mean max_training"),
        ('{"zzz": 3}', "known are version"),
        ('{"max_training": "many"}', "max_training"),
        ('{"last_fraction": 2}', "last_fraction"),
        ("[]", "not a JSON object"),
        ("{", "not JSON"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(text: str, sentence: str) -> None:
    """An unknown key, a wrong type, a value out of range and text that is no object are refused in
    a sentence that names it.
    """
    with pytest.raises(UsageError, match=sentence):
        parse(text)
