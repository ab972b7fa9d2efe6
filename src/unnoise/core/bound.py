"""The variational bound of a Gaussian process over a grid: how likely data are under a model sampled in its steps.

-log p(x0) <= KL(q(x_T | x0) || p(x_T)) + sum of KL(q(x_dst | x_src, x0) || p(x_dst | x_src)) - log p(x0 | x_1), with
p(x_T) = N(0, sigma_T^2), what sampling starts from, and p(x_dst | x_src) what `Gaussian.backward` draws with eta = 1
(Ho et al. 2020, arXiv:2006.11239, eq. 5). Each step is looked at from its own draw of x_src. In the last step, where
the sampler takes the mean, p has the estimate's variance, or for "small", which is 0 there, the large one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from unnoise.core.denoiser import EMPTY, Cond, Denoiser
from unnoise.core.estimate import Estimate
from unnoise.core.lattice import Lattice
from unnoise.core.level import CLEAN, Level, exact
from unnoise.core.process import Gaussian, Posterior, Variance, posterior
from unnoise.core.rng import Rng


class Nats(NamedTuple):
    """The bound of each row, in nats.

    Args:
        prior: KL of the noisiest level to what sampling starts from.
        steps: KL of each step but the last.
        last: -log p(x0 | x_1): of the bin of x0, or a density in state space.
        elements: how many the row has.
    """

    prior: Float[Tensor, " b"]
    steps: Float[Tensor, "b steps"]
    last: Float[Tensor, " b"]
    elements: Float[Tensor, " b"]

    @property
    def total(self) -> Float[Tensor, " b"]:
        """At least -log p(x0), in expectation over the draws; `metrics.bits_per_dimension` makes bits of it."""
        return self.prior + self.steps.sum(1) + self.last


def term(
    est: Estimate,
    x0: Float[Tensor, " b *shape"],
    src: Level,
    dst: Level,
    var: Variance,
    lattice: Lattice | None = None,
) -> Float[Tensor, " b *shape"]:
    """What a step from `src` to `dst` adds to the bound, in nats, element by element.

    KL = (log(p / q) + (q + gain^2 (x0 - x0_hat)^2) / p - 1) / 2 with the variances q of q(x_dst | x_src, x0) and p; in
    a step to sigma_dst = 0 it is -log p(x0 | x_src).

    Args:
        est: the estimate at `src`; with var="learned" it must carry `var`.
        x0: the data [B, ...].
        src: a scalar, or one level a row.
        dst: cleaner.
        var: which variance p has.
        lattice: of the values of x0; None: a density.
    """
    src, dst = src.like(x0), dst.like(x0)
    c, last = posterior(src, dst), dst.sigma == 0
    p = _variance(c, est, last, var)
    q = torch.where(last, torch.ones_like(c.small), c.small)
    kl = 0.5 * ((p / q).log() + (q + (c.gain * (x0 - est.x0)) ** 2) / p - 1)
    std = p.sqrt() / dst.alpha
    if lattice is not None:
        log_p = lattice.log_mass(x0, est.x0, std)
    else:
        log_p = -0.5 * ((x0 - est.x0) / std) ** 2 - std.log() - 0.5 * math.log(2 * math.pi)
    return torch.where(last, -log_p, kl)


def _variance(c: Posterior, est: Estimate, last: Tensor, var: Variance) -> Tensor:
    """Of p(x_dst | x_src)."""
    if var == "learned":
        if est.var is None:
            raise ValueError('var="learned" needs a denoiser whose estimate carries Var[x0 | x]: a LearnedVariance')
        return c.small + c.gain**2 * est.var
    return torch.where(last, c.large, c.small) if var == "small" else c.large


@torch.no_grad()
def bounds(
    process: Gaussian,
    denoise: Denoiser[Tensor],
    x0: Float[Tensor, " b *shape"],
    levels: Level,
    rng: Rng,
    cond: Cond = EMPTY,
    *,
    variances: Sequence[Variance] = ("small",),
    lattice: Lattice | None = None,
) -> dict[Variance, Nats]:
    """The bound of each row with each of the variances, from the same draws and the same estimates.

    Everything is computed in float64, but for what the network does inside.

    Args:
        process: whose steps, bound to the batch's mask where there is one; elements that do not exist do not count.
        denoise: the denoiser.
        x0: states [B, ...].
        levels: the grid [K + 1], noise first, each cleaner than the one before, the last clean.
        rng: randomness for the rows.
        cond: what is known of x0: the bound is then that of p(x0 | cond).
        variances: of p(x_dst | x_src), as in `Gaussian.backward`.
        lattice: of the values of x0 where they are discrete; None: a density in state space.

    Raises:
        ValueError: for a grid that does not go from noise to clean data, a space that moves all elements of a row
            together, values beside the lattice, and "learned" where the estimate has no variance.
    """
    if not process.space.elementwise:
        raise ValueError(f"no bound in {type(process.space).__name__}, which moves all elements of a row together")
    dtype = exact(x0.device)
    grid = _levels(levels, dtype, x0.device)
    x0 = process.project(Estimate(x0.to(dtype))).x0
    real = process.project(Estimate(torch.ones_like(x0))).x0
    if lattice is not None:
        lattice.index(x0[real > 0])
    top = grid[0]
    prior = _row_sum(0.5 * (top.alpha * x0 / top.sigma) ** 2)
    found: dict[Variance, list[Tensor]] = {var: [] for var in variances}
    for k, (src, dst) in enumerate(pairwise(grid)):
        x = process.forward(x0, CLEAN, src, rng.fold(k))
        est = process.project(denoise(x, src, cond, to=dst))
        for var, values in found.items():
            values.append(_row_sum(term(est, x0, src, dst, var, lattice) * real))
    elements = _row_sum(real)
    return {var: Nats(prior, torch.stack(values, 1)[:, :-1], values[-1], elements) for var, values in found.items()}


def bound(
    process: Gaussian,
    denoise: Denoiser[Tensor],
    x0: Float[Tensor, " b *shape"],
    levels: Level,
    rng: Rng,
    cond: Cond = EMPTY,
    *,
    var: Variance = "small",
    lattice: Lattice | None = None,
) -> Nats:
    """The bound of each row with one variance; see `bounds`."""
    return bounds(process, denoise, x0, levels, rng, cond, variances=(var,), lattice=lattice)[var]


def _levels(levels: Level, dtype: torch.dtype, device: torch.device) -> list[Level]:
    """The grid's levels as scalars that wrappers may branch on."""
    if levels.alpha.ndim != 1 or len(levels.alpha) < 2:
        raise ValueError(f"a bound needs a grid [K + 1] of at least two levels, got {tuple(levels.alpha.shape)}")
    pairs = list(zip(levels.alpha.double().tolist(), levels.sigma.double().tolist(), strict=True))
    noise = [s / a if a > 0 else math.inf for a, s in pairs]
    for k, (before, after) in enumerate(pairwise(noise)):
        if not before > after:
            raise ValueError(
                f"a bound needs a grid of which every step is cleaner than the one before; step {k} goes from "
                f"sigma / alpha = {before:.4g} to {after:.4g}"
            )
    if noise[-1] != 0:
        raise ValueError(
            f"a bound needs a grid that ends on clean data; this one ends at sigma / alpha {noise[-1]:.4g}"
        )
    return [Level.of(a, s).to(dtype=dtype, device=device) for a, s in pairs]


def _row_sum(x: Tensor) -> Tensor:
    return x.flatten(1).sum(1)
