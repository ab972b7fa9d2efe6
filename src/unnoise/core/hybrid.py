"""iDDPM's objective: the denoising loss for the mean, the variational bound for the variance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unnoise.core.bound import term
from unnoise.core.density import UniformTime
from unnoise.core.lattice import Lattice
from unnoise.core.level import Level
from unnoise.core.objective import (
    AtDrawnLevels,
    Batch,
    Components,
    Loss,
    pose,
    residual_weight,
    row_mean,
)
from unnoise.core.process import Gaussian
from unnoise.core.rng import Rng
from unnoise.core.schedule import Cosine, Schedule
from unnoise.core.weight import Weight


@dataclass(frozen=True)
class Steps:
    """The steps of a grid, each as likely as the others: from t = k / count to (k - 1) / count, k = 1 .. count.

    With a table and its own length, DDPM's steps. log p is that of uniform times.

    Args:
        schedule: the path; clean at t = 0.
        count: how many steps, >= 2.
    """

    schedule: Schedule = Cosine()
    count: int = 1000

    def __post_init__(self) -> None:
        if self.count < 2:
            raise ValueError(f"a grid of steps needs at least 2, got {self.count}")
        first = float(self.schedule(torch.zeros((), dtype=torch.float64)).sigma)
        if first != 0:
            raise ValueError(f"the last step must go to clean data, but {self.schedule} begins at sigma = {first:.4g}")

    @property
    def interval(self) -> tuple[float, float]:
        """(lowest, highest) log-SNR that is ever drawn."""
        return self._times.interval

    def __call__(self, u: Float[Tensor, "*u"]) -> tuple[Level, Float[Tensor, "*u"]]:
        """The level from which the step at quantile u goes."""
        return self._times(self._number(u) / (self.count - 1))

    def below(self, u: Float[Tensor, "*u"]) -> Level:
        """The level to which the step at quantile u goes."""
        return self.schedule(self._number(u) / self.count)

    @property
    def _times(self) -> UniformTime:
        return UniformTime(self.schedule, low=1 / self.count)

    def _number(self, u: Tensor) -> Tensor:
        """k - 1."""
        return (u * self.count).floor().clamp(0, self.count - 1)


@dataclass(frozen=True)
class Hybrid(AtDrawnLevels):
    """L_simple + factor L_vlb at one random step of a grid a row (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 16).

    For a `LearnedVariance`. L_simple is `Denoising`; L_vlb is `count` times what the step adds to the bound (see
    `bound.term`), in nats an element (their code counts bits). No gradient flows from L_vlb into the mean.

    Args:
        density: the steps.
        weight: of log-SNR for L_simple, relative; None: 1 on the network's own residual.
        process: where noise lives.
        drop: probability with which a row's condition is replaced by "none", for classifier-free guidance.
        stratify: spread the steps evenly over the stream (where the batch says positions) instead of independently.
        model: name of the denoiser among the components; "codec" and "conditioner" are used where present.
        factor: of L_vlb, >= 0.
    """

    density: Steps = Steps()
    weight: Weight | None = None
    process: Gaussian = Gaussian()
    drop: float = 0.1
    stratify: bool = True
    model: str = "model"
    factor: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.factor >= 0:
            raise ValueError(f"factor must be >= 0, got {self.factor}")
        if self.weight is not None and self.weight.absolute:
            raise ValueError(f"{self.weight} is per unit of log-SNR, in which the steps of a grid have no density")

    def at(self, u: Float[Tensor, " b"], components: Components, batch: Batch, rng: Rng, *, drop: float = 0.0) -> Loss:
        """The loss at given quantiles u [B] of the steps; scalars hold both parts."""
        at, model = pose(self, u, components, batch, rng, drop), components[self.model]
        if isinstance(at.x0, Mapping) or not at.x0.is_floating_point():
            raise ValueError("a hybrid loss is of one Gaussian state: train parts with Joint, tokens with MaskedTokens")
        codec = components.get("codec")
        eps = at.process.noise(at.x0, rng.fold(1))
        # In the dtype of the levels: what a small step adds is a difference of numbers that are almost equal.
        x0, level, to = at.x0.to(at.exact.alpha), at.exact.like(at.x0), self.density.below(u)
        est = at.process.project(model(level.alpha * x0 + level.sigma * eps, level, at.cond, to=to))
        simple = row_mean(((est.x0 - x0) / model.parameterization(level).c_out).square(), at.mask)
        still = est._replace(x0=est.x0.detach())
        added = term(still, x0, at.exact, to, "learned", None if codec is None else Lattice.of(codec))
        vlb = self.density.count * row_mean(added, at.mask)
        weight = residual_weight(self.weight, model, at.exact, at.log_p)
        total = (weight * simple + self.factor * vlb).to(at.x0.dtype)
        scalars = {"simple": simple.detach().mean().float(), "bound": vlb.detach().mean().float()}
        return Loss(total, torch.ones_like(total), at.exact, scalars)
