"""Densities over levels: where along the path of noise a training step looks.

A density is an inverse distribution function: from a number u in [0, 1) to a level and the log density of its log-SNR.
It draws nothing itself; the objective chooses whether the u are independent or stratified. The density knows its own
log p(log-SNR), so that a weight given per unit of log-SNR has one expected loss, whatever density is drawn from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from unnoise.core.level import Level, exact
from unnoise.core.rng import Rng
from unnoise.core.schedule import Cosine, Rectified, Schedule


@runtime_checkable
class Density(Protocol):
    """A distribution of levels."""

    @property
    def interval(self) -> tuple[float, float]:
        """(lowest, highest) log-SNR that is ever drawn."""
        ...

    def __call__(self, u: Float[Tensor, "*u"]) -> tuple[Level, Float[Tensor, "*u"]]:
        """The level at quantile u in [0, 1) (any shape; u = 0 the cleanest), and log p of its log-SNR."""
        ...


def stratified(position: Int64[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Numbers in [0, 1), evenly spread over any window of consecutive positions: the golden-ratio sequence.

    A function of the position in the stream of samples alone: it does not depend on how the stream is cut into
    batches, micro-batches and ranks.

    Args:
        position: int64 [B], the global number of each sample.
    """
    # floor(2^64 / golden ratio), as a signed number: multiplication modulo 2^64 is multiplication modulo 1.
    golden = 0x9E3779B97F4A7C15 - 2**64
    fraction = ((position * golden) >> 11 & (2**53 - 1)).to(exact(position.device)) * 2.0**-53
    return fraction.clamp(max=1 - torch.finfo(fraction.dtype).eps)  # float32 would round up to 1


def uniforms(rng: Rng, position: Int64[Tensor, " b"] | None = None) -> Float[Tensor, " b"]:
    """[B] numbers in [0, 1): stratified where positions are given, independent otherwise."""
    if position is not None:
        return stratified(position)
    return rng.uniform(torch.zeros(len(rng), dtype=exact(rng.key.device), device=rng.key.device))


def _speed(schedule: Schedule, t: Tensor) -> tuple[Level, Tensor]:
    """The level at t and |d log-SNR / dt|."""
    with torch.enable_grad():
        t = t.detach().requires_grad_()
        level = schedule(t)
        (slope,) = torch.autograd.grad(level.logsnr.sum(), t)
    return Level(level.alpha.detach(), level.sigma.detach()), slope.abs()


def _ends(schedule: Schedule, low: float, high: float) -> tuple[float, float]:
    ends = schedule(torch.tensor([low, high], dtype=torch.float64)).logsnr
    return float(ends[1]), float(ends[0])


@dataclass(frozen=True)
class UniformTime:
    """Uniform times of a schedule: DDPM's choice.

    Args:
        schedule: the path.
        low: smallest time, in (0, high); 0 would be clean data, where nothing can be learned.
        high: largest time, <= 1.
    """

    schedule: Schedule = Cosine()
    low: float = 1e-3
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high <= 1:
            raise ValueError(f"needs 0 < low < high <= 1, got {self.low} and {self.high}")

    @property
    def interval(self) -> tuple[float, float]:
        """(lowest, highest) log-SNR that is ever drawn."""
        return _ends(self.schedule, self.low, self.high)

    def __call__(self, u: Float[Tensor, "*u"]) -> tuple[Level, Float[Tensor, "*u"]]:
        """The level at t = low + u (high - low); log p = -log(high - low) - log |d log-SNR / dt|."""
        level, speed = _speed(self.schedule, self.low + u * (self.high - self.low))
        return level, -(speed * (self.high - self.low)).log()


@dataclass(frozen=True)
class LogitNormalTime:
    """logit(t) ~ N(mean, std^2) on a schedule (Esser et al. 2024, arXiv:2403.03206, eq. 19), cut at 5 std.

    Args:
        schedule: the path.
        mean: > 0 favours noise.
        std: width, > 0.
    """

    schedule: Schedule = Rectified()
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"std must be > 0, got {self.std}")

    @property
    def interval(self) -> tuple[float, float]:
        """(lowest, highest) log-SNR that is ever drawn."""
        low, high = (1 / (1 + math.exp(-self.mean - s * _REACH * self.std)) for s in (-1, 1))
        return _ends(self.schedule, low, high)

    def __call__(self, u: Float[Tensor, "*u"]) -> tuple[Level, Float[Tensor, "*u"]]:
        """log p(log-SNR) = log N(logit t) - log(t (1 - t)) - log |d log-SNR / dt|."""
        z, log_p = _normal(u)
        t = torch.sigmoid(self.mean + self.std * z)
        level, speed = _speed(self.schedule, t)
        return level, log_p - math.log(self.std) - (t * (1 - t)).log() - speed.log()


@dataclass(frozen=True)
class LogNormalSigma:
    """log(sigma / alpha) ~ N(mean, std^2) (Karras et al. 2022, arXiv:2206.00364, table 1), cut at 5 std.

    Args:
        mean: > 0 favours noise.
        std: width, > 0.
    """

    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"std must be > 0, got {self.std}")

    @property
    def interval(self) -> tuple[float, float]:
        """(lowest, highest) log-SNR that is ever drawn."""
        return -2 * (self.mean + _REACH * self.std), -2 * (self.mean - _REACH * self.std)

    def __call__(self, u: Float[Tensor, "*u"]) -> tuple[Level, Float[Tensor, "*u"]]:
        """alpha = 1, sigma = exp(mean + std z); the log-SNR is normal with twice the width."""
        z, log_p = _normal(u)
        return Level(torch.ones_like(z), (self.mean + self.std * z).exp()), log_p - math.log(2 * self.std)


_REACH = 5.0
_TAIL = 0.5 * math.erfc(_REACH / math.sqrt(2))


def _normal(u: Tensor) -> tuple[Tensor, Tensor]:
    """The normal quantile at u, cut at +-_REACH, and its log density."""
    z = math.sqrt(2) * torch.erfinv(2 * (_TAIL + u * (1 - 2 * _TAIL)) - 1)
    return z, -(z**2) / 2 - 0.5 * math.log(2 * math.pi) - math.log1p(-2 * _TAIL)
