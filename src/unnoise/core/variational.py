"""The variational bound in continuous time as an objective: training for the likelihood, and measuring it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unnoise.core.density import Density, UniformTime
from unnoise.core.lattice import Lattice
from unnoise.core.learned import LearnedSchedule
from unnoise.core.level import Level
from unnoise.core.objective import AtDrawnLevels, Batch, Components, Loss, pose, residual_weight, row_mean
from unnoise.core.process import Gaussian
from unnoise.core.rng import Rng
from unnoise.core.weight import Snr


class Terms(NamedTuple):
    """An estimate of the bound of each row, in nats an element; their sum is at least -log p(x0) / N in expectation.

    Args:
        diffusion: [B], of the noise between the two ends.
        prior: [B], KL(q(x_low | x0) || N(0, sigma^2)), what sampling starts from.
        reconstruction: [B], -log p(x0 | x_high); a density in state space where the data are a continuum.
        level: of the diffusion term of each row.
        ends: (lowest, highest) log-SNR.
    """

    diffusion: Float[Tensor, " b"]
    prior: Float[Tensor, " b"]
    reconstruction: Float[Tensor, " b"]
    level: Level
    ends: tuple[Float[Tensor, ""], Float[Tensor, ""]]

    @property
    def total(self) -> Float[Tensor, " b"]:
        """The sum."""
        return self.diffusion + self.prior + self.reconstruction


@dataclass(frozen=True)
class VariationalBound(AtDrawnLevels):
    """-log p(x0) <= prior + reconstruction + 1/2 integral of SNR |x0_hat - x0|^2 d log-SNR, in nats an element.

    The integral runs between the ends of the density, from which one level a row is drawn: whatever the density between
    them, the expectation is the same. p(x0 | x) at the clean end is proportional to q(x | x0): over the values that the
    codec's raw data can have, so that integers need no dequantisation, or in a continuum, N(x / alpha, (sigma /
    alpha)^2). At the noisy end p(x) = N(0, sigma^2).

    A `LearnedSchedule` is trained along where the recipe says so (`trains`): its ends by the bound, as the network is;
    its interior, on which the bound does not depend, to lower the mean square of the diffusion term, and so its
    variance. Both come of one backward pass: the gradient that arrives at the interior is multiplied, row by row, by
    2 x the row's diffusion term, since d l^2 = 2 l dl.

    Source: Kingma et al. 2021 (VDM), arXiv:2107.00630, sections 3.3, 3.5 and 5, appendix I.2; theirs has N(0, 1) as
    the prior.

    Args:
        density: which levels are drawn; or the name of the component, a `LearnedSchedule`, that says.
        process: where noise lives.
        drop: probability with which a row's condition is replaced by "none", for classifier-free guidance.
        stratify: spread the levels evenly over the stream (where the batch says positions) instead of independently.
        model: name of the denoiser among the components; "codec" and "conditioner" are used where present.
    """

    density: Density | str = UniformTime(high=0.999)
    process: Gaussian = Gaussian()
    drop: float = 0.0
    stratify: bool = True
    model: str = "model"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.density, str) and (
            isinstance(self.density, nn.Module) or not isinstance(self.density, Density)
        ):
            raise ValueError(
                f"density is a value, or the name of a component: a {type(self.density).__name__} has weights and "
                "belongs into the state, as in more={'schedule': ..}, density='schedule'"
            )
        if not self.process.space.elementwise:
            raise ValueError(
                f"no bound in {type(self.process.space).__name__}, which moves all elements of a row together"
            )

    def at(self, u: Float[Tensor, " b"], components: Components, batch: Batch, rng: Rng, *, drop: float = 0.0) -> Loss:
        """The bound at given quantiles u [B] of the density; scalars hold its parts and the ends."""
        terms = self.terms(u, components, batch, rng, drop=drop)
        low, high = terms.ends
        parts = {k: getattr(terms, k).detach().mean() for k in ("diffusion", "prior", "reconstruction")}
        scalars = {
            k: v.float() for k, v in (parts | {"logsnr_low": low.detach(), "logsnr_high": high.detach()}).items()
        }
        return Loss(terms.total, torch.ones_like(terms.total), terms.level, scalars)

    def terms(
        self, u: Float[Tensor, " b"], components: Components, batch: Batch, rng: Rng, *, drop: float = 0.0
    ) -> Terms:
        """The parts of the bound of each row, the diffusion term at given quantiles u [B] of the density.

        Raises:
            ValueError: for states that are not one Gaussian tensor.
        """
        density: Any = components[self.density] if isinstance(self.density, str) else self.density
        factor = _Factor()
        drawn: Any
        if isinstance(density, LearnedSchedule):
            drawn, (low, high), least = partial(density.drawn, interior=factor), density.ends(), density.high[0]
        else:
            drawn, least = density, density.interval[1]
            low, high = (torch.full((), end, dtype=u.dtype, device=u.device) for end in density.interval)
        at, model = pose(self, u, components, batch, rng, drop, drawn), components[self.model]
        if isinstance(at.x0, Mapping) or not at.x0.is_floating_point():
            raise ValueError("the bound is of one Gaussian state: train parts with Joint, tokens with MaskedTokens")
        eps = at.process.noise(at.x0, rng.fold(1))
        residual = row_mean(at.process.space.project(model.residual(at.x0, eps, at.level, at.cond)).square(), at.mask)
        weight = residual_weight(Snr(absolute=True), model, at.exact, at.log_p)
        diffusion = (weight / 2).to(residual.dtype) * residual
        factor.value = 2 * diffusion.detach()

        prior = row_mean(at.x0.square() * (low.exp() / 2).to(at.x0.dtype), at.mask)
        eps = at.process.noise(at.x0, rng.fold(5))
        codec = components.get("codec")
        lattice = None if codec is None else Lattice.of(codec)
        if lattice is None:
            log_p = -(eps.square() + math.log(2 * math.pi)) / 2 + (high / 2).to(eps.dtype)
        else:
            log_p = lattice.log_posterior(at.x0, eps, high, least)
        level = Level(at.exact.alpha.detach(), at.exact.sigma.detach())
        return Terms(diffusion, prior, -row_mean(log_p, at.mask), level, (low, high))


class _Factor:
    """The identity, through which a gradient is multiplied by a number a row that is known only afterwards."""

    value: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            x.register_hook(lambda gradient: gradient * self.value.to(gradient))  # type: ignore[no-untyped-call]
        return x
