"""Noise levels: the one thing that networks, samplers and processes agree on.

A noisy state is ``x = alpha * x0 + sigma * eps`` with ``eps ~ N(0, 1)``. A `Level` is the pair (alpha, sigma); its
log signal-to-noise ratio is ``logsnr = 2 log(alpha / sigma)``, +inf on clean data, -inf on pure noise. Which schedule
or which time a level came from is nobody's business but the schedule's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple, TypeVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

Frame = Literal["vp", "flow", "ve"]
"""How x is scaled: alpha^2 + sigma^2 = 1, alpha + sigma = 1, or alpha = 1. Any level has one equivalent in each."""


def exact(device: torch.device) -> torch.dtype:
    """The dtype of arithmetic that is to be exact: float64, or float32 on MPS, which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def expand(values: Float[Tensor, "*level"], x: Shaped[Tensor, "*state"]) -> Float[Tensor, " ..."]:
    """Give `values` the axes of the state `x`: the only place in the project where a level meets a state.

    Args:
        values: a scalar; or [B], one value a row; or as many axes as `x`, each 1 or that of `x` ([B, 1, T, 1, 1]: one
            value a frame of a video).
        x: [B, ...].

    Raises:
        ValueError: for any other shape. Nothing is broadcast by accident.
    """
    if values.ndim == 0:
        return values
    if values.ndim == x.ndim and all(n in (1, m) for n, m in zip(values.shape, x.shape, strict=True)):
        return values
    if values.ndim == 1 and values.shape[0] == x.shape[0]:
        return values.reshape(-1, *(1,) * (x.ndim - 1))
    raise ValueError(
        f"a level of shape {tuple(values.shape)} does not fit a state of shape {tuple(x.shape)}: give a scalar, one "
        f"value a row ([{x.shape[0] if x.ndim else 'B'}]), or {x.ndim} axes of which each is 1 or that of the state"
    )


class Level(NamedTuple):
    """A noise level: ``x = alpha * x0 + sigma * eps``.

    Args:
        alpha: signal coefficient, >= 0; a scalar, [B], or as many axes as the state (see `expand`).
        sigma: noise coefficient, >= 0, of the same shape.
        host: (alpha, sigma) as floats, where they are known without asking the device: what wrappers may branch on.
    """

    alpha: Float[Tensor, "*level"]
    sigma: Float[Tensor, "*level"]
    host: tuple[float, float] | None = None

    @property
    def logsnr(self) -> Float[Tensor, "*level"]:
        """``2 log(alpha / sigma)``: +inf where sigma = 0, -inf where alpha = 0."""
        return 2 * (self.alpha.log() - self.sigma.log())

    def like(self, x: Shaped[Tensor, "*state"]) -> Level:
        """The same level with the axes of the state `x`; Raises ValueError where it does not fit."""
        return Level(expand(self.alpha, x), expand(self.sigma, x), self.host)

    def at(self, index: int | slice) -> Level:
        """The level at `index` of the first axis, as a grid [K + 1, ...] is read."""
        return Level(self.alpha[index], self.sigma[index])

    def lerp(self, other: Level, weight: float) -> Level:
        """The point at `weight` on the straight line to `other` in the (alpha, sigma) plane."""
        host = None
        if self.host is not None and other.host is not None:
            a, b = (u + weight * (v - u) for u, v in zip(self.host, other.host, strict=True))
            host = (a, b)
        return Level(
            self.alpha + weight * (other.alpha - self.alpha), self.sigma + weight * (other.sigma - self.sigma), host
        )

    def to(self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Level:
        """The same level in another dtype or on another device."""
        return Level(self.alpha.to(device, dtype), self.sigma.to(device, dtype), self.host)

    @staticmethod
    def of(alpha: float, sigma: float) -> Level:
        """A scalar level from two floats, in float64 on the host."""
        if not (alpha >= 0 and sigma >= 0 and alpha + sigma > 0):
            raise ValueError(f"a level needs alpha, sigma >= 0 and not both 0, got alpha={alpha}, sigma={sigma}")
        host = torch.tensor((alpha, sigma), dtype=torch.float64, device="cpu")
        return Level(host[0], host[1], (float(alpha), float(sigma)))

    @staticmethod
    def of_logsnr(logsnr: Float[Tensor, "*level"], frame: Frame = "vp") -> Level:
        """The level of the given log-SNR in the given frame; exact at both infinities in "vp" and "flow"."""
        if frame == "vp":
            return Level(torch.sigmoid(logsnr).sqrt(), torch.sigmoid(-logsnr).sqrt())
        if frame == "flow":
            return Level(torch.sigmoid(logsnr / 2), torch.sigmoid(-logsnr / 2))
        if frame == "ve":
            return Level(torch.ones_like(logsnr), (-logsnr / 2).exp())
        raise ValueError(f'unknown frame {frame!r}: "vp", "flow" or "ve"')


CLEAN = Level(torch.ones(()), torch.zeros(()), (1.0, 0.0))
"""The level of data: alpha = 1, sigma = 0."""

Levels = Level | Mapping[str, Level]
"""A level, or one for each part of a state that is a mapping of parts."""

T = TypeVar("T")


def part(levels: Levels, name: str) -> Level:
    """The level of one part of a state: its own, or the one of all parts."""
    return levels if isinstance(levels, Level) else levels[name]


def over(f: Callable[..., T], *trees: Level | Mapping[str, Level]) -> T | dict[str, T]:
    """`f` of the given levels or, where they are mappings, of each part."""
    first = trees[0]
    if isinstance(first, Mapping):
        return {k: f(*(t[k] for t in trees)) for k in first}  # type: ignore[call-overload]
    return f(*trees)


def leaves(levels: Levels) -> list[Level]:
    """The levels of all parts."""
    return [levels] if isinstance(levels, Level) else list(levels.values())


def ratio(a: Float[Tensor, "*#level"], b: Float[Tensor, "*#level"]) -> Float[Tensor, "*#level"]:
    """``a / b``, and 0 where b = 0: what is multiplied by it has no signal left to rescale."""
    # A product, since b may be a number of the host's (CLEAN), which `where` would upload for an `a` on a device.
    return a / torch.where(b > 0, b, torch.ones_like(b)) * (b > 0)
