"""Grids: the lists of levels that samplers walk, noise first, clean data last.

A grid is a frozen value: called with a number of steps and the trained interval of log-SNR it gives levels [steps + 1]
in float64 on the host. The first level is the noisiest of the interval that the grid's own path reaches; the last is
clean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from unnoise.core.level import CLEAN, Frame, Level
from unnoise.core.schedule import Cosine, Linear, ScaledLinear, Schedule, Table, ZeroTerminal

__all__ = ["KarrasGrid", "LogSnrGrid", "TrailingGrid", "UniformGrid"]


@runtime_checkable
class Grid(Protocol):
    """From a number of steps to levels."""

    def __call__(self, steps: int, interval: tuple[float, float]) -> Level:
        """Levels [steps + 1], float64, the last one clean; inside `interval`, (lowest, highest) log-SNR."""
        ...


def _steps(steps: int) -> int:
    if steps < 1:
        raise ValueError(f"a grid needs at least 1 step, got {steps}")
    return steps


def _clean_end(levels: Level) -> Level:
    """The levels with the clean one appended."""
    return Level(*(torch.cat([a, c.to(a).reshape(1)]) for a, c in zip(levels[:2], CLEAN[:2], strict=True)))  # type: ignore[arg-type]


def _time_of(schedule: Schedule, logsnr: float, low: float, high: float) -> float:
    """The time in [low, high] at which a schedule, monotone, passes a log-SNR: bisection to 60 bits."""
    for _ in range(60):
        middle = (low + high) / 2
        if float(schedule(torch.tensor(middle, dtype=torch.float64)).logsnr) > logsnr:
            low = middle
        else:
            high = middle
    return low


@dataclass(frozen=True)
class UniformGrid:
    """Equal steps in the time of a schedule, from where the trained interval begins to t = 0.

    Args:
        schedule: whose time; it must be clean at t = 0.
    """

    schedule: Schedule = Cosine()

    def __call__(self, steps: int, interval: tuple[float, float]) -> Level:
        """t = start (1 - k / steps)."""
        one = torch.ones((), dtype=torch.float64)
        start = 1.0
        if float(self.schedule(one).logsnr) < interval[0]:
            start = _time_of(self.schedule, interval[0], 0.0, 1.0)
        return self.schedule(torch.linspace(start, 0, _steps(steps) + 1, dtype=torch.float64))


@dataclass(frozen=True)
class KarrasGrid:
    """sigma^(1/rho) in equal steps, then clean (Karras et al. 2022, arXiv:2206.00364, eq. 5), in the frame alpha = 1.

    Args:
        sigma_min: smallest noise (sigma / alpha) before the clean end.
        sigma_max: largest noise; None: that of the trained interval.
        rho: how much the steps favour low noise; positive.

    Raises:
        ValueError: for another rho.
    """

    sigma_min: float = 0.002
    sigma_max: float | None = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        if not 0 < self.rho < math.inf:
            raise ValueError(f"rho must be positive and finite, got {self.rho}")

    def __call__(self, steps: int, interval: tuple[float, float]) -> Level:
        """steps levels from sigma_max to sigma_min, and the clean one."""
        high = math.exp(-interval[0] / 2) if self.sigma_max is None else self.sigma_max
        if not math.isfinite(high):
            raise ValueError("the trained interval reaches pure noise, where sigma / alpha is infinite: give sigma_max")
        if not 0 < self.sigma_min < high:
            raise ValueError(f"needs 0 < sigma_min < sigma_max, got {self.sigma_min} and {high}")
        share = torch.linspace(0, 1, _steps(steps), dtype=torch.float64)
        ends = [s ** (1 / self.rho) for s in (high, self.sigma_min)]
        sigma = (ends[0] + share * (ends[1] - ends[0])) ** self.rho
        return _clean_end(Level(torch.ones_like(sigma), sigma))


@dataclass(frozen=True)
class LogSnrGrid:
    """Equal steps in log-SNR, then clean (Lu et al. 2022, arXiv:2206.00927).

    Args:
        low: first log-SNR; None: the lowest of the trained interval, which must then be finite.
        high: last log-SNR before the clean end; None: the highest of the trained interval.
        frame: how x is scaled on the way.
    """

    low: float | None = None
    high: float | None = None
    frame: Frame = "vp"

    def __call__(self, steps: int, interval: tuple[float, float]) -> Level:
        """steps levels from low to high, and the clean one."""
        low = interval[0] if self.low is None else self.low
        high = interval[1] if self.high is None else self.high
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"equal steps in log-SNR need finite ends low < high, got {low} and {high}: give both")
        logsnr: Tensor = torch.linspace(low, high, _steps(steps), dtype=torch.float64)
        return _clean_end(Level.of_logsnr(logsnr, self.frame))


@dataclass(frozen=True)
class TrailingGrid:
    """Every (T / steps)-th entry of a table, counted from its noisy end, so that t = T is always there.

    "Trailing" of Lin et al. 2023, arXiv:2305.08891, table 2; with steps = T DDPM's own list.

    Args:
        table: the table of the training.
    """

    table: Linear | ScaledLinear | Table | ZeroTerminal = Linear()

    def __call__(self, steps: int, interval: tuple[float, float]) -> Level:
        """Entries round(T - k T / steps), k = 0..steps."""
        alphas = self.table.alphas()
        length = len(alphas) - 1
        if _steps(steps) > length:
            raise ValueError(f"a table of {length} entries has no grid of {steps} steps")
        k = (length - torch.arange(steps + 1, dtype=torch.float64) * length / steps).round().long()
        alpha = alphas[k]
        return Level(alpha, ((1 - alpha) * (1 + alpha)).sqrt())


@dataclass(frozen=True)
class RollingGrid:
    """Another grid, walked by each element along one axis of the state some steps later than by the one before.

    Element i stands still at the first level for lag i steps, takes the grid's steps, and stays clean. So the sequence
    is noisier towards its end at all times; lag >= the number of steps finishes each element before the next begins.
    lag = 0 is the grid itself.

    Source: Ruhe et al. 2024 (rolling diffusion), arXiv:2402.09470, section 3; Chen et al. 2024 (diffusion forcing),
    arXiv:2407.01392, section 3.3.

    Args:
        grid: what each element walks; its levels are scalars.
        count: elements along the axis, >= 1.
        lag: steps from the start of one element to that of the next, >= 0.
        axis: of the state [B, ...], in 1..ndim - 1.
        ndim: axes of the state, B included: 2 for tokens [B, N], 5 for videos [B, C, T, H, W].
    """

    count: int
    grid: Grid = UniformGrid()
    lag: int = 1
    axis: int = 1
    ndim: int = 2

    def __post_init__(self) -> None:
        if self.count < 1 or self.lag < 0:
            raise ValueError(f"needs count >= 1 elements and a lag >= 0 steps, got {self.count} and {self.lag}")
        if not 1 <= self.axis < self.ndim:
            raise ValueError(f"axis must lie in 1..{self.ndim - 1} for states of {self.ndim} axes, got {self.axis}")

    def __call__(self, steps: int, interval: tuple[float, float]) -> Level:
        """Levels [steps + lag (count - 1) + 1, *axes of the state], 1 long but for the count of `axis`.

        Args:
            steps: of each element.
            interval: (lowest, highest) log-SNR.

        Raises:
            ValueError: for a grid whose levels are not scalars.
        """
        levels = self.grid(steps, interval)
        if levels.alpha.ndim != 1:
            raise ValueError(f"a rolling grid needs scalar levels, got levels of shape {tuple(levels.alpha.shape[1:])}")
        begun = torch.arange(len(levels.alpha) + self.lag * (self.count - 1))[:, None] - self.lag * torch.arange(
            self.count
        )
        step = begun.clamp(0, len(levels.alpha) - 1)
        return Level(self._spread(levels.alpha[step]), self._spread(levels.sigma[step]))

    def _spread(self, values: Tensor) -> Tensor:
        shape = [1] * self.ndim
        shape[self.axis] = self.count
        return values.reshape(len(values), *shape)


@dataclass(frozen=True)
class ResampledGrid:
    """Each step of `grid` but the last taken `repeats` times, with noise added back in between.

    For in-painting: an estimate that is pinned once per level does not draw from the conditional distribution, since
    early steps settle what is not known while what is known says little; going back lets it follow. It costs `repeats`
    times the evaluations. Source: Lugmayr et al. 2022 (RePaint), arXiv:2201.09865, algorithm 1, with jumps of one step.

    Args:
        grid: which levels.
        repeats: 1 is the grid itself.

    Raises:
        ValueError: for repeats < 1.
    """

    grid: Grid
    repeats: int = 10

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ValueError(f"repeats must be at least 1, got {self.repeats}")

    def __call__(self, steps: int, interval: tuple[float, float]) -> Level:
        """The grid's levels, each pair of neighbours but the last `repeats` times."""
        levels, path = self.grid(steps, interval), [0]
        for k in range(steps - 1):
            path += [k + 1, k] * (self.repeats - 1) + [k + 1]
        index = torch.tensor([*path, steps], dtype=torch.int64)
        return Level(levels.alpha[index], levels.sigma[index])
