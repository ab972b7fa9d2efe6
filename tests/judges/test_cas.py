"""The classification accuracy score: samples that are as good as real data, samples that lie, samples that collapse."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from unnoise import recipes
from unnoise.data import Digits
from unnoise.data.dataset import Dataset
from unnoise.errors import UserError
from unnoise.judges import ClassificationAccuracy, Classifier
from unnoise.metrics.figure import Figure
from unnoise.modality import Image, Labels
from unnoise.samples import Samples
from unnoise.spec import build, describe
from unnoise.trial import Judge, Trial

CODEC = Image((1, 8, 8), 0, 16)
N = 600
JUDGE = ClassificationAccuracy(Classifier(CODEC, 10, width=8, samples=6_400, batch=32, lr=1e-2), count=N, least=20)
NAMES = ["classification accuracy score", "classification accuracy score, worst class"]


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Digits().load()


@dataclass(eq=False)
class Drawer:
    """A "model" that draws training digits, chosen and labelled by a rule."""

    x: Tensor
    label: Tensor
    conditioner: Any = Labels()
    device: torch.device = torch.device("cpu")

    def sample(self, n: int, *, seed: int = 0, **settings: Any) -> Samples:
        seeds = torch.arange(seed, seed + n)
        rows = seeds % len(self.x)
        return Samples(self.x[rows], seeds, {"label": self.label[rows]}, CODEC)


def score(data: Dataset, model: Drawer, **trial: Any) -> list[Figure]:
    return JUDGE(model, data, Trial(N, **trial))  # type: ignore[arg-type]


def test_real_data_score_as_real_data(data: Dataset) -> None:
    """Both repeats draw the same items: the error is that of learning, from a seed for each."""
    figures = score(data, Drawer(data.train["x"][:N], data.train["label"][:N]), repeats=2)
    assert [f.name for f in figures] == NAMES
    own, worst = figures
    assert own.real is not None and own.real >= 0.8
    assert own.samples == pytest.approx(own.real, abs=0.08) and own.error is not None and own.error > 0
    assert worst.samples <= own.samples and worst.real is not None and worst.real <= own.real


def test_labels_that_lie_are_learned(data: Dataset) -> None:
    """Asked for d, the model draws d + 1: agreement of another judge would be 0, and so is this."""
    own, worst = score(data, Drawer(data.train["x"], (data.train["label"] + 1) % 10))
    assert own.samples <= 0.05 and worst.samples == 0 and own.real is not None and own.real >= 0.8


def test_collapse_that_agreement_cannot_see_lowers_it(data: Dataset) -> None:
    """One digit a class, drawn again and again: each is read as asked."""
    label = data.train["label"]
    one = torch.stack([(label == c).nonzero()[0, 0] for c in range(10)])
    own, _ = score(data, Drawer(data.train["x"][one], label[one]))
    assert own.real is not None and own.samples <= own.real - 0.15


def test_the_real_row_learns_from_as_many_items(data: Dataset) -> None:
    """With 20 of them it is worse; with more samples than items it learns from all."""
    model = Drawer(data.train["x"], data.train["label"])
    said: list[str] = []
    judge = replace(JUDGE, classifier=replace(JUDGE.classifier, samples=2_400))
    few, many = (judge(model, data, Trial(n, say=said.append)) for n in (20, 2000))  # type: ignore[arg-type]
    assert few[0].real is not None and many[0].real is not None and few[0].real < many[0].real - 0.05
    assert "training a classifier on 20 samples" in said and "training a classifier on 2,000 samples" in said
    of_real = [line.partition(":")[0] for line in said if "same classifier" in line]
    assert of_real == [f"the same classifier of {n} real items" for n in ("20", "1,438")]


def test_of_too_few_samples_nothing_is_learned(data: Dataset) -> None:
    """As many as other judges are content with: what is left out is said, and nothing is trained for it."""
    said: list[str] = []
    model = Drawer(data.train["x"], data.train["label"])
    assert JUDGE(model, data, Trial(19, say=said.append)) == []  # type: ignore[arg-type]
    assert said == ["19 samples: the classification accuracy score is of 20 at least (-n)"]


def test_it_is_a_judge_and_a_value() -> None:
    assert isinstance(JUDGE, Judge) and build(describe(JUDGE)) == JUDGE and JUDGE.count == N
    assert ClassificationAccuracy(JUDGE.classifier).count == 50_000


def test_what_cannot_be_judged_is_refused(data: Dataset) -> None:
    model = Drawer(data.train["x"], data.train["label"])
    with pytest.raises(UserError, match="reads 'label', which the model is not conditioned on"):
        score(data, replace(model, conditioner=Labels({"digit": 10})))
    with pytest.raises(UserError, match="held-out data, and there are none"):
        score(replace(data, held_out={k: v[:0] for k, v in data.held_out.items()}), model)


def test_the_recipe_is_small_and_judged_by_it() -> None:
    recipe = recipes.load("mnist")[0]
    assert sum(p.numel() for p in recipe.components()["model"].parameters()) <= 2_000_000
    reader, cas = recipe.judge.judges  # type: ignore[union-attr]
    assert cas.classifier == replace(reader, width=32, samples=500_000, batch=128)
    # A plain `evaluate` is for two cores: as many samples as the reader takes, of which nothing is learned.
    assert recipe.judge.count == reader.count == cas.count < cas.least  # type: ignore[union-attr]
