"""Discrete values in a continuum: the states of raw data that are integers, and their probability under a normal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from unnoise.core.level import exact

_FAR = 24.0
"""Standard deviations beyond which a value has no probability in any precision."""


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

    def log_posterior(
        self,
        x0: Float[Tensor, " *shape"],
        eps: Float[Tensor, " *shape"],
        logsnr: Float[Tensor, ""],
        least: float = -math.inf,
    ) -> Float[Tensor, " *shape"]:
        """log P(x0 | x) at x = alpha x0 + sigma eps, P(v | x) proportional to N(x; alpha v, sigma^2) over the values v.

        With r = step alpha / sigma and k the number of steps from x0 to v it is -log sum_k exp(k r eps - (k r)^2 / 2),
        without a difference of numbers that are almost equal. Values with |k r| > 24 are left out: below e^-96 of the
        sum for |eps| <= 8. How many these are at least is known from `least`, so that nothing waits for the device.

        Source: Kingma et al. 2021, arXiv:2107.00630, section 3.3 (a decoder without weights).

        Args:
            x0: values of the lattice.
            eps: of the shape of x0.
            logsnr: of the level; gradients flow.
            least: a number that logsnr is not below.
        """
        reach = min(self.count - 1, math.ceil(_FAR / max(self.step * math.exp(least / 2), 1e-9)))
        k = torch.arange(-reach, reach + 1, device=x0.device)
        place = (x0 / self.step + (self.count - 1) / 2).round()[..., None] + k
        steps = k * (self.step * (logsnr / 2).exp()).to(x0.dtype)
        exponents = steps * eps[..., None] - steps.square() / 2
        return -exponents.masked_fill((place < 0) | (place >= self.count), -math.inf).logsumexp(-1)

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
