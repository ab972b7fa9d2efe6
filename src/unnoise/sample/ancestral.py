"""Ancestral sampling: a draw of the process's own backward kernel at each step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from unnoise.core.denoiser import Denoiser
from unnoise.core.level import Levels
from unnoise.core.process import Process, Variance
from unnoise.core.rng import Rng
from unnoise.core.sampler import Carry, Row, Step


@dataclass(frozen=True)
class Ancestral:
    """x_dst ~ q(x_dst | x_src, x0_hat), for any process.

    eta = 1 is DDPM (Ho et al. 2020, arXiv:2006.11239, algorithm 2), eta = 0 DDIM (Song et al. 2020, arXiv:2010.02502).

    Args:
        eta: how much of the noise is drawn anew, in [0, 1].
        variance: "small" is the posterior's, "large" DDPM's beta, "learned" the estimate's own.
    """

    eta: float = 1.0
    variance: Variance = "small"

    order: ClassVar[int] = 1
    evaluations: ClassVar[int] = 1
    coupled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], got {self.eta}")
        if self.variance not in ("small", "large", "learned"):
            raise ValueError(f'variance is "small", "large" or "learned", got {self.variance!r}')

    @property
    def stochastic(self) -> bool:
        """Whether steps draw noise."""
        return self.eta > 0 or self.variance != "small"

    def coefficients(self, levels: Levels) -> None:
        """None: the kernel reads the levels."""

    def init(self, x: Any) -> Carry:
        """None: nothing is remembered."""

    def step(
        self, process: Process[Any], denoise: Denoiser[Any], x: Any, row: Row, rng: Rng, carry: Carry
    ) -> Step[Any]:
        """One draw."""
        est = denoise(x, row.src, to=row.dst)
        return Step(process.backward(x, est, row.src, row.dst, rng, eta=self.eta, var=self.variance), est)
