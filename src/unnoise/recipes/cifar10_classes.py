"""CIFAR-10, class-conditional: `cifar10` with a network that is told the class.

    unnoise train cifar10_classes --minutes 20 --compile --capture
    unnoise evaluate runs/cifar10_classes -n 50000 --capture   # 20,000 at least: the classification accuracy score too

The training is that of `cifar10.recipe(deep=True)`; a tenth of the labels are kept back in it, so that `--guidance`
works too. After 20 minutes of one H200, compilation apart, FD-1280 of 3 x 10,000 samples is 0.373 +- 0.005,
0.618 +- 0.004 without autoguidance (benchmarks/results/cifar10_classes_20_minutes.json); another training, of seed 1
and the same loss, has 0.456 +- 0.007 and 0.588 +- 0.007 (cifar10_classes_20_minutes_seed_1.json). How well a classifier
learns from samples was not measured yet.
"""

from dataclasses import replace

from unnoise.recipe import Recipe
from unnoise.recipes import cifar10


def recipe() -> Recipe:
    """The recipe."""
    recipe = cifar10.recipe(classes=10, deep=True)
    return replace(recipe, sampling=replace(recipe.sampling, steps=24, autoguidance=1.8, weaker=0.2))
