"""Objectives: what training minimises. The trainer knows this protocol and nothing of diffusion."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Float32, Shaped
from torch import Tensor

from unnoise.core.condition import unsaid
from unnoise.core.density import Density, UniformTime, uniforms
from unnoise.core.discrete import Absorbing
from unnoise.core.estimate import Estimate
from unnoise.core.level import CLEAN, Level
from unnoise.core.process import Gaussian
from unnoise.core.product import Product
from unnoise.core.rng import Rng
from unnoise.core.schedule import Masking
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
    """A loss of components on a batch. Denoisers, codecs, judges and adversaries are trained through it alike.

    One that never looks at `seen` says so with an attribute `clocked = False`: then a step can be captured.
    """

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


@runtime_checkable
class OverLevels(Protocol):
    """An objective that draws noise levels: what a denoiser is trained by."""

    @property
    def density(self) -> Any:
        """Which levels are trained, inside the denoiser's interval: a `Density`, or the name of the component."""
        ...

    @property
    def process(self) -> Any:
        """Whose noise it is."""
        ...

    def at(self, u: Float[Tensor, " b"], components: Components, batch: Batch, rng: Rng, *, drop: float = 0.0) -> Loss:
        """The loss at given quantiles u [B] of the density, as the held-out loss by noise level is measured."""
        ...


class Posed(NamedTuple):
    """A batch as a denoiser's objective sees it.

    Args:
        x0: clean states.
        cond: conditions, some rows' dropped.
        process: bound to the batch's mask.
        level: [B], in the dtype of the states.
        exact: the same in float64.
        log_p: of the level's log-SNR, float64 [B].
        mask: [B, N], True = real.
    """

    x0: Any
    cond: Mapping[str, Tensor]
    process: Any
    level: Level
    exact: Level
    log_p: Float[Tensor, " b"]
    mask: Bool[Tensor, "b n"] | None


def pose(
    objective: OverLevels,
    u: Tensor,
    components: Components,
    batch: Batch,
    rng: Rng,
    drop: float,
    density: Callable[[Tensor], tuple[Level, Tensor]] | None = None,
) -> Posed:
    """Encode a batch and its conditions, bind the process to its mask, find the levels at quantiles u.

    `density` stands in the place of the objective's own, where that is a component of the state.
    """
    codec, conditioner = components.get("codec"), components.get("conditioner")
    x0 = codec.encode(batch["x"], rng.fold(2)) if codec is not None else batch["x"]
    cond: Mapping[str, Tensor] = {}
    if conditioner is not None:
        cond = conditioner.encode(batch, rng.fold(4))
        if drop > 0:
            cond = unsaid(conditioner, cond, rng.fold(3), drop)
    mask = cond.get("mask", batch.get("mask"))
    process = objective.process if mask is None else objective.process.bind(mask)
    exact, log_p = (density or objective.density)(u)
    states = x0.values() if isinstance(x0, Mapping) else [x0]
    dtype = next((x.dtype for x in states if x.is_floating_point()), torch.float32)
    return Posed(_in_space(process, x0), cond, process, exact.to(dtype=dtype), exact, log_p, mask)


def _in_space(process: Any, x0: Any) -> Any:
    if isinstance(x0, Mapping):
        return {k: est.x0 for k, est in process.project({k: Estimate(x) for k, x in x0.items()}).items()}
    return process.project(Estimate(x0)).x0


class AtDrawnLevels(ABC):
    """What objectives over levels share: training draws where in the density each row looks, and drops conditions."""

    drop: float
    stratify: bool
    clocked: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.drop < 1:
            raise ValueError(f"drop is a probability in [0, 1), got {self.drop}")

    def __call__(self, components: Components, batch: Batch, rng: Rng, seen: int) -> Loss:
        """The loss of each row."""
        u = uniforms(rng.fold(0), batch.get("position") if self.stratify else None)
        return self.at(u, components, batch, rng, drop=self.drop)

    @abstractmethod
    def at(self, u: Float[Tensor, " b"], components: Components, batch: Batch, rng: Rng, *, drop: float = 0.0) -> Loss:
        """The loss at given quantiles u [B] of the density, as the held-out loss by noise level is measured."""


@dataclass(frozen=True)
class Denoising(AtDrawnLevels):
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

    def at(self, u: Float[Tensor, " b"], components: Components, batch: Batch, rng: Rng, *, drop: float = 0.0) -> Loss:
        """The loss at given quantiles u [B] of the density, as the held-out loss by noise level is measured."""
        at, model = pose(self, u, components, batch, rng, drop), components[self.model]
        eps = at.process.noise(at.x0, rng.fold(1))
        residual = at.process.space.project(model.residual(at.x0, eps, at.level, at.cond))
        weight = residual_weight(self.weight, model, at.exact, at.log_p).to(at.x0.dtype)
        return Loss(row_mean(residual.square(), at.mask), weight, at.exact)


def residual_weight(weight: Weight | None, model: Any, level: Level, log_p: Tensor) -> Float[Tensor, " b"]:
    """The one place where a weight of x0_hat - x0 becomes a weight of the network's residual."""
    if weight is None:
        return torch.ones_like(log_p)
    return _per_level(weight, level, log_p) * model.parameterization(level).c_out ** 2


def _per_level(weight: Weight, level: Level, log_p: Tensor) -> Tensor:
    w = weight(level.logsnr)
    return w / log_p.exp() if weight.absolute else w


@dataclass(frozen=True)
class MaskedTokens(AtDrawnLevels):
    """The continuous-time bound of a process that masks tokens, in nats a token: its mean is at least -log p(x0) / N.

    -ELBO = integral over t of keep'(t) / (1 - keep) sum over masked tokens of log p(x0 | x), where keep is the share of
    tokens that are not masked (Sahoo et al. 2024, arXiv:2406.07524, eq. 10; Shi et al. 2024, arXiv:2406.04329, eq. 4).
    With keep = sigmoid(log-SNR), d keep = keep (1 - keep) d log-SNR: per unit of log-SNR the weight is keep itself,
    whatever the schedule.

    Args:
        process: whose noise it is.
        density: which levels are trained.
        drop: probability with which a row's condition is replaced by "none", for classifier-free guidance.
        stratify: spread the levels evenly over the stream (where the batch says positions) instead of independently.
        model: name of the denoiser among the components; "codec" and "conditioner" are used where present.
    """

    process: Absorbing
    density: Density = UniformTime(Masking(), low=1e-4)
    drop: float = 0.1
    stratify: bool = True
    model: str = "model"

    def at(self, u: Float[Tensor, " b"], components: Components, batch: Batch, rng: Rng, *, drop: float = 0.0) -> Loss:
        """The loss at given quantiles u [B] of the density."""
        at = pose(self, u, components, batch, rng, drop)
        x = at.process.forward(at.x0, CLEAN, at.exact, rng.fold(1))
        error = at.process.error(components[self.model](x, at.level, at.cond), at.x0, x)
        weight = torch.sigmoid(at.exact.logsnr) / at.log_p.exp()
        return Loss(row_mean(error, at.mask), weight.to(error.dtype), at.exact)


@dataclass(frozen=True)
class Joint(AtDrawnLevels):
    """One draw of levels, noise on all parts of a state, one evaluation, a weighted loss for each part.

    Args:
        process: a Product.
        weights: of log-SNR by part, on (x0_hat - x0)^2 of a Gaussian part, on -log p(x0) of tokens; means are over the
            real elements of a row.
        factors: by which each part's loss is multiplied; 1 where none is given.
        density: which levels are trained.
        drop: probability with which a row's condition is replaced by "none", for classifier-free guidance.
        stratify: spread the levels evenly over the stream (where the batch says positions) instead of independently.
        model: name of the denoiser among the components; "codec" and "conditioner" are used where present.
    """

    process: Product
    weights: Mapping[str, Weight]
    factors: Mapping[str, float] = field(default_factory=dict)
    density: Density = UniformTime()
    drop: float = 0.1
    stratify: bool = True
    model: str = "model"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights.keys() != self.process.parts.keys() or not self.factors.keys() <= self.weights.keys():
            raise ValueError(
                f"the parts of the process are {sorted(self.process.parts)}, weights are given for "
                f"{sorted(self.weights)}, factors for {sorted(self.factors)}"
            )

    def at(self, u: Float[Tensor, " b"], components: Components, batch: Batch, rng: Rng, *, drop: float = 0.0) -> Loss:
        """The loss at given quantiles u [B] of the density."""
        at = pose(self, u, components, batch, rng, drop)
        x = at.process.forward(at.x0, CLEAN, at.level, rng.fold(1))
        errors = at.process.error(at.process.project(components[self.model](x, at.level, at.cond)), at.x0, x)
        losses = {
            k: row_mean(error, at.mask)
            * (self.factors.get(k, 1.0) * _per_level(self.weights[k], at.exact, at.log_p)).to(error.dtype)
            for k, error in errors.items()
        }
        total = torch.stack([*losses.values()]).sum(0)
        return Loss(total, torch.ones_like(total), at.exact, {k: v.detach().mean() for k, v in losses.items()})
