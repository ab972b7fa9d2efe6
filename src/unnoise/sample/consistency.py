"""Jumps of a two-time network: below the level that a step is to reach, and forward again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from unnoise.core.denoiser import Denoiser
from unnoise.core.level import Level, Levels, over
from unnoise.core.process import Process
from unnoise.core.rng import Rng
from unnoise.core.sampler import Carry, Row, Step


@dataclass(frozen=True)
class Consistency:
    """x_u = the network's jump from src to u, then x_dst ~ q(x_dst | x_u); sigma_u = sqrt(1 - gamma^2) sigma_dst.

    gamma = 1 jumps to clean data: multistep consistency sampling (Song et al. 2023, arXiv:2303.01469, algorithm 1).
    gamma = 0 jumps to dst and draws nothing; between them lies gamma-sampling (Kim et al. 2023, arXiv:2310.02279). It
    is for networks that look at `to`, `TwoTime`: the estimate of a plain denoiser, which does not, is a mean, and no
    jump but in small steps with gamma = 0, which is Euler.

    Args:
        gamma: how much of the noise of dst is drawn anew, in [0, 1].
    """

    gamma: float = 1.0

    order: ClassVar[int] = 1
    evaluations: ClassVar[int] = 1
    coupled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma must lie in [0, 1], got {self.gamma}")

    @property
    def stochastic(self) -> bool:
        """Whether steps draw noise."""
        return self.gamma > 0

    def coefficients(self, levels: Levels) -> None:
        """None: the kernels read the levels."""

    def init(self, x: Any) -> Carry:
        """None: nothing is remembered."""

    def step(
        self, process: Process[Any], denoise: Denoiser[Any], x: Any, row: Row, rng: Rng, carry: Carry
    ) -> Step[Any]:
        """One jump down, one draw up."""
        keep = math.sqrt(1 - self.gamma**2)
        to: Any = over(lambda dst: Level(dst.alpha, keep * dst.sigma), row.dst)
        est = denoise(x, row.src, to=to)
        x = process.backward(x, est, row.src, to, rng, eta=0.0)
        return Step(process.forward(x, to, row.dst, rng) if self.gamma > 0 else x, est)
