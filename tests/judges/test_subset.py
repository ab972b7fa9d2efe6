"""A judge of fewer data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from unnoise.data.dataset import Dataset
from unnoise.judges import Classifier, Subset
from unnoise.metrics.figure import Figure, figure
from unnoise.modality import Image
from unnoise.recipe import Judge, Trial
from unnoise.spec import build, describe

DATA = Dataset({"x": torch.arange(10.0), "label": torch.arange(10)}, {"x": torch.arange(5.0) * 3}, "numbers")


@dataclass(frozen=True)
class Means:
    """The mean of x over both splits."""

    count: int = 7
    protocol: Mapping[str, Any] = field(default_factory=lambda: {"version": 2})

    def __call__(self, model: Any, data: Dataset, trial: Trial) -> list[Figure]:
        return [figure(data.about, [float(data.train["x"].mean())] * trial.n, float(data.held_out["x"].mean()))]


def test_the_first_items_of_each_split_are_shown() -> None:
    judge = Subset(Means(), train=4, held_out=2)
    assert judge(None, DATA, Trial(1)) == [Figure("numbers", 1.5, 1.5)]
    assert Subset(Means(), train=99, held_out=99)(None, DATA, Trial(1)) == Means()(None, DATA, Trial(1))
    assert judge.count == 7 and judge.protocol == {"version": 2}


def test_it_is_a_judge_and_a_value() -> None:
    judge = Subset(Classifier(Image((1, 8, 8)), 10), train=4, held_out=2)
    assert isinstance(judge, Judge) and build(describe(judge)) == judge


@pytest.mark.parametrize("sizes", [(0, 2), (3, 0)])
def test_nothing_to_look_at_is_refused(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="a subset has at least 1 item"):
        Subset(Means(), *sizes)
