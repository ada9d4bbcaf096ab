"""The recipe `digits`."""

from __future__ import annotations

import torch

from esper.kasmina import GrowingModel, KernelTraining, germinate
from esper.tolaria.recipes import digits
from esper.tolaria.recipes.recipe import load


def test_digits_are_split_alike_each_time() -> None:
    """997 images to train on, 300 held out and 500 for the test, all 1,797 in all, the same each
    time; the global stream does not move.
    """
    torch.manual_seed(1)
    before = torch.get_rng_state()
    made, again = digits.data(), digits.data()
    assert torch.equal(torch.get_rng_state(), before)
    assert [len(labels) for _, labels in (made.train, made.validation, made.test)] == [
        997,
        300,
        500,
    ]
    for name in ("train", "validation", "test"):
        for left, right in zip(getattr(made, name), getattr(again, name), strict=True):
            assert torch.equal(left, right)
    everything = torch.cat([made.train[0], made.validation[0], made.test[0]])
    assert 0 <= everything.min() < everything.max() == 1
    assert everything.shape == (1797, 1, 8, 8)
    assert len(torch.cat([made.train[1], made.validation[1], made.test[1]]).unique()) == 10


def test_both_convolutions_of_the_host_grow() -> None:
    """The recipe's layers are convolutions with two chunks each, at the sizes that the images have
    there.
    """
    recipe, made = load("digits"), digits.data()
    module = germinate(digits.model(), seeds=recipe.kasmina.seeds, include=recipe.kasmina.include)
    growing = GrowingModel(module, training=KernelTraining())
    growing.probe(made.train[0][:3])
    assert [(layer.name, layer.chunks, layer.geometry) for layer in growing.inventory()] == [
        ("first", (4, 4), "conv2d k3x3 s2x2 p1x1 d1x1 g1 in 8x8"),
        ("second", (4, 4), "conv2d k3x3 s1x1 p1x1 d1x1 g1 in 4x4"),
    ]
    assert sum(parameter.numel() for parameter in module.parameters()) == 754
