"""Networks as denoisers: (x, level, condition) -> an estimate of x0."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from unnoise.core.estimate import Estimate
from unnoise.core.level import Level, Levels, part
from unnoise.core.noise import Angle, Noise
from unnoise.core.parameterization import Affine, LearnedVariance, Parameterization

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


Meaning = Parameterization | Mapping[str, Parameterization]


class Preconditioned(nn.Module):
    """A network as a denoiser: it is shown a state and told a level, and its output is read as an estimate of x0.

    Args:
        net: ``net(shown, c_noise, **cond) -> output``; for a state of parts `shown` and the output are mappings, and
            c_noise too where the parts have levels of their own.
        parameterization: what the network is shown and what its output means; for a state of parts one for each.
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
        parameterization: Meaning,
        noise: Noise = Angle(),
        interval: tuple[float, float] = (-math.inf, math.inf),
    ) -> None:
        super().__init__()
        low, high = interval
        if not low < high:
            raise ValueError(f"the trained interval of log-SNR must be (low, high) with low < high, got {interval}")
        parts = parameterization.values() if isinstance(parameterization, Mapping) else [parameterization]
        for one in parts:
            if low == -math.inf and one.needs_signal:
                raise ValueError(
                    f"{type(one).__name__} has no estimate of the data at alpha = 0, and the trained interval "
                    f"of log-SNR {interval} reaches it: use V, X0, Flow or Edm, or a schedule with an end before"
                )
        self.net = net
        self.parameterization = parameterization
        self.noise = noise
        self.interval = (float(low), float(high))
        self.precision: torch.dtype | None = None
        """The dtype of the network's matrix products (autocast); None: that of its parameters."""

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """torch.compile the network, which takes the time; the arithmetic around it stays as it is."""
        self.net.compile(*args, **kwargs)

    def forward(self, x: Any, level: Levels, cond: Cond = EMPTY, *, to: Levels | None = None) -> Any:
        """The estimate of x0, or a mapping of estimates; `to` is handed to the parameterization."""
        out, meaning = self._network(self._shown(x, level), level, cond), self.parameterization
        if isinstance(meaning, Mapping):
            goals = {k: None if to is None else part(to, k) for k in meaning}
            return {k: p.estimate(out[k], x[k], part(level, k), goals[k]) for k, p in meaning.items()}
        assert isinstance(level, Level) and (to is None or isinstance(to, Level))
        return meaning.estimate(out, x, level, to)

    def residual(
        self, x0: Float[Tensor, " b *shape"], eps: Float[Tensor, " b *shape"], level: Level, cond: Cond = EMPTY
    ) -> Float[Tensor, " b *shape"]:
        """The network's output at x = alpha x0 + sigma eps less what it should be; see `Affine.residual`.

        Its unweighted mean square is each parameterization's own loss; times c_out it is x0_hat - x0.

        Args:
            x0: data [B, ...].
            eps: noise of the same shape.
            level: with sigma > 0.
            cond: conditions.
        """
        meaning = self.parameterization
        if not isinstance(meaning, Affine | LearnedVariance):
            raise ValueError("a state of parts or of tokens has no residual: train it with Joint or MaskedTokens")
        at = level.like(x0)
        out = self._network(meaning.shown(at.alpha * x0 + at.sigma * eps, at), level, cond)
        return meaning.residual(out, x0, eps, at)

    def _shown(self, x: Any, level: Levels) -> Any:
        if isinstance(self.parameterization, Mapping):
            return {k: p.shown(x[k], part(level, k)) for k, p in self.parameterization.items()}
        assert isinstance(level, Level)
        return self.parameterization.shown(x, level)

    def _network(self, x: Any, level: Levels, cond: Cond) -> Any:
        """The one place where dtypes change: into the network's, and back into that of the state."""
        tensors = list(x.values()) if isinstance(x, Mapping) else [x]
        outer = next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)
        own = next((p.dtype for p in self.net.parameters() if p.is_floating_point()), outer)
        half = self.precision or own
        if isinstance(level, Mapping):
            told: Any = {k: self._told(part(level, k), x[k]).to(own) for k in level}
        else:
            told = self._told(level, tensors[0]).to(own)
        cond = {k: _cast(v, own) for k, v in cond.items()}
        inside: Any = {k: _cast(v, own) for k, v in x.items()} if isinstance(x, Mapping) else _cast(x, own)
        with torch.autocast(
            tensors[0].device.type, half, enabled=half in (torch.bfloat16, torch.float16) and half != own
        ):
            out = self.net(inside, told, **cond)
        return {k: v.to(outer) for k, v in out.items()} if isinstance(out, Mapping) else out.to(outer)

    def _told(self, level: Level, x: Tensor) -> Tensor:
        """[B], or what the level has of the axes of x."""
        told = self.noise(level)
        told = told.expand(x.shape[0]) if told.ndim == 0 else told
        if told.ndim == x.ndim and all(n == 1 for n in told.shape[1:]):
            told = told.reshape(-1).expand(x.shape[0])
        if told.ndim == x.ndim and told.shape[0] == 1:
            told = told.expand(x.shape[0], *told.shape[1:])
        return told


def _cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype) if x.is_floating_point() else x


class TwoTime(nn.Module):
    """A denoiser that looks at `to`, where its caller goes: a flow map, of which a consistency model is a special case.

    Its estimate is the one whose straight line in the (alpha, sigma) plane, the step of `Euler`, lands at `to` where
    the probability-flow ODE lands; so for `to` = the level itself, and without `to`, it is an ordinary denoiser, and
    for `to` = clean data a consistency model (Song et al. 2023, arXiv:2303.01469; Boffi et al. 2024, arXiv:2406.07507;
    Kim et al. 2023, arXiv:2310.02279).

    Args:
        inner: a denoiser whose network takes vector=[B, 2 * features] of c_noise at `to`.
        features: pairs of sine and cosine that `to` is told by; their frequencies double.
    """

    def __init__(self, inner: Preconditioned, features: int = 4) -> None:
        super().__init__()
        self.inner, self.features = inner, features

    @property
    def interval(self) -> tuple[float, float]:
        """That of the denoiser inside."""
        return self.inner.interval

    @property
    def parameterization(self) -> Meaning:
        """That of the denoiser inside."""
        return self.inner.parameterization

    @property
    def precision(self) -> torch.dtype | None:
        """That of the denoiser inside."""
        return self.inner.precision

    @precision.setter
    def precision(self, dtype: torch.dtype | None) -> None:
        self.inner.precision = dtype

    def forward(self, x: Tensor, level: Level, cond: Cond = EMPTY, *, to: Level | None = None) -> Estimate:
        """The estimate of x0 that takes x from `level` to `to` in one straight step."""
        return self.inner(x, level, {**cond, "vector": self._vector(x, to or level)})

    def residual(self, x0: Tensor, eps: Tensor, level: Level, cond: Cond = EMPTY) -> Tensor:
        """That of the ordinary denoiser that it is for `to` = level."""
        return self.inner.residual(x0, eps, level, {**cond, "vector": self._vector(x0, level)})

    def _vector(self, x: Tensor, to: Level) -> Tensor:
        told = self.inner.noise(to).to(device=x.device, dtype=x.dtype)
        if told.ndim > 1 and any(n != 1 for n in told.shape[1:]):
            raise ValueError(f"a two-time network goes to one level a row, got levels of shape {tuple(told.shape)}")
        told = told.reshape(-1, 1).expand(len(x), 1)
        phase = told * 2.0 ** torch.arange(self.features, device=x.device, dtype=x.dtype)
        return torch.cat([phase.cos(), phase.sin()], 1)
