"""A process is two transition kernels and the arithmetic of its estimates.

`forward` is q(x_dst | x_src), noisier; `backward` is q(x_dst | x_src, x0) with the estimate as x0, cleaner.
Corruption, the prior, SDEdit, churn, Restart and time travel are `forward`; DDPM, DDIM and everything between are
`backward`. Guidance and in-painting speak to estimates through `mix` and `pin` only, so that they work on anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unnoise.core.estimate import Estimate
from unnoise.core.level import Level, ratio
from unnoise.core.rng import Rng
from unnoise.core.space import Euclidean, Space

Variance = Literal["small", "large", "learned"]
X = TypeVar("X")


@runtime_checkable
class Process(Protocol[X]):
    """The seam between a kind of data (Tensor, or a mapping of parts) and everything that samples or guides it."""

    def forward(self, x: X, src: Any, dst: Any, rng: Rng) -> X:
        """A draw of q(x_dst | x_src), `dst` noisier than `src`; q(x_dst | x0) for src = CLEAN."""
        ...

    def backward(self, x: X, est: Any, src: Any, dst: Any, rng: Rng, *, eta: float = 1.0, var: Variance = "small") -> X:
        """A draw of q(x_dst | x_src, x0 = the estimate), `dst` cleaner than `src`."""
        ...

    def project(self, est: Any) -> Any:
        """The estimate moved into the space; the driver and the objective call it."""
        ...

    def mix(self, ests: Sequence[Any], weights: Sequence[float | Float[Tensor, " ..."]]) -> Any:
        """The weighted combination of estimates: guidance arithmetic."""
        ...

    def pin(self, est: Any, y: X, mask: X) -> Any:
        """The estimate with what is known, `y` where `mask` is True, in its place."""
        ...

    def reveal(self, x: X, y: X, mask: X) -> X:
        """x with what is known, `y` where `mask` is True, as far as a state of this process can show it."""
        ...

    def error(self, est: Any, x0: X, x: X) -> Any:
        """How far an estimate made from x is from the truth, element by element: what training weighs."""
        ...

    def bind(self, mask: Any) -> Process[X]:
        """The process of a batch with this mask of real elements."""
        ...


class Posterior(NamedTuple):
    """q(x_dst | x_src, x0) = N(gain x0 + pull x_src, small), and the variance of q(x_dst | x_src) for unit data.

    Args:
        gain: d mean / d x0.
        pull: d mean / d x_src.
        small: the posterior's variance.
        large: small + gain^2 sigma^2 / (alpha^2 + sigma^2), that of standard normal data: DDPM's beta where alpha^2 +
            sigma^2 = 1.
    """

    gain: Tensor
    pull: Tensor
    small: Tensor
    large: Tensor


def posterior(src: Level, dst: Level) -> Posterior:
    """DDPM's posterior (Ho et al. 2020, arXiv:2006.11239, eq. 7) between two levels, in any frame."""
    r = ratio(src.alpha, dst.alpha)
    # r sigma_dst / sigma_src squared is the share of the noise that x_src still has of x_dst.
    share = (r * dst.sigma / src.sigma) ** 2
    pull = torch.where(r > 0, share / r, torch.zeros_like(r))
    gain = dst.alpha - pull * src.alpha
    small = dst.sigma**2 * (1 - share).clamp(min=0)
    return Posterior(gain, pull, small, small + gain**2 * src.sigma**2 / (src.alpha**2 + src.sigma**2))


@dataclass(frozen=True)
class Gaussian:
    """x = alpha x0 + sigma eps, eps ~ N(0, 1) in `space`.

    Args:
        space: where states and noise live.
    """

    space: Space = Euclidean()

    def bind(self, mask: Bool[Tensor, "b n"]) -> Gaussian:
        """The process of a batch in which mask [B, N] says what is real."""
        return replace(self, space=self.space.bind(mask))

    def project(self, est: Estimate) -> Estimate:
        """The estimate moved into the space."""
        return est._replace(x0=self.space.project(est.x0))

    def noise(self, like: Float[Tensor, " b *shape"], rng: Rng) -> Float[Tensor, " b *shape"]:
        """Standard normal noise of the space, of the shape of `like`."""
        return self.space.project(rng.normal(like))

    def forward(self, x: Float[Tensor, " b *shape"], src: Level, dst: Level, rng: Rng) -> Float[Tensor, " b *shape"]:
        """x_dst = r x_src + sqrt(sigma_dst^2 - r^2 sigma_src^2) eps, r = alpha_dst / alpha_src."""
        src, dst = src.like(x), dst.like(x)
        r = ratio(dst.alpha, src.alpha)
        return r * x + (dst.sigma**2 - (r * src.sigma) ** 2).clamp(min=0).sqrt() * self.noise(x, rng)

    def backward(
        self,
        x: Float[Tensor, " b *shape"],
        est: Estimate,
        src: Level,
        dst: Level,
        rng: Rng,
        *,
        eta: float = 1.0,
        var: Variance = "small",
    ) -> Float[Tensor, " b *shape"]:
        """x_dst = alpha_dst x0 + sigma_dst (sqrt(1 - tau) e + sqrt(tau) z), e = (x - alpha_src x0) / sigma_src.

        tau = eta^2 (1 - (alpha_src sigma_dst / alpha_dst sigma_src)^2): eta = 1 is DDPM's posterior, eta = 0 is DDIM
        (Song et al. 2020, arXiv:2010.02502, eq. 12 and 16). That is q(x_dst | x_src, x0), whose variance is the small
        one; q(x_dst | x_src) has (d mean / d x0)^2 Var[x0 | x] besides. "learned" takes it from the estimate, and is
        exact where that is; "large" takes sigma^2 / (alpha^2 + sigma^2), exact for standard normal data, which is
        DDPM's beta in the variance-preserving frame. The last step, to sigma_dst = 0, is the mean.

        Args:
            x: [B, ...] at `src`.
            est: the estimate of x0; with var="learned" it must carry `var`.
            src: where x is, sigma > 0.
            dst: where to go, cleaner.
            rng: randomness for the rows.
            eta: 0 deterministic, 1 ancestral.
            var: which variance of x0 given x is added.
        """
        src, dst = src.like(x), dst.like(x)
        eps = (x - src.alpha * est.x0) / src.sigma
        tau = (eta**2 * (1 - (ratio(src.alpha, dst.alpha) * dst.sigma / src.sigma) ** 2)).clamp(0, 1)
        keep = dst.sigma * (1 - tau).sqrt()
        mean = dst.alpha * est.x0 + keep * eps
        if eta == 0 and var == "small":
            return mean
        variance = dst.sigma**2 * tau
        if var != "small":
            if var == "learned" and est.var is None:
                raise ValueError('var="learned" needs a denoiser whose estimate carries Var[x0 | x]; this one has none')
            normal = src.sigma**2 / (src.alpha**2 + src.sigma**2)
            unknown = normal if est.var is None or var == "large" else est.var
            variance = variance + (dst.alpha - keep * src.alpha / src.sigma) ** 2 * unknown * (dst.sigma > 0)
        return mean + variance.sqrt() * self.noise(x, rng)

    def mix(self, ests: Sequence[Estimate], weights: Sequence[float | Float[Tensor, " ..."]]) -> Estimate:
        """sum of w x0 over the estimates; the variance is that of the last."""
        x0 = weights[0] * ests[0].x0
        for w, e in zip(weights[1:], ests[1:], strict=True):
            x0 = x0 + w * e.x0
        return Estimate(x0, ests[-1].var)

    def pin(self, est: Estimate, y: Float[Tensor, " ..."], mask: Bool[Tensor, " ..."]) -> Estimate:
        """The estimate with y where mask is True; Raises ValueError in a space whose projection would move y."""
        if not self.space.elementwise:
            raise ValueError(
                f"{type(self.space).__name__} moves all elements of a row together: none can be pinned in it"
            )
        var = None if est.var is None else torch.where(mask, torch.zeros_like(est.var), est.var)
        return Estimate(torch.where(mask, y, est.x0), var)

    def reveal(self, x: Float[Tensor, " ..."], y: Float[Tensor, " ..."], mask: Bool[Tensor, " ..."]) -> Tensor:
        """x itself: a noisy state has no place for a clean value."""
        return x

    def error(self, est: Estimate, x0: Float[Tensor, " ..."], x: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
        """(x0_hat - x0)^2."""
        return (est.x0 - x0) ** 2
