"""How probable held-out data are under a model, in bits, by the variational bound in continuous time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unnoise.core.density import stratified
from unnoise.core.level import exact
from unnoise.core.objective import Components
from unnoise.core.rng import Rng
from unnoise.core.variational import VariationalBound
from unnoise.data.dataset import Dataset
from unnoise.errors import UserError
from unnoise.judges.bound import baseline, bits, bounded
from unnoise.metrics.figure import Figure, figure
from unnoise.model import Model
from unnoise.trial import Trial

PARTS = ("diffusion", "prior", "reconstruction")


@dataclass(frozen=True)
class ContinuousBound:
    """The bound of infinitely many steps in bits per dimension of the raw data; its error is that over rows.

    What it includes is what `VariationalBound` sums: the diffusion term between the two ends of the density, estimated
    at `draws` levels a row, spread evenly from a start of the row's own; the prior term; the reconstruction, which for
    integers is the probability of the value itself, so that nothing is dequantised. Figures: the sum and its parts,
    unguided, given the conditions of each row, and for comparison independent elements (see `Bound`).

    Args:
        objective: the bound; its density says where it begins and ends. The model of a recipe with a learned schedule
            has that among its components.
        draws: levels a row; repeats are further ones.
        batch: rows at a time.
        count: of held-out rows, unless told otherwise; all of them where there are fewer.
    """

    objective: VariationalBound = VariationalBound("schedule")
    draws: int = 16
    batch: int = 128
    count: int = 10_000

    @property
    def protocol(self) -> dict[str, Any]:
        """What the figures depend on besides the judge's own fields."""
        return {"time": "continuous", "prior": "N(0, sigma^2)", "p(x0 | x)": "proportional to q(x | x0)"}

    def __call__(self, model: Model, data: Dataset, trial: Trial) -> list[Figure]:
        """The figures.

        Raises:
            UserError: for a model whose states are not one Gaussian tensor, whose codec keeps no density, or that lacks
                the schedule.
        """
        held_out = bounded(model, data, trial)
        rows, draws = len(held_out["x"]), self.draws * trial.repeats
        trial.say(f"the bound of {rows:,} held-out rows at {draws} levels each")
        found = self._bits(model, held_out, draws, trial.seed)
        total, *parts = (figure(name, x.tolist(), None) for name, x in found.items())
        return [total, *parts, baseline(model, data, held_out)]

    @torch.no_grad()
    def _bits(self, model: Model, columns: Mapping[str, Tensor], draws: int, seed: int) -> dict[str, Tensor]:
        """Of each row, float64 [N]: the bound, and its parts without the change of volume."""
        components = self._components(model)
        index, elements = torch.arange(len(columns["x"])), model.codec.blank(1).numel()
        nats = torch.zeros(len(PARTS), len(index), dtype=torch.float64)
        for rows in torch.split(index, self.batch):
            batch = {k: v[rows].to(model.device) for k, v in columns.items()}
            first = stratified(rows).to(model.device, exact(model.device))
            for k in range(draws):
                rng = Rng.of(seed + rows, model.device).fold(k)
                terms = self.objective.terms((k + first) / draws, components, batch, rng)
                nats[:, rows] += torch.stack([getattr(terms, name) for name in PARTS]).double().cpu() / draws
        shares = {f"of it {name}": x / math.log(2) for name, x in zip(PARTS, nats, strict=True)}
        return {"bits per dimension, continuous time": bits(nats.sum(0) * elements, model.codec), **shares}

    def _components(self, model: Model) -> Components:
        parts = {"model": model.denoiser, "codec": model.codec, "conditioner": model.conditioner, **model.more}
        density = self.objective.density
        if isinstance(density, str) and density not in parts:
            raise UserError(
                f"the schedule is the component {density!r}, which this model lacks: evaluate the run, which has it, "
                "or set judge.objective.density"
            )
        return {k: v.to(model.device) if isinstance(v, nn.Module) else v for k, v in parts.items() if v is not None}
