"""Discrete values in a continuum: the states of raw data that are integers, and their probability under a normal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from unnoise.core.level import exact


@dataclass(frozen=True)
class Lattice:
    """The values that an element of a state can have: step (k - (count - 1) / 2), k = 0 .. count - 1.

    Args:
        count: how many, >= 2.
        step: from one to the next, > 0.
    """

    count: int
    step: float

    def __post_init__(self) -> None:
        if self.count < 2 or not self.step > 0:
            raise ValueError(f"a lattice needs count >= 2 and step > 0, got {self.count} and {self.step}")

    @staticmethod
    def of(codec: Any) -> Lattice | None:
        """That of the states of a codec whose raw data are `codec.bins` integers; None where they are a continuum."""
        return None if codec.bins is None else Lattice(codec.bins, math.exp(codec.log_det / codec.blank(1).numel()))

    def index(self, x: Float[Tensor, " *shape"]) -> Int64[Tensor, " *shape"]:
        """Which value each element has; Raises ValueError for one that is none of them."""
        place = x.to(exact(x.device)) / self.step + (self.count - 1) / 2
        k = place.round()
        wrong: Bool[Tensor, " ..."] = ((place - k).abs() > 1e-3) | (k < 0) | (k >= self.count)
        if bool(wrong.any()):
            raise ValueError(f"{float(x[wrong][0]):.6g} is none of the {self.count} values, {self.step:.6g} apart")
        return k.long()

    def log_mass(
        self, x0: Float[Tensor, " ..."], mean: Float[Tensor, " ..."], std: Float[Tensor, " ..."]
    ) -> Float[Tensor, " ..."]:
        """log P(x0), P(v) = N(mean, std^2)(v - step / 2, v + step / 2), the first and last value with their whole tail.

        Source: Ho et al. 2020, arXiv:2006.11239, eq. 13.
        """
        low, high = ((x0 + side * self.step / 2 - mean) / std for side in (-1, 1))
        # Mirrored into the lower tail, where the difference of two small numbers is not lost beside 1.
        flip = low + high > 0
        a, b = torch.where(flip, -high, low), torch.where(flip, -low, high)
        most = torch.special.log_ndtr(b)
        share = -torch.expm1(torch.special.log_ndtr(a) - most)
        inside = most + share.clamp(min=torch.finfo(share.dtype).tiny).log()
        end = self.step * (self.count - 1.5) / 2  # between the last value and the one before
        tail = torch.special.log_ndtr(torch.where(x0 < 0, high, -low))
        return torch.where(x0.abs() > end, tail, inside)
