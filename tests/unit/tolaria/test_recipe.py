from __future__ import annotations

from pathlib import Path

import pytest

from esper.errors import UsageError
from esper.kasmina.loader import CacheSettings
from esper.tolaria.recipes.recipe import OWNER, Permit, function, load, names
from esper.tolaria.run.wiring import cache_settings
from esper.urza.memory_tier import CacheLimits


def test_every_recipe_that_comes_along_is_valid() -> None:
    """Each shipped recipe loads, and names functions that exist."""
    for name in names():
        recipe = load(name)
        assert recipe.name == name
        assert callable(function(recipe.model, "model", Permit()))
        assert callable(function(recipe.data, "data", Permit()))


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("run.epocs=3", "Unknown key run.epocs. Did you mean run.epochs?"),
        ("tamio.enabled=false", "Unknown key tamio. Did you mean tamiyo?"),
        ("seed=3", "Did you mean run.seed?"),
        ("run.epochs=many", "run.epochs = 'many' does not fit"),
        ("run.epochs=0", "run.epochs = 0 does not fit"),
        ("cache.entries=0", "cache.entries = 0 does not fit"),
        ("cache.memory_mb=1", "Unknown key cache.memory_mb. Did you mean cache.memory_mib?"),
        ("decisions=later", "decisions = 'later' does not fit"),
        ("run.precision=int8", "run.precision = 'int8' does not fit"),
        (
            "run.accumulate=101",
            "run.accumulate = 101 is more than the 100 samples of a step; lower it.",
        ),
        ("run.seed", "--set takes section.key=value, not 'run.seed'."),
        ("name.x=1", "--set name.x: name is a value, not a section."),
    ],
)
def test_bad_overrides_are_refused_in_a_sentence(override: str, sentence: str) -> None:
    """An unknown key, type or value is refused, with the nearest right one."""
    with pytest.raises(UsageError) as refused:
        load("mnist1d", [override])
    assert sentence in str(refused.value)
    assert "rror," not in str(refused.value)


def test_overrides_take_toml_values() -> None:
    """--set values are TOML; a bare word is a string; policy keys pass through."""
    recipe = load(
        "mnist1d",
        [
            "decisions=lockstep",
            "tamiyo.enabled=false",
            "run.seed=4",
            "kasmina.include=['first']",
            "tamiyo.policy.max_active=2",
        ],
    )
    assert (recipe.decisions, recipe.tamiyo.enabled, recipe.run.seed, recipe.kasmina.include) == (
        "lockstep",
        False,
        4,
        ("first",),
    )
    assert recipe.tamiyo.policy["max_active"] == 2


def test_the_cache_section_sets_the_limits_of_each_tier() -> None:
    """Defaults are 512 MiB and 128 kernels in memory, 128 MiB a layer.

    Overrides reach the loader in bytes.
    """
    default = cache_settings(load("mnist1d"))
    assert default.memory == CacheLimits(entries=128, bytes=512 << 20, layer_bytes=128 << 20)
    changed = cache_settings(
        load(
            "mnist1d",
            [
                "cache.entries=2",
                "cache.memory_mib=3",
                "cache.layer_mib=1",
                "cache.disk_mib=4",
                "cache.prefetch=5",
            ],
        )
    )
    assert changed == CacheSettings(
        CacheLimits(entries=2, bytes=3 << 20, layer_bytes=1 << 20), disk_bytes=4 << 20, prefetch=5
    )


def test_unknown_recipe_names_the_nearest() -> None:
    """A misspelt recipe is refused with the one that was meant."""
    with pytest.raises(UsageError, match="Did you mean mnist1d"):
        load("mnist1")


def test_a_file_is_a_recipe_too(tmp_path: Path) -> None:
    """A TOML file is loaded; broken TOML and missing keys are refused in a sentence."""
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\nmodel = "a.b:c"\n')
    with pytest.raises(UsageError, match="The recipe lacks data; add it"):
        load(str(path))
    path.write_text("name = ")
    with pytest.raises(UsageError, match="is not valid TOML"):
        load(str(path))


def test_functions_that_do_not_exist_are_refused() -> None:
    """A recipe's module:function that cannot be imported says which part is wrong."""
    with pytest.raises(UsageError, match="module nowhere cannot be imported"):
        function("nowhere:model", "model", OWNER)
    with pytest.raises(UsageError, match="has no function nothing"):
        function("esper.tolaria.recipes.mnist1d:nothing", "model", OWNER)
