"""Autoguidance: away from what a weaker network of the same task would answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from unnoise.core.denoiser import EMPTY, Cond, Denoiser
from unnoise.core.process import Process
from unnoise.guide.cfg import extrapolated


@dataclass(frozen=True)
class Autoguidance:
    """x0_hat = scale x0_hat(denoise) + (1 - scale) x0_hat(weaker) (Karras et al. 2024, arXiv:2406.02507).

    Both are told the same: where the weaker one errs, the other errs less, and in the same direction. scale = 1 is off
    and costs nothing. `Cfg` around it guides the pair, and takes four evaluations.

    Args:
        denoise: what to guide.
        weaker: one of the same task, less good at it: the same network earlier in its training, or a smaller one.
        process: whose estimates are mixed.
        scale: the guidance scale, a float, or a tensor that broadcasts against x0.
    """

    denoise: Denoiser[Any]
    weaker: Denoiser[Any]
    process: Process[Any]
    scale: float | Tensor = 1.0

    @property
    def interval(self) -> tuple[float, float] | None:
        """That of the denoiser that is guided."""
        return getattr(self.denoise, "interval", None)

    def __call__(self, x: Any, level: Any, cond: Cond = EMPTY, *, to: Any = None) -> Any:
        """The guided estimate."""
        estimate = self.denoise(x, level, cond, to=to)
        return extrapolated(self.process, self.scale, estimate, lambda: self.weaker(x, level, cond, to=to))
