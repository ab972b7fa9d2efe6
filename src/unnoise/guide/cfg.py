"""Classifier-free guidance, on all that is said or attribute by attribute, everywhere or within an interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unnoise.core.denoiser import EMPTY, Cond, Denoiser
from unnoise.core.estimate import Estimate
from unnoise.core.level import Level, leaves
from unnoise.core.process import Process


@dataclass(frozen=True)
class Cfg:
    """x0_hat = scale x0_hat(cond) + (1 - scale) x0_hat(null) (Ho & Salimans 2022, arXiv:2207.12598).

    scale = 1 is off and costs nothing; their w is scale - 1.

    Args:
        denoise: what to guide.
        process: whose estimates are mixed.
        null: from the conditions of a batch to the same with nothing said (`Conditioner.null`).
        scale: the guidance scale, a float, or a tensor that broadcasts against x0.
    """

    denoise: Denoiser[Any]
    process: Process[Any]
    null: Callable[[Cond], Cond]
    scale: float | Tensor = 1.0

    @property
    def interval(self) -> tuple[float, float] | None:
        """That of the denoiser inside."""
        return getattr(self.denoise, "interval", None)

    def __call__(self, x: Any, level: Any, cond: Cond = EMPTY, *, to: Any = None) -> Any:
        """The guided estimate."""
        told = self.denoise(x, level, cond, to=to)
        return extrapolated(self.process, self.scale, told, lambda: self.denoise(x, level, self.null(cond), to=to))


def extrapolated(process: Process[Any], scale: float | Tensor, estimate: Any, weaker: Callable[[], Any]) -> Any:
    """scale estimate + (1 - scale) weaker, which is evaluated unless the scale is the float 1."""
    if not isinstance(scale, Tensor) and scale == 1:
        return estimate
    return process.mix([weaker(), estimate], [1 - scale, scale])


@dataclass(frozen=True)
class CfgEach:
    """x0_hat = x0_hat(all) + sum over k of (scale_k - 1) (x0_hat(all) - x0_hat(all but k)).

    To the score that adds (scale_k - 1) grad log p(k | x, the others): scale_k = 1 leaves attribute k as it is said and
    costs nothing, 0 is as if it had not been said, more sharpens what shows it. With one attribute this is `Cfg`.

    The sum is the conjunction of Liu et al. 2022 (arXiv:2206.01714), x0_hat(none) + sum of w_k (x0_hat(k) -
    x0_hat(none)), but around all that is said instead of around nothing: theirs takes attributes to be independent
    given the noisy x, which near pure noise they are not even where each can be seen in clean data; this one is the
    conditional model itself where all scales are 1, and takes an evaluation for each attribute that is guided instead
    of one for each that is said. In a world where means add up the two agree.

    Args:
        denoise: what to guide.
        process: whose estimates are mixed.
        without: from the conditions of a batch and an attribute to the same with nothing said of that
            (`Labels.without`).
        scales: the guidance scale by attribute; one of which nothing is said has no effect.
    """

    denoise: Denoiser[Any]
    process: Process[Any]
    without: Callable[[Cond, str], Cond]
    scales: Mapping[str, float]

    @property
    def interval(self) -> tuple[float, float] | None:
        """That of the denoiser inside."""
        return getattr(self.denoise, "interval", None)

    def __call__(self, x: Any, level: Any, cond: Cond = EMPTY, *, to: Any = None) -> Any:
        """The guided estimate."""
        excess = {k: scale - 1 for k, scale in self.scales.items() if scale != 1}
        told = self.denoise(x, level, cond, to=to)
        if not excess:
            return told
        others = [self.denoise(x, level, self.without(cond, k), to=to) for k in excess]
        return self.process.mix([*others, told], [*(-w for w in excess.values()), 1 + sum(excess.values())])


@dataclass(frozen=True)
class Interval:
    """One denoiser where low < log-SNR < high, another elsewhere (Kynkäänniemi et al. 2024, arXiv:2404.07724).

    Decided on the host where the plan knows the level there, so that guidance costs nothing outside; where rows have
    levels of their own both are evaluated and chosen between.

    Args:
        inside: the guided denoiser.
        outside: the plain one.
        low: lowest log-SNR (exclusive) of the interval.
        high: highest log-SNR (exclusive).
    """

    inside: Denoiser[Any]
    outside: Denoiser[Any]
    low: float = -math.inf
    high: float = math.inf

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"the guidance interval of log-SNR needs low < high, got {self.low} and {self.high}")

    @property
    def interval(self) -> tuple[float, float] | None:
        """The trained interval of the denoiser outside."""
        return getattr(self.outside, "interval", None)

    def __call__(self, x: Any, level: Any, cond: Cond = EMPTY, *, to: Any = None) -> Any:
        """The estimate of whichever is in charge."""
        if isinstance(level, Level) and level.host is not None:
            alpha, sigma = level.host
            logsnr = 2 * (math.log(alpha) if alpha > 0 else -math.inf) - 2 * (
                math.log(sigma) if sigma > 0 else -math.inf
            )
            chosen = self.inside if self.low < logsnr < self.high else self.outside
            return chosen(x, level, cond, to=to)
        if not isinstance(level, Level) or len(leaves(level)) != 1:
            raise ValueError("a guidance interval needs one level for the whole state")
        inside, outside = (d(x, level, cond, to=to) for d in (self.inside, self.outside))
        logsnr_x = level.like(x).logsnr
        where = (self.low < logsnr_x) & (logsnr_x < self.high)
        known = inside.var is not None and outside.var is not None
        var = torch.where(where, inside.var, outside.var) if known else None
        return Estimate(torch.where(where, inside.x0, outside.x0), var)
