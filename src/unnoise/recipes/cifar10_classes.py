"""CIFAR-10, class-conditional: `cifar10` with a network that is told the class.

    unnoise train cifar10_classes --minutes 20 --compile --capture
    unnoise evaluate runs/cifar10_classes -n 50000 --capture   # 20,000 at least: the classification accuracy score too

The training is that of `cifar10.recipe(deep=True)`; a tenth of the labels are kept back in it, so that `--guidance`
works too. After 20 minutes of one H200, compilation apart, FD-1280 of 3 x 10,000 samples is 0.415 +- 0.007
(benchmarks/results/cifar10_classes_20_minutes_seed_2.json); of another training, in 24 steps, 0.406 +- 0.007
(cifar10_classes_weaker_networks.json), and 0.588 without autoguidance (cifar10_classes_20_minutes_seed_1.json).
A classifier that learns from 50,000 samples of that reads 90.9 % of the real test set right, one that learns from the
real training set 93.8 % (cifar10_classes_cas.json). 26 steps are at 0.416 where 78 are at 0.389
(cifar10_classes_solvers_seed_2.json).
"""

from dataclasses import replace

from unnoise.recipe import Recipe
from unnoise.recipes import cifar10
from unnoise.sample.grids import KarrasGrid


def recipe() -> Recipe:
    """The recipe."""
    recipe = cifar10.recipe(classes=10, deep=True)
    grid = KarrasGrid(sigma_min=0.005, sigma_max=80, rho=9)
    sampling = replace(recipe.sampling, grid=grid, steps=26, autoguidance=2.2, weaker=0.3, low=-2.0, high=5.0)
    return replace(recipe, sampling=sampling)
