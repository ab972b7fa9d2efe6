"""What the network is told of the level: a bounded number, chosen apart from the parameterization.

The log-SNR itself is infinite at both ends; these are not. The choice is stored with the model. Each is invariant under
a rescaling of (alpha, sigma).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from unnoise.core.level import Level
from unnoise.core.schedule import Linear, ScaledLinear, Table, ZeroTerminal, entries


@runtime_checkable
class Noise(Protocol):
    """From a level to the number that the network is told; finite for every level."""

    def __call__(self, level: Level) -> Float[Tensor, "*level"]:
        """c_noise, of the shape of the level."""
        ...


@dataclass(frozen=True)
class Angle:
    """atan2(sigma, alpha) in [0, pi / 2]: 0 is data, pi / 2 is noise."""

    def __call__(self, level: Level) -> Float[Tensor, "*level"]:
        """The angle of the level in the (alpha, sigma) plane."""
        return torch.atan2(level.sigma, level.alpha)


@dataclass(frozen=True)
class ClippedLogSnr:
    """-logsnr / 8 within bounds: EDM's log(sigma) / 4 in the frame alpha = 1 (arXiv:2206.00364, table 1).

    Args:
        low: smallest log-SNR told apart.
        high: largest log-SNR told apart.
    """

    low: float = -20.0
    high: float = 20.0

    def __call__(self, level: Level) -> Float[Tensor, "*level"]:
        """-clip(logsnr, low, high) / 8."""
        return -level.logsnr.clamp(self.low, self.high) / 8


@dataclass(frozen=True)
class TableIndex:
    """The index of the level in a table of steps, as networks trained on integer times expect it (DDPM, ADM, SD).

    Fractional between the entries; 0 is the first noisy one.

    Args:
        table: the table of the training.
    """

    table: Linear | ScaledLinear | Table | ZeroTerminal

    def __post_init__(self) -> None:
        if len(self.table.alphas()) < 3:
            raise ValueError("an index in a table needs at least two steps, got a table of one")

    def __call__(self, level: Level) -> Float[Tensor, "*level"]:
        """k in [0, steps - 1], found by the angle, which is monotone along the table and finite everywhere."""
        alphas = self.table.alphas(level.alpha.device)[1:].to(level.alpha)
        knots = alphas.clamp(-1, 1).arccos()
        angle = torch.atan2(level.sigma, level.alpha).clamp(knots[0], knots[-1])
        k = torch.searchsorted(knots, angle.contiguous()).clamp(1, len(knots) - 1)
        low, high = entries(knots, k - 1), entries(knots, k)
        return (k - 1) + (angle - low) / (high - low)
