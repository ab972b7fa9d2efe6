"""UniPC: an exponential integrator in the log-SNR that predicts, and corrects itself by what it evaluates next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from unnoise.core.denoiser import Denoiser
from unnoise.core.level import Levels, expand
from unnoise.core.process import Process
from unnoise.core.rng import Rng
from unnoise.core.sampler import Carry, Row, Step, refuse_parts
from unnoise.sample.dpmpp import propagators

_POINTS = 32
"""Of the quadrature: exact to rounding for steps of up to 30 in the logarithm of alpha / sigma."""


@dataclass(frozen=True)
class UniPC:
    """UniPC-p: order p + 1 at one evaluation a step (Zhao et al. 2023, arXiv:2302.04867, algorithms 1 and 2).

    In l = log(alpha / sigma) a step of the flow is x' = r x + s mean(x0), r = sigma' / sigma, s = alpha' - r alpha; the
    mean over the step is weighed by exp(l). The prediction takes it of the polynomial through the last p estimates. The
    estimate at its end is one more, and before the next step x is corrected to what the polynomial through all p + 1
    gives. Both integrals are exact, as with UniPC's varying coefficients, and in SA-Solver without noise (Xue et al.
    2023, arXiv:2305.14267). Fewer estimates are taken where fewer are known: at the start, after pure noise, after an
    element stood still. The step to sigma = 0 is of first order.

    Args:
        p: how many estimates predict, in 1..3. The first step is of third order at best, by which p = 3 loses little:
            at much noise estimates hardly differ.

    Raises:
        ValueError: for another p.
    """

    p: int = 2

    evaluations: ClassVar[int] = 1
    coupled: ClassVar[bool] = False
    stochastic: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.p not in (1, 2, 3):
            raise ValueError(f"p must be 1, 2 or 3, got {self.p}")

    @property
    def order(self) -> int:
        """Of convergence."""
        return self.p + 1

    def coefficients(self, levels: Levels) -> Tensor:
        """[steps, 2 p + 1, *level shape]: r, s, p - 1 weights of estimates before, p that correct the step before."""
        r, s, logsnr = propagators(self, levels)
        at = logsnr / 2
        unknown = torch.full_like(at[:1], torch.nan)
        before = [torch.cat([*[unknown] * k, at])[: len(at) - 1] for k in range(self.p)]
        predicted = _weights(before[0], at[1:], before)
        corrected = _weights(before[0], at[1:], [before[0], at[1:], *before[1:]])
        correction = s * torch.cat([corrected[:1], corrected[1:] - predicted])
        later = torch.cat([torch.zeros_like(correction[:, :1]), correction[:, :-1]], 1)
        return torch.stack([r, s, *predicted, *later], 1)

    def init(self, x: Tensor) -> Carry:
        """The last p estimates, newest first: 0, with weights of 0."""
        refuse_parts(self, x)
        return (torch.zeros_like(x),) * self.p

    def step(
        self, process: Process[Tensor], denoise: Denoiser[Tensor], x: Tensor, row: Row, rng: Rng, carry: Carry
    ) -> Step[Tensor]:
        """Corrects x by the estimate at row.src, and predicts it at row.dst."""
        est = denoise(x, row.src, to=row.dst)
        r, s, *weights = (expand(c, x) for c in row.coef)
        newest, *older = carry
        for d, x0 in zip(weights[self.p - 1 :], (est.x0, *older), strict=True):
            x = x + d * (x0 - newest)
        mean = est.x0
        for w, x0 in zip(weights[: self.p - 1], carry[:-1], strict=True):
            mean = mean + w * (x0 - est.x0)
        return Step(r * x + s * mean, est, (est.x0, *carry[:-1]))


def _weights(begin: Tensor, end: Tensor, nodes: list[Tensor]) -> Tensor:
    """Of all nodes but the first, in a mean over begin..end, by exp(l), of the polynomial through values at the nodes.

    The first weight is 1 less their sum. As many nodes as are finite and distinct are taken, in their order.

    Args:
        begin, end: where the step begins and ends, [steps, *level shape].
        nodes: where values are known, each of that shape.

    Returns:
        [nodes - 1, steps, *level shape].
    """
    points, shares = (torch.from_numpy(a).to(begin) / 2 for a in np.polynomial.legendre.leggauss(_POINTS))
    u = begin[..., None] + (end - begin)[..., None] * (points + 0.5)
    density = shares * (u - end[..., None]).exp()
    density = density / density.sum(-1, keepdim=True)
    found = torch.zeros(len(nodes) - 1, *begin.shape, dtype=begin.dtype)
    for count in range(2, len(nodes) + 1):
        known = [n[..., None] for n in nodes[:count]]
        for_each = [
            torch.stack([(u - m) / (n - m) for k, m in enumerate(known) if k != j]).prod(0)
            for j, n in enumerate(known)
            if j
        ]
        weights = (density * torch.stack(for_each)).sum(-1)
        found[: count - 1] = torch.where(weights.isfinite().all(0), weights, found[: count - 1])
    return found
