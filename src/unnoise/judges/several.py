"""Judges one after another, on a part of the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from unnoise.data.dataset import Columns, Dataset
from unnoise.metrics.figure import Figure
from unnoise.model import Model
from unnoise.trial import Judge, Trial


@dataclass(frozen=True)
class Several:
    """The figures of several judges, of real data that are spread evenly over all there are.

    Distances between samples and half of the real data take as many samples as that: a part of them is enough.

    Args:
        judges: in this order.
        train: training items to look at; None: all.
        held_out: held-out items to look at; None: all.

    Raises:
        ValueError: for no judge, or fewer than 1 item.
    """

    judges: Sequence[Judge]
    train: int | None = None
    held_out: int | None = None

    def __post_init__(self) -> None:
        if not self.judges:
            raise ValueError("needs at least one judge")
        for name in ("train", "held_out"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def count(self) -> int:
        """Samples a repeat, unless the user says otherwise: as many as the most demanding judge takes."""
        return max(judge.count for judge in self.judges)

    @property
    def protocol(self) -> dict[str, Any]:
        """What the figures depend on besides the judges' own fields."""
        return {k: v for judge in self.judges for k, v in judge.protocol.items()}

    def __call__(self, model: Model, data: Dataset, trial: Trial) -> list[Figure]:
        """All figures; Raises UserError where a judge cannot measure the model."""
        part = Dataset(spread(data.train, self.train), spread(data.held_out, self.held_out), data.about)
        return [found for judge in self.judges for found in judge(model, part, trial)]


def each(judge: Judge) -> Sequence[Judge]:
    """The judges of `Several`; any other alone."""
    return judge.judges if isinstance(judge, Several) else [judge]


def spread(columns: Columns, n: int | None) -> Columns:
    """n items (or all, where there are no more), spread evenly."""
    have = len(columns["x"])
    if n is None or n >= have:
        return columns
    index = torch.arange(n) * have // n
    return {k: v[index] for k, v in columns.items()}
