"""Samples compared with real data in the features of a fixed network, or of no network at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from unnoise.data.dataset import Dataset
from unnoise.errors import UserError
from unnoise.evaluate import LEAST, RULES, compared, memorised, require_enough
from unnoise.judges.inception import Inception
from unnoise.metrics.figure import Figure
from unnoise.model import Model
from unnoise.reference import Reader, mapped, references
from unnoise.trial import Trial


class Features(Protocol):
    """A value that says which features are meant."""

    def load(self, device: torch.device) -> Reader:
        """What makes them; Raises UserError where something is missing."""
        ...


@dataclass(frozen=True)
class Means:
    """Area means of pictures, or averages over stretches of any other data: features that need no network.

    They see composition and colour, and nothing of what a picture shows: for pictures that the Inception network does
    not read, and where its weights are not at hand.

    Args:
        side: cells along each axis.

    Raises:
        ValueError: for less than one cell.
    """

    side: int = 8

    def __post_init__(self) -> None:
        if self.side < 1:
            raise ValueError(f"needs at least one cell along each axis, got {self.side}")

    def load(self, device: torch.device) -> Means:
        """Itself."""
        return self

    @property
    def key(self) -> dict[str, Any]:
        """What the features depend on."""
        return {"means": self.side, "of": "shares of the largest whole number of the type"}

    def named(self, raw: Tensor) -> dict[str, Tensor]:
        """{"means8": [N, C * side^axes]}, float32, whole numbers as shares of the largest that their type holds.

        Raises:
            UserError: for data of more than three axes.
        """
        pools: dict[int, Any] = {3: F.adaptive_avg_pool1d, 4: F.adaptive_avg_pool2d, 5: F.adaptive_avg_pool3d}
        if raw.ndim not in pools:
            raise UserError(f"means are of data with 1 to 3 axes beside channels, got {list(raw.shape[1:])}")
        cells = [min(self.side, n) for n in raw.shape[2:]]
        peak = 1 if raw.is_floating_point() else torch.iinfo(raw.dtype).max
        return {f"means{self.side}": pools[raw.ndim](raw.float() / peak, cells).flatten(1).cpu()}


@dataclass(frozen=True)
class Distances:
    """Samples and held-out data, as many of each, compared with training data; see `evaluate.compared`.

    Figures carry the name of their features: fd-1280, kid-768; "fid" is the distance of 2,048 features of the whole
    published network. Beside them how near samples come to training items. Conditional models are asked for what the
    items are that samples are compared with.

    Args:
        features: which features.
        compared: items at most of the training and of the held-out part that samples are compared with pairwise.
        count: of samples unless told otherwise.
        against: "train"; or "held_out", for the few items that a network knows by heart: these would be at no distance
            from themselves. Then training items stand beside samples, and figures are called "fd-1280 to held-out".

    Raises:
        ValueError: for anything else.
    """

    features: Features = Inception()
    compared: int = 10_000
    count: int = 10_000
    against: Literal["train", "held_out"] = "train"

    def __post_init__(self) -> None:
        if self.against not in ("train", "held_out"):
            raise ValueError(f"samples are compared against 'train' or 'held_out', got {self.against!r}")

    @property
    def protocol(self) -> Mapping[str, Any]:
        """What the figures depend on besides the judge's own fields and weights."""
        return RULES

    def __call__(self, model: Model, data: Dataset, trial: Trial) -> list[Figure]:
        """The figures; Raises UserError for too few samples or held-out items, and as `features.load` does."""
        require_enough(trial.n, data)
        basis, to = data, ""
        if self.against == "held_out":
            if (few := len(data.held_out["x"])) < LEAST:
                raise UserError(f"{few} held-out items are too few to compare with: {LEAST} would do")
            basis, to = Dataset(data.held_out, data.train), " to held-out"
        reader = self.features.load(trial.run.device)
        for name, value in reader.key.items():
            trial.rests_on(name, str(value))
        real = references(reader, basis, self.compared, trial)
        raw = [trial.samples(model, i, like=basis.train).raw for i in range(trial.repeats)]
        trial.say(f"features of {trial.n:,} samples")
        own = [mapped(reader, x, trial) for x in raw]
        widest = max(real, key=lambda k: real[k].train.shape[1])
        figures = [
            found
            for name in real
            for found in compared([x[name] for x in own], real[name], f"{name}{to}", trial, neighbours=name == widest)
        ]
        return figures + memorised(raw, data, trial)
