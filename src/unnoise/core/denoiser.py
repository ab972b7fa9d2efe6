"""Networks as denoisers: (x, level, condition) -> an estimate of x0."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from unnoise.core.estimate import Estimate
from unnoise.core.level import Level, Levels
from unnoise.core.noise import Angle, Noise
from unnoise.core.parameterization import Parameterization

X_contra = TypeVar("X_contra", contravariant=True)
Cond = Mapping[str, Shaped[Tensor, "b ..."]]
"""Conditions by name; the first axis of every tensor is B."""

EMPTY: Cond = {}


@runtime_checkable
class Denoiser(Protocol[X_contra]):
    """The seam between networks and everything that samples, guides or evaluates them."""

    def __call__(self, x: X_contra, level: Any, cond: Cond = EMPTY, /, *, to: Any = None) -> Any:
        """The estimate of x0 given x at `level`.

        Args:
            x: [B, ...].
            level: where x is.
            cond: what is known of x0.
            to: the level that the caller goes to; two-time networks look at it, others do not.
        """
        ...


class Preconditioned(nn.Module):
    """A network as a denoiser: x0_hat = c_skip x + c_out F(c_in x, c_noise).

    Args:
        net: ``net(x, c_noise, **cond) -> like x``.
        parameterization: what the output means.
        noise: what the network is told of the level.
        interval: (lowest, highest) log-SNR that it is trained for; a sampling grid that leaves it is refused (the clean
            end excepted). (-inf, inf) where any will do.

    Raises:
        ValueError: where the interval reaches pure noise (log-SNR -inf) and the parameterization predicts eps: at
            alpha = 0 the noise says nothing of the data, and x0_hat would be x / 0.
    """

    def __init__(
        self,
        net: nn.Module,
        parameterization: Parameterization,
        noise: Noise = Angle(),
        interval: tuple[float, float] = (-math.inf, math.inf),
    ) -> None:
        super().__init__()
        low, high = interval
        if not low < high:
            raise ValueError(f"the trained interval of log-SNR must be (low, high) with low < high, got {interval}")
        if low == -math.inf and parameterization.needs_signal:
            raise ValueError(
                f"{type(parameterization).__name__} has no estimate of the data at alpha = 0, and the trained interval "
                f"of log-SNR {interval} reaches it: use V, X0, Flow or Edm, or a schedule that ends before pure noise"
            )
        self.net = net
        self.parameterization = parameterization
        self.noise = noise
        self.interval = (float(low), float(high))
        self.precision: torch.dtype | None = None
        """The dtype of the network's matrix products (autocast); None: that of its parameters."""

    def forward(
        self, x: Float[Tensor, " b *shape"], level: Level, cond: Cond = EMPTY, *, to: Levels | None = None
    ) -> Estimate:
        """The estimate of x0; `to` is ignored."""
        c = self.parameterization(level.like(x))
        return Estimate((c.c_skip * x + c.c_out * self._network(c.c_in * x, level, cond)).to(x.dtype))

    def residual(
        self, x0: Float[Tensor, " b *shape"], eps: Float[Tensor, " b *shape"], level: Level, cond: Cond = EMPTY
    ) -> Float[Tensor, " b *shape"]:
        """F - F* at x = alpha x0 + sigma eps, F* = ((1 - c_skip alpha) x0 - c_skip sigma eps) / c_out.

        Its unweighted mean square is each parameterization's own loss; times c_out it is x0_hat - x0.

        Args:
            x0: data [B, ...].
            eps: noise of the same shape.
            level: with sigma > 0.
            cond: conditions.
        """
        level = level.like(x0)
        c = self.parameterization(level)
        target = ((1 - c.c_skip * level.alpha) * x0 - c.c_skip * level.sigma * eps) / c.c_out
        return self._network(c.c_in * (level.alpha * x0 + level.sigma * eps), level, cond) - target

    def _network(self, x: Tensor, level: Level, cond: Cond) -> Tensor:
        """The one place where dtypes change: into the network's, and back into that of the state."""
        told = self.noise(level)
        told = told.expand(x.shape[0]) if told.ndim == 0 else told
        if told.ndim == x.ndim and all(n == 1 for n in told.shape[1:]):
            told = told.reshape(-1).expand(x.shape[0])
        own = next((p.dtype for p in self.net.parameters() if p.is_floating_point()), x.dtype)
        half = self.precision or own
        cond = {k: v.to(own) if v.is_floating_point() else v for k, v in cond.items()}
        with torch.autocast(x.device.type, half, enabled=half in (torch.bfloat16, torch.float16) and half != own):
            out = self.net(x.to(own), told.to(own), **cond)
        if out.shape != x.shape:
            raise ValueError(f"the network answered {tuple(out.shape)} to a state of shape {tuple(x.shape)}")
        return out.to(x.dtype)
