"""A grid that goes every step several times, so that what is known and what is drawn come to agree."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from unnoise.core.level import Level
from unnoise.sample.grids import Grid


@dataclass(frozen=True)
class Resampled:
    """Each step of `grid` but the last taken `repeats` times, with noise added back in between.

    For in-painting: an estimate that is pinned once per level does not draw from the conditional distribution, since
    early steps settle what is not known while what is known says little; going back lets it follow. It costs `repeats`
    times the evaluations. Source: Lugmayr et al. 2022 (RePaint), arXiv:2201.09865, algorithm 1, with jumps of one step.

    Args:
        grid: which levels.
        repeats: 1 is the grid itself.

    Raises:
        ValueError: for repeats < 1.
    """

    grid: Grid
    repeats: int = 10

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ValueError(f"repeats must be at least 1, got {self.repeats}")

    def __call__(self, steps: int, interval: tuple[float, float]) -> Level:
        """The grid's levels, each pair of neighbours but the last `repeats` times."""
        levels, path = self.grid(steps, interval), [0]
        for k in range(steps - 1):
            path += [k + 1, k] * (self.repeats - 1) + [k + 1]
        index = torch.tensor([*path, steps], dtype=torch.int64)
        return Level(levels.alpha[index], levels.sigma[index])
