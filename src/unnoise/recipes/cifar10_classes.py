"""CIFAR-10, class-conditional: `cifar10` with a network that is told the class, and guidance.

    unnoise train cifar10_classes --minutes 20 --compile --capture
    unnoise evaluate runs/cifar10_classes -n 50000 --capture   # 20,000 at least: the classification accuracy score too

The settings are those of `cifar10`; this recipe was trained for 45 seconds only (docs/lab-log.md).
"""

from unnoise.recipe import Recipe
from unnoise.recipes import cifar10


def recipe() -> Recipe:
    """The recipe."""
    return cifar10.recipe(classes=10)
