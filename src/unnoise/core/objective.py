"""Objectives: what training minimises. The trainer knows this protocol and nothing of diffusion."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Float32, Shaped
from torch import Tensor

from unnoise.core.density import Density, UniformTime, uniforms
from unnoise.core.level import Level
from unnoise.core.process import Gaussian
from unnoise.core.rng import Rng
from unnoise.core.weight import Weight

Batch = Mapping[str, Shaped[Tensor, "b ..."]]
"""Raw data by name, the first axis of each is B: "x", conditions, "position" (the number of each sample in the stream),
"mask" (True = real)."""
Components = Mapping[str, Any]
"""What a model is made of, by name: networks ("model", ...) and values ("codec", "conditioner")."""


class Loss(NamedTuple):
    """Loss a row; what is minimised is the mean of weight * value.

    Args:
        value: [B], before weighting: what is logged.
        weight: [B], no gradient flows through it.
        level: of each row, where there is one: the log is kept by noise level.
        scalars: more to log, by name.
    """

    value: Float[Tensor, " b"]
    weight: Float[Tensor, " b"]
    level: Level | None = None
    scalars: Mapping[str, Float[Tensor, ""]] = {}

    @property
    def mean(self) -> Float[Tensor, ""]:
        """The number that is minimised."""
        return (self.weight.detach() * self.value).mean()


EDGES = (-8.0, -6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0, 8.0)
"""Of the bins of log-SNR by which losses are reported: ten, open at both ends."""


def by_logsnr(loss: Loss) -> Float32[Tensor, "3 bins"]:
    """[3, bins] sums over the rows in each bin of log-SNR: of value, of weight * value, and their count."""
    bins = torch.zeros(len(loss.value), dtype=torch.int64, device=loss.value.device)
    if loss.level is not None:
        logsnr = loss.level.logsnr.reshape(len(bins), -1)[:, 0]
        bins = torch.stack([logsnr > edge for edge in EDGES]).sum(0)  # nothing is uploaded, nobody waits
    rows = torch.stack([loss.value, loss.value * loss.weight, torch.ones_like(loss.value)]).detach().float()
    member = bins[:, None] == torch.arange(len(EDGES) + 1, device=bins.device)
    return rows @ member.float()  # a product, where scattering would be random


@runtime_checkable
class Objective(Protocol):
    """A loss of components on a batch. Denoisers, codecs, judges and adversaries are trained through it alike."""

    def __call__(self, components: Components, batch: Batch, rng: Rng, seen: int) -> Loss:
        """The loss of each row.

        Args:
            components: networks and values by name.
            batch: raw data.
            rng: randomness for the rows, the same wherever a row is computed.
            seen: samples seen before this batch: the only clock.
        """
        ...


def row_mean(x: Float[Tensor, " b *shape"], mask: Bool[Tensor, "b n"] | None = None) -> Float[Tensor, " b"]:
    """Mean over all but the first axis [B, ...] -> [B]; with mask [B, N] over the real elements of axis 1 only."""
    if mask is None:
        return x.flatten(1).mean(1) if x.ndim > 1 else x
    real = mask.reshape(*mask.shape, *(1,) * (x.ndim - 2)).to(x)
    inner = math.prod(x.shape[2:])
    return (x * real).flatten(1).sum(1) / (mask.sum(1).clamp(min=1) * inner)


@dataclass(frozen=True)
class Denoising:
    """The weighted denoising loss w(log-SNR) |x0_hat - x0|^2 of a Gaussian process.

    The residual r = F - F* lives in the network's space; x0_hat - x0 = c_out r. Without a weight the loss is |r|^2,
    with a relative weight w c_out^2 |r|^2, with an absolute one that over p(log-SNR).

    Args:
        density: which levels are trained; its interval must lie in that of the denoiser.
        weight: of log-SNR; None: 1 on the network's own residual.
        process: where noise lives.
        drop: probability with which a row's condition is replaced by "none", for classifier-free guidance.
        stratify: spread the levels evenly over the stream (where the batch says positions) instead of independently.
        model: name of the denoiser among the components; "codec" and "conditioner" are used where present.
    """

    density: Density = UniformTime()
    weight: Weight | None = None
    process: Gaussian = Gaussian()
    drop: float = 0.1
    stratify: bool = True
    model: str = "model"

    def __post_init__(self) -> None:
        if not 0 <= self.drop < 1:
            raise ValueError(f"drop is a probability in [0, 1), got {self.drop}")

    def __call__(self, components: Components, batch: Batch, rng: Rng, seen: int) -> Loss:
        """The loss of each row; `value` is the mean square of the network's residual."""
        levels = uniforms(rng.fold(0), batch.get("position") if self.stratify else None)
        return self.at(levels, components, batch, rng, drop=self.drop)

    def at(self, u: Float[Tensor, " b"], components: Components, batch: Batch, rng: Rng, *, drop: float = 0.0) -> Loss:
        """The loss at given quantiles u [B] of the density, as the held-out loss by noise level is measured."""
        codec, conditioner, model = components.get("codec"), components.get("conditioner"), components[self.model]
        x0 = codec.encode(batch["x"], rng.fold(2)) if codec is not None else batch["x"]
        cond = {}
        if conditioner is not None:
            cond = conditioner.encode(batch)
            if drop > 0:
                cond = conditioner.drop(cond, rng.fold(3), drop)
        mask = batch.get("mask")
        process = self.process if mask is None else self.process.bind(mask)
        x0 = process.space.project(x0)
        exact, log_p = self.density(u)
        level = exact.to(dtype=x0.dtype)
        eps = process.noise(x0, rng.fold(1))
        residual = process.space.project(model.residual(x0, eps, level, cond))
        return Loss(row_mean(residual.square(), mask), self._weight(model, exact, log_p).to(x0.dtype), exact)

    def _weight(self, model: Any, level: Level, log_p: Tensor) -> Tensor:
        """The one place where a weight of x0_hat - x0 becomes a weight of the network's residual."""
        if self.weight is None:
            return torch.ones_like(log_p)
        weight = self.weight(level.logsnr) * model.parameterization(level).c_out ** 2
        return weight / log_p.exp() if self.weight.absolute else weight
