"""Closed-form denoisers: what a perfect network would answer. Samplers and losses are tested against them.

Each is a `Denoiser` that answers both E[x0 | x] and Var[x0 | x], is equivariant to the frame of the level and works in
the dtype of x.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from unnoise.core.denoiser import EMPTY, Cond
from unnoise.core.estimate import Estimate
from unnoise.core.level import Level, Levels


class Normal:
    """Data N(mean, std^2), independent elements.

    x0_hat = mean + g (x - alpha mean), g = std^2 alpha / (alpha^2 std^2 + sigma^2).

    Args:
        mean: broadcast against x.
        std: broadcast against x, >= 0.
    """

    def __init__(self, mean: float | Float[Tensor, " ..."] = 0.0, std: float | Float[Tensor, " ..."] = 1.0) -> None:
        # A Python float in float64: float32 would round it before x has said what it wants.
        self.mean, self.std = (
            a if isinstance(a, Tensor) else torch.tensor(a, dtype=torch.float64) for a in (mean, std)
        )

    def __call__(
        self, x: Float[Tensor, " b *shape"], level: Level, cond: Cond = EMPTY, *, to: Levels | None = None
    ) -> Estimate:
        """The posterior mean and variance."""
        level = level.like(x).to(dtype=x.dtype)
        mean, var = self.mean.to(x), self.std.to(x) ** 2
        total = level.alpha**2 * var + level.sigma**2
        gain = var * level.alpha / total
        return Estimate(mean + gain * (x - level.alpha * mean), (var * level.sigma**2 / total).expand_as(x))

    def transport(self, x: Float[Tensor, " b *shape"], src: Level, dst: Level) -> Float[Tensor, " b *shape"]:
        """The probability-flow ODE's exact map from `src` to `dst`: standardise, then take the new mean and width."""
        src, dst = (level.like(x).to(dtype=x.dtype) for level in (src, dst))
        mean, var = self.mean.to(x), self.std.to(x) ** 2
        widths = [(level.alpha**2 * var + level.sigma**2).sqrt() for level in (src, dst)]
        return dst.alpha * mean + widths[1] / widths[0] * (x - src.alpha * mean)


class Mixture:
    """Data from a mixture of isotropic normals.

    Args:
        means: [K, *shape of a row].
        stds: [K], >= 0.
        weights: [K], > 0, normalised here; equal by default.
    """

    def __init__(
        self,
        means: Float[Tensor, " k *shape"],
        stds: Float[Tensor, " k"] | Sequence[float],
        weights: Float[Tensor, " k"] | None = None,
    ) -> None:
        self.means, self.stds = means, torch.as_tensor(stds, dtype=means.dtype)
        weights = torch.ones(len(means), dtype=means.dtype) if weights is None else weights
        self.log_weights = (weights / weights.sum()).log()

    def responsibilities(self, x: Float[Tensor, " b *shape"], level: Level) -> Float[Tensor, "b k"]:
        """[B, K]: how probably each row comes from each component."""
        means, stds = self.means.to(x).flatten(1), self.stds.to(x)
        flat = x.flatten(1)
        alpha, sigma = _by_row(level, x)
        var = alpha[:, None] ** 2 * stds**2 + sigma[:, None] ** 2
        square = (flat[:, None] - alpha[:, None, None] * means).square().sum(-1)
        log_p = self.log_weights.to(x) - square / (2 * var) - 0.5 * flat.shape[1] * var.log()
        return log_p.softmax(-1)

    def __call__(
        self, x: Float[Tensor, " b *shape"], level: Level, cond: Cond = EMPTY, *, to: Levels | None = None
    ) -> Estimate:
        """The posterior mean and (element-wise) variance; the level is a scalar or [B]."""
        parts = self.responsibilities(x, level)
        level = level.like(x).to(dtype=x.dtype)
        mean, square = torch.zeros_like(x), torch.zeros_like(x)
        for k, std in enumerate(self.stds):
            part = Normal(self.means[k], std)(x, level)
            assert part.var is not None
            share = parts[:, k].reshape(-1, *(1,) * (x.ndim - 1))
            mean = mean + share * part.x0
            square = square + share * (part.var + part.x0**2)
        return Estimate(mean, (square - mean**2).clamp(min=0))


class Empirical:
    """Data are exactly these points: x0_hat = sum softmax(-|x - alpha x_i|^2 / (2 sigma^2)) x_i.

    What a network that memorised its training set would answer; at sigma = 0 the nearest point.

    Args:
        points: [K, *shape of a row].
    """

    def __init__(self, points: Float[Tensor, " k *shape"]) -> None:
        self.points = points

    def __call__(
        self, x: Float[Tensor, " b *shape"], level: Level, cond: Cond = EMPTY, *, to: Levels | None = None
    ) -> Estimate:
        """The posterior mean and variance; the level is a scalar or [B]."""
        points = self.points.to(x).flatten(1)
        flat = x.flatten(1)
        alpha, sigma = _by_row(level, x)
        square = (flat[:, None] - alpha[:, None, None] * points).square().sum(-1)
        square = square - square.min(1, keepdim=True).values  # so that sigma = 0 leaves the nearest, not 0 / 0
        share = torch.where(square == 0, torch.zeros_like(square), -square / (2 * sigma[:, None] ** 2)).softmax(-1)
        mean = share @ points
        return Estimate(mean.reshape(x.shape), (share @ points**2 - mean**2).clamp(min=0).reshape(x.shape))


def _by_row(level: Level, x: Tensor) -> list[Tensor]:
    """alpha and sigma as [B] in the dtype of x, of a level that is a scalar or [B]."""
    return [a.to(x.dtype).expand(len(x)) if a.ndim == 0 else a.to(x.dtype).reshape(len(x)) for a in level[:2]]
