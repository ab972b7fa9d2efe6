"""The judge of attributes: heads, figures factor by factor, what is refused."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from unnoise import recipes
from unnoise.core.rng import Rng
from unnoise.data.dataset import Dataset
from unnoise.errors import UserError
from unnoise.judges import Attributes
from unnoise.judges.attributes import AttributeClassification, heads
from unnoise.metrics import share
from unnoise.modality import Image, Labels
from unnoise.samples import Samples
from unnoise.spec import build, describe
from unnoise.trial import Judge, Trial

CODEC = Image((1, 8, 8))
CLASSES = {"place": 4, "shade": 3, "sign": 2}
CPU = torch.device("cpu")


def pictures(n: int, first: int = 0) -> dict[str, Tensor]:
    """A bar in one of four columns of pixel pairs, of one of three shades, in the upper or the lower half."""
    labels = Labels(CLASSES).uniform(torch.arange(first, first + n))
    x = torch.full((n, 1, 8, 8), 20, dtype=torch.uint8)
    for i in range(n):
        column, row = 2 * int(labels["place"][i]), 4 * int(labels["sign"][i])
        x[i, 0, row : row + 4, column : column + 2] = 90 + 80 * int(labels["shade"][i])
    noise = Rng.of(torch.arange(first, first + n)).normal(torch.zeros(n, 1, 8, 8))
    return {"x": (x + 6 * noise).clamp(0, 255).to(torch.uint8), **labels}


@dataclass(eq=False)
class Drawn:
    """A "model" that draws true pictures; those with a seed that divides by `wrong` are told another shade."""

    conditioner: Any = Labels(CLASSES)
    wrong: int = 10**9
    device: torch.device = CPU

    def sample(self, n: int, *, seed: int = 0, **settings: Any) -> Samples:
        columns = pictures(n, seed)
        x = columns.pop("x")
        seeds = torch.arange(seed, seed + n)
        columns["shade"] = (columns["shade"] + (seeds % self.wrong == 0)) % 3
        return Samples(x, seeds, columns, CODEC)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Dataset(pictures(720), pictures(144, 10_000))


JUDGE = Attributes(CODEC, CLASSES, width=8, stages=2, samples=9_000, shift=0, lr=4e-3, count=100)


def test_heads_are_stretches_of_the_logits() -> None:
    logits = torch.arange(18.0).reshape(2, 9)
    got = heads(logits, CLASSES)
    assert {k: v.tolist() for k, v in got.items()} == {
        "place": [[0, 1, 2, 3], [9, 10, 11, 12]],
        "shade": [[4, 5, 6], [13, 14, 15]],
        "sign": [[7, 8], [16, 17]],
    }


def test_the_loss_is_the_sum_of_the_heads_cross_entropies() -> None:
    raw = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    logits = torch.tensor([[2.0, 0.0, -1.0, 0.5, 1.0], [0.5, 0.5, 3.0, 1.0, 0.0]])
    batch = {"x": raw, "a": torch.tensor([0, 2]), "b": torch.tensor([1, 1])}
    objective = AttributeClassification({"a": 3, "b": 2}, shift=0, smoothing=0.0)
    loss = objective({"codec": CODEC, "model": lambda x: logits}, batch, Rng.of([0, 1]), 0)
    first, second = logits[:, :3].log_softmax(1), logits[:, 3:].log_softmax(1)
    torch.testing.assert_close(loss.value, -torch.stack([first[0, 0] + second[0, 1], first[1, 2] + second[1, 1]]))
    assert loss.scalars["accuracy"] == 0.5  # the second row's b is read as 0


def test_figures_name_the_attribute_that_is_wrong(data: Dataset) -> None:
    """One seed in five is told another shade: all other factors are read as asked."""
    figures = {f.name: f for f in JUDGE(Drawn(wrong=5), data, Trial(100, repeats=2))}  # type: ignore[arg-type]
    assert list(figures) == ["place read as asked", "shade read as asked", "sign read as asked", "all read as asked"]
    assert all(f.real is not None and f.real >= 0.97 for f in figures.values())
    for name in ("place", "sign"):
        assert figures[f"{name} read as asked"].samples >= 0.97
    single = {f.name: f for f in JUDGE(Drawn(wrong=5), data, Trial(100))}["shade read as asked"]  # type: ignore[arg-type]
    assert single.error == pytest.approx(0.04, abs=0.004) and single.real_error is not None
    for name in ("shade", "all"):
        assert figures[f"{name} read as asked"].samples == pytest.approx(0.8, abs=0.03)
        assert figures[f"{name} read as asked"].error is not None


def test_all_is_no_more_than_the_least() -> None:
    reader = Attributes(CODEC, CLASSES, width=4, samples=64, stages=1).train(pictures(64), CPU)
    columns = pictures(200, 50)
    shares = {k: p for k, (p, _) in reader.shares(columns["x"], columns).items()}
    read = reader.read(columns["x"])
    assert shares["all read as asked"] <= min(shares.values())
    assert shares["shade read as asked"] == pytest.approx(float((read["shade"] == columns["shade"]).double().mean()))
    assert reader.features(columns["x"]).shape == (200, 128)
    assert shares["all read as asked"] < 0.9  # untrained: the test data are no foregone conclusion


def test_a_share_has_the_error_of_counting() -> None:
    """As of two more of either kind: a share of 1 out of five is not known exactly."""
    p, q = 32 / 44, 7 / 9
    assert share(torch.tensor([True] * 30 + [False] * 10)) == (0.75, pytest.approx((p * (1 - p) / 40) ** 0.5))
    assert share(torch.ones(5, dtype=torch.bool)) == (1.0, pytest.approx((q * (1 - q) / 5) ** 0.5))


def test_it_is_a_judge_and_a_value() -> None:
    assert isinstance(JUDGE, Judge) and build(describe(JUDGE)) == JUDGE


def test_what_cannot_be_judged_is_refused(data: Dataset) -> None:
    with pytest.raises(UserError, match="reads 'shade', which the model is not conditioned on"):
        JUDGE(Drawn(Labels({"place": 4})), data, Trial(10))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="there are none"):
        nothing = {k: v[:0] for k, v in data.held_out.items()}
        JUDGE(Drawn(), Dataset(data.train, nothing), Trial(10))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one attribute"):
        Attributes(CODEC, {})


def test_the_recipe_asks_for_what_the_data_know_and_trains_for_guidance_on_each() -> None:
    recipe = recipes.load("sprites")[0]
    assert sum(p.numel() for p in recipe.components()["model"].parameters()) <= 4_000_000
    classes = recipe.data.classes  # type: ignore[attr-defined]
    assert recipe.conditioner.alone == tuple(classes) and recipe.judge.classes == classes  # type: ignore[union-attr]
