"""A judge of fewer data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unnoise.data.dataset import Columns, Dataset
from unnoise.metrics.figure import Figure
from unnoise.recipe import Judge, Trial


@dataclass(frozen=True)
class Subset:
    """Another judge, who is shown the first items of the data only, where all would take too long.

    Args:
        judge: who.
        train: items of what was trained on, at most.
        held_out: items of what was not, at most.
    """

    judge: Judge
    train: int
    held_out: int

    def __post_init__(self) -> None:
        if self.train < 1 or self.held_out < 1:
            raise ValueError(f"a subset has at least 1 item, got {self.train} and {self.held_out}")

    @property
    def count(self) -> int:
        """Samples a repeat: the judge's own."""
        return self.judge.count

    @property
    def protocol(self) -> Mapping[str, Any]:
        """The judge's own."""
        return self.judge.protocol

    def __call__(self, model: Any, data: Dataset, trial: Trial) -> Sequence[Figure]:
        """The judge's figures."""
        few = Dataset(_first(data.train, self.train), _first(data.held_out, self.held_out), data.about)
        return self.judge(model, few, trial)


def _first(columns: Columns, n: int) -> Columns:
    return {k: v[:n] for k, v in columns.items()}
