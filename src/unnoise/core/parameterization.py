"""What a network is shown of a state, and what its output means.

For Gaussian states that is three numbers of the level: ``x0_hat = c_skip x + c_out F(c_in x, c_noise)``, where F is the
network. The training target is derived from the same numbers (`Affine.residual`), so that it is never written twice,
and an unweighted square of the residual is each paper's own loss. All obey D(k x; k alpha, k sigma) = D(x; alpha,
sigma): how x is scaled is nobody's business. For tokens it is a softmax (`Categorical`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from unnoise.core.discrete import certain
from unnoise.core.estimate import Estimate
from unnoise.core.level import Level
from unnoise.core.process import posterior


class Coeffs(NamedTuple):
    """x0_hat = c_skip x + c_out F(c_in x, c_noise).

    Args:
        c_in: of the network's input; of the shape of the level, as the others.
        c_skip: of the state.
        c_out: of the network's output.
    """

    c_in: Float[Tensor, "*level"]
    c_skip: Float[Tensor, "*level"]
    c_out: Float[Tensor, "*level"]


@runtime_checkable
class Parameterization(Protocol):
    """From a state to what the network is shown, and from its output to an estimate.

    needs_signal: whether it has no estimate at alpha = 0; such a parameterization is refused where a denoiser is to
    cover pure noise.
    """

    @property
    def needs_signal(self) -> bool:
        """See above."""
        ...

    def shown(self, x: Shaped[Tensor, " b *shape"], level: Level) -> Shaped[Tensor, " b *shape"]:
        """What the network is given of the state x at `level`."""
        ...

    def estimate(
        self, out: Float[Tensor, "b ..."], x: Shaped[Tensor, "b ..."], level: Level, to: Level | None = None
    ) -> Estimate:
        """What the network's output says of x0; `to` is where the caller goes."""
        ...


class Affine(ABC):
    """The parameterizations of Gaussian states: three coefficients of the level."""

    needs_signal: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, level: Level) -> Coeffs:
        """The coefficients at `level`."""

    def shown(self, x: Float[Tensor, " b *shape"], level: Level) -> Float[Tensor, " b *shape"]:
        """c_in x."""
        return self(level.like(x)).c_in * x

    def estimate(
        self, out: Float[Tensor, "b ..."], x: Float[Tensor, "b ..."], level: Level, to: Level | None = None
    ) -> Estimate:
        """c_skip x + c_out out; Raises ValueError for an output of another shape than x."""
        c = self(level.like(x))
        return Estimate((c.c_skip * x + c.c_out * _like(out, x)).to(x.dtype))

    def residual(
        self, out: Float[Tensor, "b ..."], x0: Float[Tensor, "b ..."], eps: Float[Tensor, "b ..."], level: Level
    ) -> Float[Tensor, "b ..."]:
        """out - F*, F* = ((1 - c_skip alpha) x0 - c_skip sigma eps) / c_out; times c_out it is x0_hat - x0."""
        level = level.like(x0)
        c = self(level)
        return _like(out, x0) - ((1 - c.c_skip * level.alpha) * x0 - c.c_skip * level.sigma * eps) / c.c_out


def _like(out: Tensor, x: Tensor) -> Tensor:
    if out.shape != x.shape:
        raise ValueError(f"the network answered {tuple(out.shape)} to a state of shape {tuple(x.shape)}")
    return out


@dataclass(frozen=True)
class Eps(Affine):
    """The network predicts the noise: F* = eps (Ho et al. 2020, arXiv:2006.11239, eq. 12)."""

    needs_signal: ClassVar[bool] = True

    def __call__(self, level: Level) -> Coeffs:
        """c_skip = 1 / alpha, c_out = -sigma / alpha."""
        alpha, sigma, _ = level
        return Coeffs(torch.rsqrt(alpha**2 + sigma**2), 1 / alpha, -sigma / alpha)


@dataclass(frozen=True)
class X0(Affine):
    """The network predicts the data: F* = x0."""

    def __call__(self, level: Level) -> Coeffs:
        """c_skip = 0, c_out = 1."""
        alpha, sigma, _ = level
        return Coeffs(torch.rsqrt(alpha**2 + sigma**2), torch.zeros_like(alpha), torch.ones_like(alpha))


@dataclass(frozen=True)
class V(Affine):
    """The network predicts the velocity of the angle: F* = alpha eps - sigma x0 in the variance-preserving frame.

    Source: Salimans & Ho 2022, arXiv:2202.00512, appendix D.
    """

    def __call__(self, level: Level) -> Coeffs:
        """c_skip = alpha / n, c_out = -sigma / sqrt(n), n = alpha^2 + sigma^2."""
        alpha, sigma, _ = level
        n = alpha**2 + sigma**2
        return Coeffs(n.rsqrt(), alpha / n, -sigma * n.rsqrt())


@dataclass(frozen=True)
class Flow(Affine):
    """The network predicts the straight line's velocity: F* = eps - x0 (Lipman et al. 2022, arXiv:2210.02747)."""

    def __call__(self, level: Level) -> Coeffs:
        """c_in = c_skip = 1 / (alpha + sigma), c_out = -sigma / (alpha + sigma)."""
        alpha, sigma, _ = level
        n = alpha + sigma
        return Coeffs(1 / n, 1 / n, -sigma / n)


@dataclass(frozen=True)
class Edm(Affine):
    """The target has unit variance at every level (Karras et al. 2022, arXiv:2206.00364, table 1).

    Args:
        sigma_data: standard deviation of the data, > 0.
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        if not self.sigma_data > 0:
            raise ValueError(f"sigma_data must be > 0, got {self.sigma_data}")

    def __call__(self, level: Level) -> Coeffs:
        """c_skip = alpha s^2 / m, c_out = sigma s / sqrt(m), m = alpha^2 s^2 + sigma^2, s = sigma_data."""
        alpha, sigma, _ = level
        s = self.sigma_data
        m = alpha**2 * s**2 + sigma**2
        return Coeffs(m.rsqrt(), alpha * s**2 / m, sigma * s * m.rsqrt())


@dataclass(frozen=True)
class Categorical:
    """The network's output [B, ..., V] is logits over a vocabulary, of tokens x [B, ...].

    Args:
        carry_over: a token that is not masked (id < V) is certain: noise by masks leaves nothing else in its place
            (Sahoo et al. 2024, arXiv:2406.07524, section 3.2.3). False where tokens are replaced by others.
    """

    needs_signal: ClassVar[bool] = False
    carry_over: bool = True

    def shown(self, x: Int64[Tensor, " b *shape"], level: Level) -> Int64[Tensor, " b *shape"]:
        """The tokens themselves."""
        return x

    def estimate(
        self, out: Float[Tensor, "b ..."], x: Int64[Tensor, "b ..."], level: Level, to: Level | None = None
    ) -> Estimate:
        """Log-probabilities [B, ..., V]; Raises ValueError for an output that is not one more axis than x."""
        if out.shape[:-1] != x.shape:
            raise ValueError(f"the network answered {tuple(out.shape)} to tokens of shape {tuple(x.shape)}")
        log_p = out.float().log_softmax(-1)
        if self.carry_over:
            log_p = torch.where(x.unsqueeze(-1) < log_p.shape[-1], certain(x, log_p), log_p)
        return Estimate(log_p)


@dataclass(frozen=True)
class LearnedVariance:
    """The network answers, in twice the channels (axis 1), the mean and where its variance lies between two bounds.

    With f = (v + 1) / 2 of the second half v, the step's variance is exp(f log large + (1 - f) log small), from the
    posterior's to that of standard normal data (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 15). The estimate carries
    the Var[x0 | x] that makes `Gaussian.backward(var="learned")` draw with it. So it depends on where the step goes:
    without `to` there is no variance. In a step to clean data, whose small variance is 0, `floor` times the large one
    stands in its place. v is not bounded, as theirs is not: Var[x0 | x] may be negative, the step's variance is not.

    Args:
        mean: what the first half means.
        floor: ratio of the two variances in a step to clean data.
    """

    mean: Affine
    floor: float = 1e-3

    @property
    def needs_signal(self) -> bool:
        """That of the mean."""
        return self.mean.needs_signal

    def __call__(self, level: Level) -> Coeffs:
        """The coefficients of the mean."""
        return self.mean(level)

    def shown(self, x: Float[Tensor, " b *shape"], level: Level) -> Float[Tensor, " b *shape"]:
        """c_in x."""
        return self.mean.shown(x, level)

    def estimate(
        self, out: Float[Tensor, "b ..."], x: Float[Tensor, "b ..."], level: Level, to: Level | None = None
    ) -> Estimate:
        """The mean's estimate and, where `to` is given, Var[x0 | x]; Raises ValueError for other than 2 C channels."""
        mean, v = _halves(out, x)
        est = self.mean.estimate(mean, x, level)
        if to is None:
            return est
        src, dst = level.like(x), to.like(x)
        c = posterior(src, dst)
        share = torch.where(c.small > 0, c.small / c.large, self.floor)
        total = c.large * share ** ((1 - v.to(x.dtype)) / 2)
        return est._replace(var=((total - c.small) / c.gain**2).expand_as(x))

    def residual(
        self, out: Float[Tensor, "b ..."], x0: Float[Tensor, "b ..."], eps: Float[Tensor, "b ..."], level: Level
    ) -> Float[Tensor, "b ..."]:
        """That of the mean."""
        return self.mean.residual(_halves(out, x0)[0], x0, eps, level)


def _halves(out: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    if out.ndim < 2 or out.shape[:2] != (x.shape[0], 2 * x.shape[1]) or out.shape[2:] != x.shape[2:]:
        raise ValueError(
            f"a learned variance needs twice the channels: the network answered {tuple(out.shape)} to a state of shape "
            f"{tuple(x.shape)}; build it with out_channels={2 * x.shape[1]}"
        )
    mean, v = out.chunk(2, dim=1)
    return mean, v
