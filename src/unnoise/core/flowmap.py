"""Distillation of a denoiser into a network that takes its whole path in one evaluation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unnoise.core.density import Density, UniformTime
from unnoise.core.estimate import Estimate
from unnoise.core.level import CLEAN, Level, expand
from unnoise.core.objective import AtDrawnLevels, Batch, Components, Loss, Posed, pose, row_mean
from unnoise.core.process import Gaussian
from unnoise.core.rng import Rng
from unnoise.core.schedule import Karras
from unnoise.core.weight import EdmWeight, Weight


@dataclass(frozen=True)
class FlowMap(AtDrawnLevels):
    """A jump must be the teacher's short step and the student's own jump from there: w(log-SNR) |x0_hat - x0*|^2.

    From x at a level the teacher goes a share 1 / steps of the density's quantiles down, in one step of second order
    along its probability-flow ODE; the student, as a constant, jumps from there to a level `to` below; x0* is the
    estimate of which the straight line from x lands where that arrived. `to` is clean data, or uniform in quantile. In
    the lowest share 1 / steps the teacher's estimate takes the place of the student's.

    Source: Kim et al. 2023, arXiv:2310.02279, section 3, without their adversary; with t always clean it is consistency
    distillation (Song et al. 2023, arXiv:2303.01469, algorithm 2). The guidance is the teacher's, learned once and for
    all (Meng et al. 2022, arXiv:2210.03142).

    Args:
        density: which levels are trained.
        weight: of log-SNR; relative.
        steps: of the teacher over all quantiles.
        guidance: the classifier-free guidance scale of the teacher; 1 is off.
        clean: probability with which t is clean data.
        process: where noise lives.
        drop: probability with which a row's condition is replaced by "none".
        stratify: spread the levels evenly over the stream (where the batch says positions) instead of independently.
        model: name of the student among the components, which looks at `to`.
        teacher: name of the denoiser that is distilled.
    """

    density: Density = UniformTime(Karras())
    weight: Weight = EdmWeight()
    steps: int = 16
    guidance: float = 1.0
    clean: float = 0.5
    process: Gaussian = Gaussian()
    drop: float = 0.0
    stratify: bool = True
    model: str = "model"
    teacher: str = "teacher"

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise ValueError(f"the teacher needs at least 2 steps, got {self.steps}")
        super().__post_init__()
        if not 0 <= self.clean <= 1:
            raise ValueError(f"clean is a probability in [0, 1], got {self.clean}")
        if self.weight.absolute:
            raise ValueError(f"the weight is one of the levels that are drawn: take absolute=False in {self.weight}")

    def at(self, u: Float[Tensor, " b"], components: Components, batch: Batch, rng: Rng, *, drop: float = 0.0) -> Loss:
        """The loss at given quantiles u [B] of where jumps begin, in what the steps leave of the density."""
        lower = u * (1 - 1 / self.steps)
        at = pose(self, lower + 1 / self.steps, components, batch, rng, drop)
        x = at.process.forward(at.x0, CLEAN, at.level, rng.fold(1))
        between, to = self._below(lower, rng.fold(5), at.level)
        with torch.no_grad():
            target = self._target(components, at, x, between, to, lower < 1 / self.steps, rng)
        est = at.process.project(components[self.model](x, at.level, at.cond, to=to))
        value = row_mean(at.process.error(est, target, x), at.mask)
        return Loss(value, self.weight(at.exact.logsnr).to(value.dtype), at.exact)

    def _below(self, lower: Tensor, rng: Rng, like: Level) -> tuple[Level, Level]:
        """The level between, and where the jump goes."""
        goal, _ = self.density(lower * rng.fold(0).uniform(torch.zeros_like(lower)))
        clean = rng.fold(1).uniform(torch.zeros_like(lower)) < self.clean
        to = Level(torch.where(clean, 1.0, goal.alpha), torch.where(clean, 0.0, goal.sigma))
        return self.density(lower)[0].to(dtype=like.alpha.dtype), to.to(dtype=like.alpha.dtype)

    def _target(
        self, components: Components, at: Posed, x: Tensor, between: Level, to: Level, lowest: Tensor, rng: Rng
    ) -> Tensor:
        """The estimate of x0 by which the straight line from x at `at.level` lands at `to` where it should."""
        null = components["conditioner"].null(at.cond) if self.guidance != 1 else at.cond

        def teach(x: Tensor, level: Level) -> Estimate:
            said = components[self.teacher](x, level, at.cond)
            if self.guidance != 1:
                said = at.process.mix(
                    [said, components[self.teacher](x, level, null)], [self.guidance, 1 - self.guidance]
                )
            return at.process.project(said)

        first = teach(x, at.level)
        there = teach(at.process.backward(x, first, at.level, between, rng, eta=0.0), between)
        # x / sigma is the integral of x0_hat over alpha / sigma: this is the trapezoid, of second order in any frame.
        y = at.process.backward(x, at.process.mix([first, there], [0.5, 0.5]), at.level, between, rng, eta=0.0)
        own = at.process.project(components[self.model](y, between, at.cond, to=to))
        jump = Estimate(torch.where(expand(lowest.to(x.dtype), x) > 0, there.x0, own.x0))
        return aim(x, at.level, at.process.backward(y, jump, between, to, rng, eta=0.0), to)


def aim(
    x: Float[Tensor, " b *shape"], src: Level, y: Float[Tensor, " b *shape"], dst: Level
) -> Float[Tensor, " b *shape"]:
    """The estimate of x0 of which the straight line from x at `src` lands on y at `dst`, another level.

    x0 = (sigma_src y - sigma_dst x) / (sigma_src alpha_dst - sigma_dst alpha_src)
    """
    src, dst = src.like(x), dst.like(x)
    return (src.sigma * y - dst.sigma * x) / (src.sigma * dst.alpha - dst.sigma * src.alpha)
