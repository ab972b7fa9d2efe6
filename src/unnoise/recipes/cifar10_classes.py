"""CIFAR-10, class-conditional: `cifar10` with a network that is told the class, and guidance; not tuned."""

from unnoise.recipe import Recipe
from unnoise.recipes import cifar10


def recipe() -> Recipe:
    """The recipe."""
    return cifar10.recipe(classes=10)
