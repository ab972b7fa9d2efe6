"""CIFAR-10, class-conditional: `cifar10` with a network that is told the class.

    unnoise train cifar10_classes --minutes 20 --compile --capture
    unnoise evaluate runs/cifar10_classes -n 50000 --capture   # 20,000 at least: the classification accuracy score too

The settings are those of `cifar10.recipe(deep=True)`; a tenth of the labels are kept back in training, so that
`--guidance` works too. After 20 minutes of one H200, compilation apart, FD-1280 of 3 x 10,000 samples is
0.452 +- 0.005, 0.665 +- 0.004 without autoguidance (benchmarks/results/cifar10_classes_20_minutes.json). How well a
classifier learns from samples was not measured yet.
"""

from unnoise.recipe import Recipe
from unnoise.recipes import cifar10


def recipe() -> Recipe:
    """The recipe."""
    return cifar10.recipe(classes=10, deep=True)
