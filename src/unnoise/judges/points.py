"""Point clouds told from held-out ones by their nearest neighbours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from unnoise.data.dataset import Dataset, loaded, permutation
from unnoise.errors import UserError
from unnoise.metrics.figure import Figure, figure
from unnoise.metrics.points import (
    chamfer,
    coverage,
    emd,
    emd_approximate,
    minimum_matching_distance,
    normalise,
    one_nna,
)
from unnoise.model import Model
from unnoise.trial import Trial

Normalisation = Literal["sphere", "box", "std"]


@dataclass(frozen=True)
class NearestNeighbour:
    """Samples against as many held-out clouds: under each normalisation, by Chamfer and by earth mover's distance.

    Figures: the 1-NN accuracy (0.5 at best), coverage and the minimum matching distance; see `metrics.points`. Real:
    the same of training clouds in the place of the samples, a mean over random draws of as many.

    Args:
        normalisations: of each cloud by itself.
        emd_points: points of a cloud, the first, between which earth mover's distances are taken, which cost their
            cube; Chamfer distances take all.
        emd_error: they are exact, and need scipy, at 0; else found to within this, in units of the normalised clouds.
        draws: of training clouds.
        count: of samples a repeat, unless told otherwise; at most that of the held-out clouds.
    """

    normalisations: tuple[Normalisation, ...] = ("box", "std")
    emd_points: int = 64
    emd_error: float = 0.0
    draws: int = 3
    count: int = 100

    def __post_init__(self) -> None:
        if min(self.emd_points, self.draws, len(self.normalisations)) < 1 or not self.emd_error >= 0:
            raise ValueError(
                "needs emd_points >= 1, draws >= 1, emd_error >= 0 and a normalisation, got "
                f"{self.emd_points}, {self.draws}, {self.emd_error} and {self.normalisations}"
            )

    @property
    def protocol(self) -> dict[str, Any]:
        """How Chamfer distances are written, of which there are several ways."""
        return {"chamfer": "mean of squares one way + mean of squares the other", "reference": "held-out clouds"}

    def __call__(self, model: Model, data: Dataset, trial: Trial) -> list[Figure]:
        """Samples against the first `trial.n` held-out clouds, at as many points as the samples have.

        Raises:
            UserError: for other than clouds, fewer than 2 samples, more than there are held-out clouds, or an exact
                earth mover's distance without scipy.
        """
        held_out, train = loaded(data.held_out["x"]), loaded(data.train["x"])
        if held_out.ndim != 3 or held_out.shape[2] != 3:
            raise UserError(f"clouds are [N, points, 3], the data are {tuple(held_out.shape)}")
        most = min(len(held_out), len(train))
        if not 2 <= trial.n <= most:
            raise UserError(f"samples are told from as many held-out clouds: -n from 2 to {most}, got {trial.n}")
        probe = torch.zeros(1, 1, 3)
        self._emd(probe, probe)  # without scipy it is refused here, before minutes of sampling
        sets = [trial.samples(model, i).raw for i in range(trial.repeats)]
        points = sets[0].shape[1]
        if held_out.shape[1] < points:
            raise UserError(f"samples have {points} points, held-out clouds {held_out.shape[1]}: set data.count")
        drawn = [train[permutation(len(train), 0, i)[: trial.n], :points] for i in range(self.draws)]
        trial.say("measuring distances")
        return self.measured(sets, drawn, held_out[: trial.n, :points])

    def measured(self, sets: Sequence[Tensor], drawn: Sequence[Tensor], reference: Tensor) -> list[Figure]:
        """The figures of repeats of samples beside those of draws of training clouds, all float32 [N, P, 3]."""
        figures = []
        for how in self.normalisations:
            y, *others = (normalise(x.cpu(), how) for x in (reference, *sets, *drawn))
            for name, distance in (("Chamfer", chamfer), ("EMD", self._emd)):
                yy = distance(y, y)
                rows = [_row(distance(x, x), distance(x, y), yy) for x in others]
                for k in rows[0]:
                    values = [row[k] for row in rows]
                    real = values[len(sets) :]
                    figures.append(figure(f"{k}, {name}, {how}", values[: len(sets)], sum(real) / len(real)))
        return figures

    @property
    def _emd(self) -> Callable[[Tensor, Tensor], Tensor]:
        n, error = self.emd_points, self.emd_error
        if error:
            return lambda a, b: emd_approximate(a[:, :n], b[:, :n], error)
        return lambda a, b: emd(a[:, :n], b[:, :n])


def _row(xx: Tensor, xy: Tensor, yy: Tensor) -> dict[str, float]:
    return {
        "1-NN accuracy": one_nna(xx, xy, yy),
        "coverage": coverage(xy),
        "minimum matching distance": minimum_matching_distance(xy),
    }
