"""DPM-Solver++: exponential integrators in the log-SNR."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from unnoise.core.denoiser import Denoiser
from unnoise.core.level import Level, Levels, expand
from unnoise.core.process import Process
from unnoise.core.rng import Rng
from unnoise.core.sampler import Carry, Row, Step, refuse_parts


def propagators(sampler: Any, levels: Levels) -> tuple[Tensor, Tensor, Tensor]:
    """The exact flow of a constant estimate, x' = r x + s x0: r = sigma' / sigma, s = alpha' - r alpha.

    Args:
        sampler: whose name an error states.
        levels: the grid [steps + 1, *level shape].

    Returns:
        r and s, [steps, *level shape], and the log-SNR of the grid.

    Raises:
        ValueError: for a grid of several parts.
    """
    refuse_parts(sampler, levels)
    assert isinstance(levels, Level)
    alpha, sigma = levels.alpha, levels.sigma
    # Where sigma = 0 already, the element is held and these are never used.
    r = torch.where(sigma[:-1] > 0, sigma[1:] / sigma[:-1].clamp(min=1e-300), torch.ones_like(sigma[1:]))
    return r, alpha[1:] - alpha[:-1] * r, levels.logsnr


@dataclass(frozen=True)
class DPMpp2M:
    """DPM-Solver++(2M): second order, one evaluation a step (Lu et al. 2022, arXiv:2211.01095, algorithm 2).

    x' = r x + s (x0 + w (x0 - x0_before)), r = sigma' / sigma, s = alpha' - r alpha, and w half the ratio of this
    step's log-SNR to that of the step before; w = 0 in the first step, in the last (to sigma = 0) and after pure noise.
    """

    order: ClassVar[int] = 2
    evaluations: ClassVar[int] = 1
    coupled: ClassVar[bool] = False
    stochastic: ClassVar[bool] = False

    def coefficients(self, levels: Levels) -> Tensor:
        """[steps, 3, *level shape]: r, s, w."""
        r, s, logsnr = propagators(self, levels)
        w, h = torch.zeros_like(r), logsnr.diff(dim=0)
        w[1:] = h[1:] / (2 * h[:-1])
        return torch.stack([r, s, torch.where(torch.isfinite(w), w, torch.zeros_like(w))], 1)

    def init(self, x: Tensor) -> Carry:
        """The estimate before: 0, with a weight of 0."""
        refuse_parts(self, x)
        return torch.zeros_like(x)

    def step(
        self, process: Process[Tensor], denoise: Denoiser[Tensor], x: Tensor, row: Row, rng: Rng, carry: Carry
    ) -> Step[Tensor]:
        """One step from row.src to row.dst."""
        est = denoise(x, row.src, to=row.dst)
        r, s, w = (expand(c, x) for c in row.coef)
        return Step(r * x + s * (est.x0 + w * (est.x0 - carry)), est, est.x0)
