"""How probable held-out data are under a model, in bits, with each variance of its steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unnoise.core.bound import bounds
from unnoise.core.lattice import Lattice
from unnoise.core.level import Level
from unnoise.core.parameterization import LearnedVariance
from unnoise.core.process import Gaussian, Variance
from unnoise.core.rng import Rng
from unnoise.data.dataset import Dataset, loaded
from unnoise.errors import UserError
from unnoise.metrics.figure import Figure, figure
from unnoise.metrics.signal import bits_per_dimension
from unnoise.model import Model
from unnoise.trial import Trial

CHUNK = 2048
"""Rows at a time whose elements are counted."""


@dataclass(frozen=True)
class Bound:
    """The variational bound in bits per dimension of the raw data; its error is the standard error over rows.

    Figures: for each number of steps on the model's own grid the bound with the learned variance, where the model has
    one, the small and the large one, unguided, given the conditions of each row; and for comparison the exact bits of
    independent elements: a histogram each for integers (Laplace's rule: one more count for every value), a normal each
    for a continuum, of training data.

    Args:
        steps: of grids; a number that the user asks for takes their place.
        batch: rows at a time.
        count: of held-out rows, unless told otherwise; all of them where there are fewer.
    """

    steps: tuple[int, ...] = (16, 128)
    batch: int = 512
    count: int = 1000

    @property
    def protocol(self) -> dict[str, Any]:
        """What the figures depend on besides the judge's own fields."""
        return {"prior": "N(0, sigma^2)", "last_step": "small is large"}

    def __call__(self, model: Model, data: Dataset, trial: Trial) -> list[Figure]:
        """The figures; repeats are further draws of the noise.

        Raises:
            UserError: for a model whose states are not one Gaussian tensor, or whose codec keeps no density.
        """
        held_out, figures = bounded(model, data, trial), []
        rows = len(held_out["x"])
        for steps in [trial.settings["steps"]] if "steps" in trial.settings else self.steps:
            sampling = model.settings(grid=trial.settings.get("grid"), steps=steps)
            levels = sampling.levels(getattr(model.denoiser, "interval", (-math.inf, math.inf)))
            assert isinstance(levels, Level)
            trial.say(f"the bound of {rows} held-out rows over {steps} steps")
            for var, bits in self._bits(model, held_out, levels, trial).items():
                figures.append(figure(f"bits per dimension, {steps} steps, {var} variance", bits.tolist(), None))
        return [*figures, baseline(model, data, held_out)]

    def _bits(self, model: Model, columns: Mapping[str, Tensor], levels: Level, trial: Trial) -> dict[Variance, Tensor]:
        """Of each row [N], the mean over repeats."""
        total: dict[Variance, list[Tensor]] = {}
        for start in range(0, len(columns["x"]), self.batch):
            batch = {k: v[start : start + self.batch].to(model.device) for k, v in columns.items()}
            seeds = torch.arange(start, start + len(batch["x"]), device=model.device) + trial.seed
            repeats = [self._batch(model, batch, levels, Rng.of(seeds).fold(i)) for i in range(trial.repeats)]
            for var in repeats[0]:
                total.setdefault(var, []).append(torch.stack([r[var] for r in repeats]).mean(0).cpu())
        return {var: torch.cat(parts) for var, parts in total.items()}

    def _batch(self, model: Model, batch: Mapping[str, Tensor], levels: Level, rng: Rng) -> dict[Variance, Tensor]:
        x0 = model.codec.encode(batch["x"], rng.fold(0))
        cond: dict[str, Tensor] = {}
        if model.conditioner is not None:
            cond = model.conditioner.encode({k: batch[k] for k in model.conditioner.names}, rng.fold(1))
        process = model.process.bind(cond["mask"]) if "mask" in cond else model.process
        variances: tuple[Variance, ...] = ("small", "large")
        if isinstance(getattr(model.denoiser, "parameterization", None), LearnedVariance):
            variances = ("learned", *variances)
        found = bounds(
            process,
            model.denoiser,
            x0,
            levels,
            rng.fold(2),
            cond,
            variances=variances,
            lattice=Lattice.of(model.codec),
        )
        return {var: bits(nats.total, model.codec) for var, nats in found.items()}


def bounded(model: Model, data: Dataset, trial: Trial) -> dict[str, Tensor]:
    """The first n held-out rows, whose bound is to be measured.

    Raises:
        UserError: where there are none, or the model is not one whose data have a bound.
    """
    if not isinstance(model.process, Gaussian) or not hasattr(model.codec, "log_det"):
        raise UserError(
            f"the bound is of Gaussian states with a density of the raw data; this model's are of "
            f"{type(model.process).__name__} and {type(model.codec).__name__}"
        )
    if not len(data.held_out["x"]):
        raise UserError("there are no held-out data to measure the bound of")
    return {k: v[: trial.n] for k, v in data.held_out.items()}


def baseline(model: Model, data: Dataset, held_out: Mapping[str, Tensor]) -> Figure:
    """What a model must go below: independent elements fitted to the training data; see `Bound`."""
    simple = independent(model.codec, loaded(data.train["x"]), held_out["x"])
    return figure("bits per dimension of independent elements", simple.tolist(), None)


def bits(nats: Tensor, codec: Any) -> Tensor:
    """-log p [N] of rows of states, a probability where the raw data are integers, in bits an element of raw data."""
    return bits_per_dimension(nats, codec.blank(1).numel(), 0.0 if codec.bins is not None else codec.log_det)


def independent(codec: Any, train: Tensor, x: Tensor) -> Tensor:
    """Bits an element of each row of raw data x under independent elements fitted to `train`; see `Bound`."""
    lattice = Lattice.of(codec)

    def states(raw: Tensor) -> Tensor:
        return codec.encode(raw, Rng.of(0)).flatten(1).double()

    if lattice is None:
        seen, new = states(train), states(x)
        mean, std = seen.mean(0), seen.std(0)
        return bits((((new - mean) / std) ** 2 / 2 + std.log() + 0.5 * math.log(2 * math.pi)).sum(1), codec)
    first = lattice.count * torch.arange(codec.blank(1).numel())  # of each element's histogram, all in one row
    counts = torch.zeros(len(first) * lattice.count, dtype=torch.int64)
    for part in torch.split(train, CHUNK):
        counts += torch.bincount((lattice.index(states(part)) + first).flatten(), minlength=len(counts))
    log_p = ((counts + 1).double() / (len(train) + lattice.count)).log()
    return bits(torch.cat([-log_p[lattice.index(states(p)) + first].sum(1) for p in torch.split(x, CHUNK)]), codec)
