"""Noise schedules: from a time t in [0, 1] to a `Level`; t = 0 is data, t = 1 is noise, everywhere in this project.

Times live here, in the training densities and in the sampling grids, nowhere else. A schedule is a frozen value and
is computed in the dtype of t (use float64). Tables of T discrete steps sit at t = k / T, k = 1..T, with t = 0 clean;
between them alpha is interpolated linearly. A table is computed where it is wanted, in float64 where the device has it:
so nothing is uploaded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from unnoise.core.constant import constant
from unnoise.core.level import Frame, Level, exact

HOST = torch.device("cpu")


@runtime_checkable
class Schedule(Protocol):
    """A monotone path of levels."""

    def __call__(self, t: Float[Tensor, "*t"]) -> Level:
        """The level at time t in [0, 1] (any shape); 0 is data, 1 is noise."""
        ...


def _check_betas(start: float, end: float, steps: int) -> None:
    if not 0 < start <= end < 1:
        raise ValueError(f"betas must satisfy 0 < start <= end < 1, got {start} and {end}")
    if steps < 1:
        raise ValueError(f"a table needs at least one step, got {steps}")


def _alphas(betas: Tensor) -> Tensor:
    """sqrt of the cumulative product of 1 - beta, with the clean level in front: [T] -> [T + 1]."""
    return torch.cat([torch.ones_like(betas[:1]), (1 - betas).cumprod(0).sqrt()])


def entries(table: Tensor, index: Tensor) -> Tensor:
    """table[index] for an index of any shape: for one without axes torch itself would ask the host for the number."""
    return table[index[None]][0]


def _look_up(alphas: Tensor, t: Tensor) -> Level:
    """The level at time t of a table [T + 1] of alphas at t = 0, 1/T, .., 1; variance preserving."""
    alphas = alphas.to(t)
    steps = len(alphas) - 1
    k = (t * steps).floor().clamp(0, steps - 1)
    i = k.long()
    low, high = entries(alphas, i), entries(alphas, i + 1)
    alpha = low + (t * steps - k) * (high - low)
    return Level(alpha, ((1 - alpha) * (1 + alpha)).clamp(min=0).sqrt())


def _pinned(values: Tensor, t: Tensor, first: float, last: float) -> Tensor:
    """`values`, exact at both ends: rounding there would leave noise on data, or data in noise."""
    return values.masked_fill(t <= 0, first).masked_fill(t >= 1, last)


@dataclass(frozen=True)
class Linear:
    """DDPM's table: beta from 1e-4 to 0.02 in 1000 equal steps (Ho et al. 2020, arXiv:2006.11239, section 4).

    Args:
        start: first beta.
        end: last beta.
        steps: length of the table.
    """

    start: float = 1e-4
    end: float = 0.02
    steps: int = 1000

    def __post_init__(self) -> None:
        _check_betas(self.start, self.end, self.steps)

    def alphas(self, device: torch.device = HOST) -> Float[Tensor, " entries"]:
        """[steps + 1]: alpha at t = 0, 1/steps, .., 1."""
        return _alphas(torch.linspace(self.start, self.end, self.steps, dtype=exact(device), device=device))

    def __call__(self, t: Float[Tensor, "*t"]) -> Level:
        return _look_up(self.alphas(t.device), t)


@dataclass(frozen=True)
class ScaledLinear:
    """Stable Diffusion's table: sqrt(beta) is linear (Rombach et al. 2022, arXiv:2112.10752, released configuration).

    Args:
        start: first beta.
        end: last beta.
        steps: length of the table.
    """

    start: float = 0.00085
    end: float = 0.012
    steps: int = 1000

    def __post_init__(self) -> None:
        _check_betas(self.start, self.end, self.steps)

    def alphas(self, device: torch.device = HOST) -> Float[Tensor, " entries"]:
        """[steps + 1]: alpha at t = 0, 1/steps, .., 1."""
        roots = torch.linspace(self.start**0.5, self.end**0.5, self.steps, dtype=exact(device), device=device)
        return _alphas(roots**2)

    def __call__(self, t: Float[Tensor, "*t"]) -> Level:
        return _look_up(self.alphas(t.device), t)


@dataclass(frozen=True)
class Table:
    """Any table of betas.

    Args:
        betas: the variance added at each step, each in (0, 1).
    """

    betas: tuple[float, ...]

    def __post_init__(self) -> None:
        for k, beta in enumerate(self.betas):
            if not 0 < beta < 1:
                raise ValueError(f"betas must lie in (0, 1), got {beta} at step {k}")
        if not self.betas:
            raise ValueError("a table needs at least one step, got none")

    def alphas(self, device: torch.device = HOST) -> Float[Tensor, " entries"]:
        """[steps + 1]: alpha at t = 0, 1/steps, .., 1."""
        return _alphas(constant(self.betas, exact(device), device))

    def __call__(self, t: Float[Tensor, "*t"]) -> Level:
        return _look_up(self.alphas(t.device), t)


@dataclass(frozen=True)
class ZeroTerminal:
    """A table whose last level is made pure noise (Lin et al. 2023, arXiv:2305.08891, algorithm 1).

    alpha is shifted so that its last entry is 0 and scaled so that its first noisy one stays what it was. A network
    that predicts eps has nothing to say at alpha = 0: that pair is refused where a denoiser is built.

    Args:
        table: the table to change.
    """

    table: Linear | ScaledLinear | Table

    def __post_init__(self) -> None:
        if len(self.table.alphas()) < 3:
            raise ValueError("a table with zero terminal SNR needs at least two steps, got a table of one")

    def alphas(self, device: torch.device = HOST) -> Float[Tensor, " entries"]:
        """[steps + 1]: alpha at t = 0, 1/steps, .., 1; the last is 0."""
        alphas = self.table.alphas(device)
        noisy = alphas[1:] - alphas[-1]
        return torch.cat([alphas[:1], noisy * (alphas[1] / noisy[0])])

    def __call__(self, t: Float[Tensor, "*t"]) -> Level:
        return _look_up(self.alphas(t.device), t)


@dataclass(frozen=True)
class Cosine:
    """alpha^2 = f(t) / f(0), f = cos^2((t + s) / (1 + s) pi / 2) (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 17).

    Continuous, without their clip of the last beta at 0.999: alpha is 0 at t = 1. offset = 0 is the angle itself,
    alpha = cos(t pi / 2) (Salimans & Ho 2022; simple diffusion).

    Args:
        offset: s, which keeps the first steps from being too small.
    """

    offset: float = 0.008

    def __call__(self, t: Float[Tensor, "*t"]) -> Level:
        phase = (t + self.offset) / (1 + self.offset) * (math.pi / 2)
        first = math.cos(self.offset / (1 + self.offset) * math.pi / 2)
        alpha = _pinned((phase.cos() / first).clamp(0, 1), t, 1.0, 0.0)  # cos(pi / 2) is 6e-17 in floating point
        return Level(alpha, ((1 - alpha) * (1 + alpha)).clamp(min=0).sqrt())


@dataclass(frozen=True)
class Sigmoid:
    """alpha^2 falls like a sigmoid between two points of it (Chen 2023, arXiv:2301.10972, algorithm 1).

    alpha^2 = (S(end) - S(start + t (end - start))) / (S(end) - S(start)), S(u) = sigmoid(u / tau).

    Args:
        start: where on the sigmoid t = 0 lies.
        end: where t = 1 lies, > start.
        tau: temperature, > 0.
    """

    start: float = -3.0
    end: float = 3.0
    tau: float = 1.0

    def __post_init__(self) -> None:
        if not (self.end > self.start and self.tau > 0):
            raise ValueError(f"needs end > start and tau > 0, got {self.start}, {self.end}, {self.tau}")

    def __call__(self, t: Float[Tensor, "*t"]) -> Level:
        first, last = (1 / (1 + math.exp(-u / self.tau)) for u in (self.start, self.end))
        s = torch.sigmoid((self.start + t * (self.end - self.start)) / self.tau)
        clean = _pinned(((last - s) / (last - first)).clamp(0, 1), t, 1.0, 0.0)
        noisy = _pinned(((s - first) / (last - first)).clamp(0, 1), t, 0.0, 1.0)
        return Level(clean.sqrt(), noisy.sqrt())


@dataclass(frozen=True)
class Rectified:
    """alpha = 1 - t, sigma = t: the straight path of rectified flow (Liu et al. 2022, arXiv:2209.03003)."""

    def __call__(self, t: Float[Tensor, "*t"]) -> Level:
        return Level(1 - t, t + 0)


@dataclass(frozen=True)
class Masking:
    """alpha = sqrt(1 - t), sigma = sqrt(t): of tokens a share t is masked.

    "Log-linear" in Sahoo et al. 2024, arXiv:2406.07524, section 5.
    """

    def __call__(self, t: Float[Tensor, "*t"]) -> Level:
        """The level at time t."""
        return Level((1 - t).sqrt(), t.sqrt())


@dataclass(frozen=True)
class Karras:
    """alpha = 1, sigma^(1/rho) linear in t (Karras et al. 2022, arXiv:2206.00364, eq. 5).

    It begins at `sigma_min`, not at 0: EDM's grids append the clean level (`grids.karras`).

    Args:
        sigma_min: sigma at t = 0, > 0.
        sigma_max: sigma at t = 1.
        rho: how much the path favours low noise.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        if not (0 < self.sigma_min < self.sigma_max and self.rho > 0):
            raise ValueError(
                f"needs 0 < sigma_min < sigma_max and rho > 0, got {self.sigma_min}, {self.sigma_max}, {self.rho}"
            )

    def __call__(self, t: Float[Tensor, "*t"]) -> Level:
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return Level(torch.ones_like(t), (low + t * (high - low)) ** self.rho)


@dataclass(frozen=True)
class Shifted:
    """Another schedule with its log-SNR moved by a constant, for images larger than the schedule was made for.

    simple diffusion (Hoogeboom et al. 2023, arXiv:2301.11093, eq. 3-4) moves by 2 log(64 / size) from 64 pixels; Stable
    Diffusion 3's shift s of a rectified path (Esser et al. 2024, arXiv:2403.03206, eq. 23) is -2 log(s), frame "flow".

    Args:
        schedule: the schedule to move.
        shift: added to the log-SNR; negative is noisier.
        frame: how x is to be scaled.
    """

    schedule: Schedule
    shift: float = 0.0
    frame: Frame = "vp"

    def __call__(self, t: Float[Tensor, "*t"]) -> Level:
        return Level.of_logsnr(self.schedule(t).logsnr + self.shift, self.frame)
