"""What a stage of super-resolution makes of small pictures whose large ones are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from unnoise.data.dataset import Dataset, permutation
from unnoise.errors import UserError
from unnoise.judges.classifier import Classifier
from unnoise.metrics.figure import Figure, figure
from unnoise.metrics.signal import channel_drift, psnr
from unnoise.model import Model
from unnoise.trial import Trial


@dataclass(frozen=True)
class SuperResolution:
    """A judge of pictures enlarged from held-out small ones.

    Figures, in units of the raw data where no other is named: PSNR to the true large picture, at each level of noise on
    the small one, beside the upsampling's; drift of each channel's mean from the true one's, in which a shift of colour
    shows that PSNR hides; root mean square distance of the area mean to the small picture; the share that is read as
    its class, over the share of true pictures.

    Args:
        reader: who reads the large pictures, and how it is trained.
        low: the condition that is the small picture.
        augment: the condition that is the level of noise on it.
        levels: of that noise; the first is that of all figures but PSNR.
        count: of pictures to enlarge unless told otherwise.
    """

    reader: Classifier
    low: str = "low"
    augment: str = "augment"
    levels: tuple[float, ...] = (0.1, 0.0, 0.3, 0.6)
    count: int = 300

    @property
    def protocol(self) -> dict[str, Any]:
        """What the figures depend on besides the judge's own fields."""
        return {"upsampling": "bilinear", "small": "area mean"}

    def __call__(self, model: Model, data: Dataset, trial: Trial) -> list[Figure]:
        """The figures; Raises UserError for a model that is told no small picture, and too few held-out ones."""
        held_out, label = data.held_out, self.reader.label
        there = len(held_out["x"])
        for name in (self.low, self.augment):
            if name not in getattr(model.conditioner, "names", ()):
                raise UserError(f"the judge enlarges pictures, but the model is not conditioned on {name!r}")
        if trial.n * trial.repeats > there:
            raise UserError(
                f"there are {there} held-out pictures to enlarge: -n of at most {there // trial.repeats}, got {trial.n}"
            )
        reader = self.reader.reader(data, trial)
        peak = float(model.codec.high - model.codec.low)
        order = permutation(there, trial.seed)
        own: dict[str, list[float]] = {}
        true: dict[str, list[float]] = {}
        for i in range(trial.repeats):
            rows = order[i * trial.n : (i + 1) * trial.n]
            high, low, asked = held_out["x"][rows], held_out[self.low][rows], held_out[label][rows]
            trial.say(f"enlarging {trial.n} held-out pictures at {len(self.levels)} levels")
            for j, s in enumerate(self.levels):
                told: dict[str, Any] = {self.low: low, self.augment: s}
                x = trial.samples(model, i, **told).raw
                _note(own, {f"PSNR in dB at {self.augment}={s:g}": _mean_psnr(x, high, peak)})
                if j == 0:
                    _note(own, self._kept(x, high, low, reader.read(x) == asked))
                    _note(true, self._kept(high, high, low, reader.read(high) == asked))
            _note(own, {"PSNR in dB of bilinear upsampling": _mean_psnr(enlarged(low, high), high, peak)})
        real = {k: sum(v) / len(v) for k, v in true.items()}
        return [figure(k, v, real.get(k)) for k, v in own.items()]

    def _kept(self, x: Tensor, high: Tensor, low: Tensor, right: Tensor) -> dict[str, float]:
        """What should have stayed as it is."""
        drift = {f"drift of the mean of channel {c}": float(d) for c, d in enumerate(channel_drift(x, high))}
        away = (reduced(x, low) - low.double()).square().mean().sqrt()
        return {**drift, "distance of the area mean to the small picture": float(away), "read as asked": _share(right)}


def enlarged(low: Tensor, high: Tensor) -> Tensor:
    """Small pictures [N, C, h, w], bilinearly at the size of `high` [N, C, H, W]; float32, in the same units."""
    return F.interpolate(low.float(), size=high.shape[2:], mode="bilinear")


def reduced(high: Tensor, low: Tensor) -> Tensor:
    """Large pictures [N, C, H, W] as area means at the size of `low` [N, C, h, w]; float64, in the same units."""
    h, w = low.shape[2:]
    return F.adaptive_avg_pool2d(high.double(), (h, w))


def _mean_psnr(x: Tensor, true: Tensor, peak: float) -> float:
    return float(psnr(x, true, peak).mean())


def _share(right: Tensor) -> float:
    return float(right.double().mean())


def _note(rows: dict[str, list[float]], values: Mapping[str, float]) -> None:
    for k, v in values.items():
        rows.setdefault(k, []).append(v)
