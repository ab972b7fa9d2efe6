"""Samples compared in fixed features: real data pass for real, copies are found, shifts are measured."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from unnoise.data import Digits, Nuclei, Sprites
from unnoise.data.dataset import Dataset, permutation
from unnoise.errors import UserError
from unnoise.evaluate import RULES
from unnoise.judges import Distances, Inception, Means
from unnoise.metrics.figure import Figure
from unnoise.modality import Image, Labels
from unnoise.samples import Samples
from unnoise.spec import build, describe
from unnoise.trial import Judge, Trial

real = pytest.mark.skipif(not os.environ.get("UNNOISE_DATA"), reason="UNNOISE_DATA names no folder of data")
CODEC = Image((1, 8, 8), 0, 16)
NEAREST, COPIES = "nearest training item", "nearer than 99 % of held-out"
FOUR = ("precision", "recall", "density", "coverage")


@dataclass(eq=False)
class Drawer:
    """A "model" that draws its items one after the other, and notes what it is asked for."""

    x: Any
    conditioner: Any = None
    asked: list[dict[str, Tensor]] = field(default_factory=list)

    def sample(self, n: int, *, seed: int = 0, **cond: Tensor) -> Samples:
        self.asked.append(cond)
        seeds = torch.arange(seed, seed + n)
        return Samples(self.x[seeds % len(self.x)], seeds, cond, CODEC)


def judged(judge: Distances, model: Drawer, data: Dataset, trial: Trial) -> dict[str, Figure]:
    return {f.name: f for f in judge(model, data, trial)}  # type: ignore[arg-type]


def drawn(x: Any, data: Dataset, judge: Distances = Distances(Means(4))) -> dict[str, Figure]:
    return judged(judge, Drawer(x), data, Trial(len(x), seed=0))


@pytest.fixture(scope="module")
def digits() -> Dataset:
    """As many training as held-out digits."""
    whole = Digits().load()
    few = permutation(len(whole), 9)[:359]
    return Dataset({k: v[few] for k, v in whole.train.items()}, whole.held_out)


# Means ----------------------------------------------------------------------------------------------------------------


def test_means_are_of_cells() -> None:
    """By hand: quarters of a picture, thirds of a wave, eighths of a volume; whole numbers as shares of the largest."""
    picture = torch.tensor([[0, 51, 102, 102], [0, 51, 102, 102], [255, 255, 0, 0], [255, 255, 0, 204]])
    found = Means(2).named(picture.to(torch.uint8)[None, None])
    assert found.keys() == {"means2"} and found["means2"].dtype == torch.float32
    torch.testing.assert_close(found["means2"], torch.tensor([[0.1, 0.4, 1.0, 0.2]]))
    two = torch.stack([picture, 255 - picture]).to(torch.uint8)[None]
    torch.testing.assert_close(Means(1).named(two)["means1"], torch.tensor([[0.425, 0.575]]))
    deep = torch.full((1, 1, 2, 2), 2**31 - 1, dtype=torch.int32)
    torch.testing.assert_close(Means(1).named(deep)["means1"], torch.ones(1, 1))
    wave = torch.tensor([[[1.0, 3.0, -5.0, -5.0, 0.0, 9.0]]])
    torch.testing.assert_close(Means(3).named(wave)["means3"], torch.tensor([[2.0, -5.0, 4.5]]))
    volume = torch.arange(64.0).reshape(1, 1, 4, 4, 4)
    corners = volume.unfold(2, 2, 2).unfold(3, 2, 2).unfold(4, 2, 2).mean((-1, -2, -3)).flatten(1)
    torch.testing.assert_close(Means(2).named(volume)["means2"], corners)
    small = torch.rand(3, 2, 3, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(Means(8).named(small)["means8"], small.flatten(1))  # no more cells than pixels


def test_what_means_are_not_of_is_refused() -> None:
    with pytest.raises(ValueError, match="needs at least one cell along each axis, got 0"):
        Means(0)
    for shape in ((2, 3), (2, 1, 2, 2, 2, 2)):
        with pytest.raises(UserError, match="means are of data with 1 to 3 axes beside channels"):
            Means().named(torch.zeros(shape))
    assert Means(8).key != Means(4).key


# Distances ------------------------------------------------------------------------------------------------------------


def test_held_out_data_as_samples_are_as_good_as_real(digits: Dataset) -> None:
    """All of them, in another order: the same by every figure, each with a standard error."""
    figures = drawn(digits.held_out["x"], digits)
    kinds = ["fd-means4", "fd-means4 at infinity", "kid-means4", *(f"{k}-means4" for k in FOUR)]
    assert list(figures) == [*kinds, NEAREST, COPIES]
    for name in figures.keys() - {"fd-means4 at infinity"}:  # which cuts them in parts
        assert figures[name].samples == pytest.approx(figures[name].real, rel=1e-9, abs=1e-12), name
    for name, f in figures.items():
        assert f.error is not None and f.error > 0, name
    assert figures["fd-means4"].samples > 0 and figures[NEAREST].samples > 0


def test_other_real_data_are_as_good_as_held_out_ones(digits: Dataset) -> None:
    whole = Digits().load().train
    figures = drawn(whole["x"][permutation(len(whole["x"]), 9)[359:718]], digits)
    for k in FOUR:
        assert figures[f"{k}-means4"].samples / figures[f"{k}-means4"].real == pytest.approx(1, abs=0.1)  # type: ignore[operator]
    assert 0.4 < figures["fd-means4"].samples / figures["fd-means4"].real < 2.5  # type: ignore[operator]
    assert figures[NEAREST].samples / figures[NEAREST].real == pytest.approx(1, abs=0.1)  # type: ignore[operator]


def test_copies_are_found(digits: Dataset) -> None:
    """Distances praise them; what is said of the nearest items does not."""
    figures = drawn(digits.train["x"], digits)
    assert figures["fd-means4"].samples == pytest.approx(0, abs=1e-9)
    assert figures[NEAREST].samples == 0 and figures[COPIES].samples == 1
    half = torch.cat([digits.train["x"][:180], digits.held_out["x"][:179]])
    assert drawn(half, digits)[COPIES].samples == pytest.approx(180 / 359, abs=0.02)


def test_a_shift_is_measured() -> None:
    """In closed form: the training data themselves, each feature moved by c: D c^2, at any count and at infinity."""
    x = torch.randn(720, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    data = Dataset({"x": x}, {"x": x[:100].flip(-1)})
    figures = drawn(x + 0.25, data, Distances(Means(3)))
    assert figures["fd-means3 of 720"].samples == pytest.approx(18 * 0.25**2, rel=1e-4)
    assert figures["fd-means3 of 720"].real is None and figures["fd-means3"].real is not None
    assert figures["fd-means3 at infinity"].samples == pytest.approx(18 * 0.25**2, rel=0.1)


@dataclass(frozen=True)
class Two:
    """A reader of two kinds of features, which notes how many items it reads."""

    read: list[int]

    def load(self, device: torch.device) -> Two:
        return self

    @property
    def key(self) -> dict[str, Any]:
        return {"two": "kinds"}

    def named(self, raw: Tensor) -> dict[str, Tensor]:
        self.read.append(len(raw))
        return {"9": Means(3).named(raw)["means3"], "16": Means(4).named(raw)["means4"]}


def test_several_features_are_of_one_pass_and_the_widest_tell_by_neighbours(digits: Dataset) -> None:
    """And those of real data are made once."""
    read: list[int] = []
    figures = drawn(digits.held_out["x"][:100], digits, Distances(Two(read)))
    widest = ["fd-16", "fd-16 at infinity", "kid-16", *(f"{k}-16" for k in FOUR)]
    assert list(figures) == [*widest, "fd-9", "fd-9 at infinity", "kid-9", NEAREST, COPIES]
    assert read == [359, 359, 100]
    assert drawn(digits.held_out["x"][:100], digits, Distances(Two(read))) == figures
    assert read == [359, 359, 100, 100]


def test_samples_are_compared_with_held_out_data_where_asked(digits: Dataset) -> None:
    """As the other way round with the parts of the data exchanged; copies are told as ever."""
    x, swapped = digits.train["x"], Dataset(digits.held_out, digits.train)
    found, other = drawn(x, digits, Distances(Means(4), against="held_out")), drawn(x, swapped)
    names = [k.replace("means4", "means4 to held-out") for k in other]
    assert list(found) == names and names[0] == "fd-means4 to held-out"
    for name, known in zip(names[:-2], other.values(), strict=False):
        assert (found[name].samples, found[name].real) == (known.samples, known.real), name
    assert found["fd-means4 to held-out"].samples == pytest.approx(found["fd-means4 to held-out"].real)
    assert found[COPIES].samples == 1 and found[COPIES].real == pytest.approx(0.01, abs=0.005)


def test_what_cannot_be_compared_with_is_refused(digits: Dataset) -> None:
    few = Dataset(digits.train, {k: v[:59] for k, v in digits.held_out.items()})
    with pytest.raises(UserError, match="59 held-out items are too few to compare with: 60 would do"):
        drawn(digits.train["x"], few, Distances(Means(4), against="held_out"))
    with pytest.raises(ValueError, match="against 'train' or 'held_out', got 'test'"):
        Distances(against="test")  # type: ignore[arg-type]


def test_repeats_are_averaged(digits: Dataset) -> None:
    sets = [digits.held_out["x"][:100], digits.train["x"][:100]]
    judge, model = Distances(Means(2)), Drawer(torch.cat(sets))
    together = judged(judge, model, digits, Trial(100, repeats=2, seed=0))
    alone = [drawn(x, digits, judge) for x in sets]
    for name, f in together.items():
        a, b = (figures[name].samples for figures in alone)
        assert f.samples == pytest.approx((a + b) / 2) and f.error == pytest.approx(abs(a - b) / 2)
        assert f.real == alone[0][name].real


def test_only_some_are_compared_in_pairs_and_all_in_the_mean(digits: Dataset) -> None:
    """The distance is to all training data, whatever `compared` is; beside it are as many samples as are kept."""
    x = digits.train["x"]
    figures = drawn(x, digits, Distances(Means(4), compared=80))
    assert figures["fd-means4 of 359"].samples == pytest.approx(0, abs=1e-9)
    assert figures["fd-means4"].samples > 1e-5 and figures["fd-means4"].real is not None


def test_what_rests_on_what_is_told(digits: Dataset) -> None:
    trial = Trial(359, seed=0)
    judge = Distances(Means(3))
    judged(judge, Drawer(digits.held_out["x"]), digits, trial)
    assert trial.ruler == {k: [str(v)] for k, v in Means(3).key.items()} and judge.protocol == RULES


def test_too_few_samples_are_refused_before_anything_is_made(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def no(*arguments: Any) -> None:
        raise AssertionError("features are made")

    monkeypatch.setattr(Means, "named", no)
    model = Drawer(digits.held_out["x"])
    with pytest.raises(UserError, match="59 samples: to compare distributions takes at least 60"):
        judged(Distances(Means()), model, digits, Trial(59))
    assert not model.asked


def test_it_is_a_judge_and_a_value() -> None:
    for judge in (Distances(), Distances(Means(3), compared=5, count=7)):
        assert isinstance(judge, Judge) and build(describe(judge)) == judge
    assert Distances().features == Inception() and Distances().count == 10_000


# Real pictures --------------------------------------------------------------------------------------------------------


@real
def test_a_conditional_model_is_asked_for_what_training_items_are() -> None:
    """Drawn characters: each training item's eight attributes at once; held-out ones as samples pass for real."""
    data = Sprites(limit=600).load()
    held_out = {k: v[:300] for k, v in data.held_out.items()}
    data = Dataset(data.train, held_out)
    model = Drawer(held_out["x"], Labels(Sprites.classes))
    figures = judged(Distances(Means()), model, data, Trial(300, repeats=2, seed=0))
    # 2 x 300 samples are the 600 training items, each once.
    asked = [torch.stack([cond[k] for k in Sprites.classes], 1) for cond in model.asked]
    trained_on = torch.stack([torch.as_tensor(data.train[k]) for k in Sprites.classes], 1)
    assert sorted(torch.cat(asked).tolist()) == sorted(trained_on.tolist())
    assert figures["fd-means8"].samples == pytest.approx(figures["fd-means8"].real)
    assert figures[COPIES].samples == figures[COPIES].real


@real
def test_an_unconditional_model_is_asked_for_nothing() -> None:
    """Micrographs: tiles of held-out ones as samples pass for real, those of the training set are copies."""
    data = Nuclei(size=64, limit=400).load()
    model = Drawer(data.held_out["x"])
    n = len(model.x)
    figures = judged(Distances(Means(4)), model, data, Trial(n, seed=0))
    assert model.asked == [{}]
    for name in ("fd-means4", "recall-means4", NEAREST, COPIES):
        assert figures[name].samples == pytest.approx(figures[name].real), name
    copies = drawn(data.train["x"][:n], data)
    assert copies[COPIES].samples == 1 and figures[COPIES].samples < 0.1


@real
def test_pictures_are_compared_in_inceptions_features() -> None:
    """60 held-out characters as samples are as good as real; the digest of the weights is noted."""
    whole, said = Sprites(limit=20).load(), list[str]()
    data = Dataset(whole.train, {k: v[:60] for k, v in whole.held_out.items()})
    trial = Trial(60, seed=0, say=said.append)
    figures = judged(Distances(Inception(192)), Drawer(data.held_out["x"]), data, trial)
    assert list(figures) == ["fd-192", "kid-192", *(f"{k}-192" for k in FOUR), NEAREST, COPIES]
    for name in ("fd-192", "kid-192", NEAREST, COPIES):
        assert figures[name].samples == pytest.approx(figures[name].real, rel=1e-4), name
    assert figures["fd-192"].samples > 0 and any(line.startswith("fd-192: 60 rows for 192 features") for line in said)
    assert trial.ruler == {"inception": [Inception(192).load().digest]}
