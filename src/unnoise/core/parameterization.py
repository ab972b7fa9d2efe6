"""What a network's output means: three numbers of the level.

``x0_hat = c_skip x + c_out F(c_in x, c_noise)``, where F is the network. The training target is derived from the same
numbers (`Preconditioned.residual`), so that it is never written twice, and an unweighted square of the residual is each
paper's own loss. All obey D(k x; k alpha, k sigma) = D(x; alpha, sigma): how x is scaled is nobody's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from unnoise.core.level import Level


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
    """From a level to the three coefficients.

    needs_signal: whether the coefficients are infinite at alpha = 0; such a parameterization is refused where a
    denoiser is to cover pure noise.
    """

    needs_signal: ClassVar[bool]

    def __call__(self, level: Level) -> Coeffs:
        """The coefficients at `level`."""
        ...


@dataclass(frozen=True)
class Eps:
    """The network predicts the noise: F* = eps (Ho et al. 2020, arXiv:2006.11239, eq. 12)."""

    needs_signal: ClassVar[bool] = True

    def __call__(self, level: Level) -> Coeffs:
        """c_skip = 1 / alpha, c_out = -sigma / alpha."""
        alpha, sigma, _ = level
        return Coeffs(torch.rsqrt(alpha**2 + sigma**2), 1 / alpha, -sigma / alpha)


@dataclass(frozen=True)
class X0:
    """The network predicts the data: F* = x0."""

    needs_signal: ClassVar[bool] = False

    def __call__(self, level: Level) -> Coeffs:
        """c_skip = 0, c_out = 1."""
        alpha, sigma, _ = level
        return Coeffs(torch.rsqrt(alpha**2 + sigma**2), torch.zeros_like(alpha), torch.ones_like(alpha))


@dataclass(frozen=True)
class V:
    """The network predicts the velocity of the angle: F* = alpha eps - sigma x0 in the variance-preserving frame.

    Source: Salimans & Ho 2022, arXiv:2202.00512, appendix D.
    """

    needs_signal: ClassVar[bool] = False

    def __call__(self, level: Level) -> Coeffs:
        """c_skip = alpha / n, c_out = -sigma / sqrt(n), n = alpha^2 + sigma^2."""
        alpha, sigma, _ = level
        n = alpha**2 + sigma**2
        return Coeffs(n.rsqrt(), alpha / n, -sigma * n.rsqrt())


@dataclass(frozen=True)
class Flow:
    """The network predicts the straight line's velocity: F* = eps - x0 (Lipman et al. 2022, arXiv:2210.02747)."""

    needs_signal: ClassVar[bool] = False

    def __call__(self, level: Level) -> Coeffs:
        """c_in = c_skip = 1 / (alpha + sigma), c_out = -sigma / (alpha + sigma)."""
        alpha, sigma, _ = level
        n = alpha + sigma
        return Coeffs(1 / n, 1 / n, -sigma / n)


@dataclass(frozen=True)
class Edm:
    """The target has unit variance at every level (Karras et al. 2022, arXiv:2206.00364, table 1).

    Args:
        sigma_data: standard deviation of the data, > 0.
    """

    needs_signal: ClassVar[bool] = False
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
