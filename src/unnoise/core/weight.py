"""Weights of the training loss as functions of the log-SNR.

One convention: w(log-SNR) multiplies |x0_hat - x0|^2. With the residual r in the network's own space that is
w c_out^2 |r|^2, which is converted in one place (`objective.Denoising`). The papers come in two kinds. Those that draw
times and weight what they draw are *relative*: the density of the drawn levels is part of the loss. Those that write an
integral over log-SNR are *absolute*: the loss is divided by that density, and any density has the same expectation.
``absolute`` says which, defaults to the paper's, and may be chosen. No weight (None) is the network's own residual with
weight 1: L_simple for Eps, v, flow and EDM losses for theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Weight(Protocol):
    """A weight of |x0_hat - x0|^2.

    absolute: whether it is per unit of log-SNR, so that the loss is divided by the density of the drawn log-SNR.
    """

    @property
    def absolute(self) -> bool:
        """Whether the loss is divided by the density of what is drawn."""
        ...

    def __call__(self, logsnr: Float[Tensor, "*level"]) -> Float[Tensor, "*level"]:
        """w at each log-SNR; >= 0 and finite for a finite one."""
        ...


@dataclass(frozen=True)
class Snr:
    """w = SNR: the plain mean square of eps, whatever is predicted (Ho et al. 2020, arXiv:2006.11239, eq. 14).

    Args:
        absolute: whether the loss is divided by the density of the drawn log-SNR.
    """

    absolute: bool = False

    def __call__(self, logsnr: Float[Tensor, "*level"]) -> Float[Tensor, "*level"]:
        """exp(logsnr)."""
        return logsnr.exp()


@dataclass(frozen=True)
class TruncatedSnr:
    """w = max(SNR, 1) (Salimans & Ho 2022, arXiv:2202.00512, section 4).

    Args:
        absolute: whether the loss is divided by the density of the drawn log-SNR.
    """

    absolute: bool = False

    def __call__(self, logsnr: Float[Tensor, "*level"]) -> Float[Tensor, "*level"]:
        """max(exp(logsnr), 1)."""
        return logsnr.exp().clamp(min=1)


@dataclass(frozen=True)
class MinSnr:
    """w = min(SNR, gamma) (Hang et al. 2023, arXiv:2303.09556, section 3.4).

    Args:
        gamma: where the weight of clean levels stops to grow.
        absolute: whether the loss is divided by the density of the drawn log-SNR.
    """

    gamma: float = 5.0
    absolute: bool = False

    def __call__(self, logsnr: Float[Tensor, "*level"]) -> Float[Tensor, "*level"]:
        """min(exp(logsnr), gamma)."""
        return logsnr.exp().clamp(max=self.gamma)


@dataclass(frozen=True)
class P2:
    """w = SNR / (k + SNR)^gamma: perception prioritized (Choi et al. 2022, arXiv:2204.00227, eq. 8).

    Args:
        k: keeps noisy levels from exploding.
        gamma: strength; 0 is Snr.
        absolute: whether the loss is divided by the density of the drawn log-SNR.
    """

    k: float = 1.0
    gamma: float = 1.0
    absolute: bool = False

    def __call__(self, logsnr: Float[Tensor, "*level"]) -> Float[Tensor, "*level"]:
        """SNR / (k + SNR)^gamma."""
        snr = logsnr.exp()
        return snr / (self.k + snr) ** self.gamma


@dataclass(frozen=True)
class Sigmoid:
    """w = SNR sigmoid(bias - logsnr): a sigmoid weight of the error in eps (Kingma & Gao 2023, arXiv:2303.00848).

    Hoogeboom et al. 2024 ("Simpler diffusion", arXiv:2410.19324, section 3) write it with a bias of -3 to 3.

    Args:
        bias: the log-SNR at which the weight of the error in eps is 1/2.
        absolute: whether the loss is divided by the density of the drawn log-SNR.
    """

    bias: float = 2.0
    absolute: bool = True

    def __call__(self, logsnr: Float[Tensor, "*level"]) -> Float[Tensor, "*level"]:
        """exp(logsnr) sigmoid(bias - logsnr)."""
        return logsnr.exp() * torch.sigmoid(self.bias - logsnr)


@dataclass(frozen=True)
class EdmWeight:
    """w = (sigma^2 + s^2) / (sigma s)^2 in the frame alpha = 1 (Karras et al. 2022, arXiv:2206.00364, table 1).

    That is 1 / c_out^2 of `Edm(s)`: with Edm itself the same as no weight, with another parameterization EDM's loss.

    Args:
        sigma_data: s.
        absolute: whether the loss is divided by the density of the drawn log-SNR.
    """

    sigma_data: float = 0.5
    absolute: bool = False

    def __call__(self, logsnr: Float[Tensor, "*level"]) -> Float[Tensor, "*level"]:
        """SNR + 1 / s^2."""
        return logsnr.exp() + 1 / self.sigma_data**2
