"""Runge-Kutta solvers of the probability-flow ODE.

A step is a straight line in the (alpha, sigma) plane, along which ``dx = d_alpha x0_hat + d_sigma eps_hat``, with
``eps_hat = (x - alpha x0_hat) / sigma``. So Euler is DDIM (Song et al. 2020, arXiv:2010.02502) and the Euler of flow
matching, Heun in the frame alpha = 1 is EDM's algorithm 1 (Karras et al. 2022, arXiv:2206.00364), and nothing is ever
divided by alpha. The last step, to sigma = 0, is Euler: it lands on the estimate.
"""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor

from unnoise.core.denoiser import Denoiser
from unnoise.core.estimate import Estimate
from unnoise.core.level import Level, Levels
from unnoise.core.process import Process
from unnoise.core.rng import Rng
from unnoise.core.sampler import Carry, Row, Step, refuse_parts


class Tableau(NamedTuple):
    """Butcher's: stage i + 1 starts from the sum of a[i][j] k_j; the step is the sum of b[j] k_j.

    Args:
        a: weights of the stages before, for each stage but the first.
        b: weights of the stages in the step.
    """

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]


class _RungeKutta(ABC):
    tableau: ClassVar[Tableau]
    coupled: ClassVar[bool] = False
    stochastic: ClassVar[bool] = False

    def coefficients(self, levels: Levels) -> None:
        """None: a Runge-Kutta step reads the levels of its row."""

    def init(self, x: Tensor) -> Carry:
        """None: nothing is remembered."""
        refuse_parts(self, x)

    def step(
        self, process: Process[Tensor], denoise: Denoiser[Tensor], x: Tensor, row: Row, rng: Rng, carry: Carry
    ) -> Step[Tensor]:
        """One step from row.src to row.dst."""
        assert isinstance(row.src, Level) and isinstance(row.dst, Level)
        src, dst = row.src.like(x), row.dst.like(x)
        d_alpha, d_sigma = dst.alpha - src.alpha, dst.sigma - src.sigma

        def drift(y: Tensor, level: Level, at: Level) -> tuple[Tensor, Estimate]:
            est = denoise(y, at, to=row.dst)
            return d_alpha * est.x0 + d_sigma * (y - level.alpha * est.x0) / level.sigma, est

        k, first = drift(x, src, row.src)
        if row.last:
            return Step(dst.alpha * first.x0, first)
        ks = [k]
        for weights in self.tableau.a:
            y = x + _combine(weights, ks)
            c = sum(weights)
            ks.append(drift(y, src.lerp(dst, c), row.src.lerp(row.dst, c))[0])
        return Step(x + _combine(self.tableau.b, ks), first)


def _combine(weights: tuple[float, ...], ks: list[Tensor]) -> Tensor:
    total = weights[0] * ks[0]
    for w, k in zip(weights[1:], ks[1:], strict=True):
        total = total + w * k if w else total
    return total


@dataclass(frozen=True)
class Euler(_RungeKutta):
    """Euler's method: DDIM."""

    tableau: ClassVar[Tableau] = Tableau((), (1.0,))
    order: ClassVar[int] = 1
    evaluations: ClassVar[int] = 1


@dataclass(frozen=True)
class Heun(_RungeKutta):
    """Heun's method: EDM's deterministic sampler."""

    tableau: ClassVar[Tableau] = Tableau(((1.0,),), (0.5, 0.5))
    order: ClassVar[int] = 2
    evaluations: ClassVar[int] = 2


@dataclass(frozen=True)
class Midpoint(_RungeKutta):
    """The midpoint method."""

    tableau: ClassVar[Tableau] = Tableau(((0.5,),), (0.0, 1.0))
    order: ClassVar[int] = 2
    evaluations: ClassVar[int] = 2


@dataclass(frozen=True)
class RK4(_RungeKutta):
    """The classical method of fourth order."""

    tableau: ClassVar[Tableau] = Tableau(((0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6))
    order: ClassVar[int] = 4
    evaluations: ClassVar[int] = 4
