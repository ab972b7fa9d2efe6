"""The judge: a classifier trained by our own trainer."""

import json
import os
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors import safe_open

from unnoise import cache, recipes
from unnoise.core.rng import Rng
from unnoise.data import Digits, Mirror, Mnist
from unnoise.errors import UserError
from unnoise.evaluate import references
from unnoise.judges import Classifier, DeepClassifier, Several
from unnoise.judges.classifier import Classification, shifted
from unnoise.judges.taught import WEIGHTS
from unnoise.judges.taught import key as key_of
from unnoise.modality import Image, Labels
from unnoise.nets import ConvClassifier
from unnoise.runtime import Runtime
from unnoise.samples import Samples
from unnoise.spec import build, describe
from unnoise.trial import Judge, Trial

CODEC = Image((1, 8, 8), 0, 16)
real = pytest.mark.skipif(not os.environ.get("UNNOISE_DATA"), reason="UNNOISE_DATA names no folder of data")


def test_the_judge_reads_held_out_digits(judge: Any) -> None:
    data = Digits().load()
    right = judge.read(data.held_out["x"]) == data.held_out["label"]
    assert float(right.double().mean()) >= 0.97
    for digit in range(10):
        assert float(right[data.held_out["label"] == digit].double().mean()) >= 0.85


def test_it_does_not_read_everything_as_a_digit_it_likes(judge: Any) -> None:
    """Negatives are no digits: what is read off them has little to do with the digit."""
    held_out = Digits().load().held_out
    right = judge.read(16 - held_out["x"]) == held_out["label"]
    assert float(right.double().mean()) < 0.5


def test_features_do_not_depend_on_the_chunks(judge: Any) -> None:
    x = Digits().load().train["x"]
    features = judge.features(x)
    assert features.shape[0] == len(x) and features.dtype == torch.float32 and features.device.type == "cpu"
    torch.testing.assert_close(features[600:605], judge.features(x[600:605]), rtol=1e-4, atol=1e-5)
    assert judge.read(x[600:605]).tolist() == judge.read(x)[600:605].tolist()


def test_training_is_a_function_of_the_seed() -> None:
    train = Digits().load().train
    small = Classifier(CODEC, 10, width=4, samples=256, batch=64)
    a, b, c = (
        replace(small, seed=seed).train(train, torch.device("cpu")).features(train["x"][:20]) for seed in (0, 0, 1)
    )
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_a_deep_judge_reads_held_out_digits_and_sees_some_mirrored() -> None:
    data = Digits().load()
    deep = DeepClassifier(CODEC, 10, width=16, stages=2, blocks=1, samples=12_800, batch=64, lr=5e-3)
    assert isinstance(deep, Judge) and build(describe(deep)) == deep
    recipe = deep.recipe(None)
    assert (recipe.augment, replace(deep, mirror=True).recipe(None).augment) == (None, Mirror())
    reader = deep.train(data.train, torch.device("cpu"))
    assert float((reader.read(data.held_out["x"]) == data.held_out["label"]).double().mean()) >= 0.97


def test_it_is_a_judge_and_a_value() -> None:
    judge = Classifier(CODEC, classes=10, width=8)
    assert isinstance(judge, Judge) and build(describe(judge)) == judge
    assert judge.recipe(None).samples == 40_064  # whole batches


def test_labels_of_another_name(judge: Any) -> None:
    train = Digits().load().train
    columns = {"x": train["x"][:128], "digit": train["label"][:128]}
    reader = Classifier(CODEC, 10, label="digit", width=4, samples=128, batch=64).train(columns, torch.device("cpu"))
    assert reader.read(columns["x"]).shape == (128,)


def test_the_loss_is_cross_entropy_with_smoothing() -> None:
    raw = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 3.0]])
    batch = {"x": raw, "label": torch.tensor([0, 2])}
    loss = Classification(shift=0, smoothing=0.3)({"codec": CODEC, "model": lambda x: logits}, batch, Rng.of([0, 1]), 0)
    log_p = logits.log_softmax(1)
    target = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]])
    torch.testing.assert_close(loss.value, -(target * log_p).sum(1))
    assert loss.scalars["accuracy"] == 1.0


@pytest.mark.parametrize("most", [1, 2])
def test_pictures_are_shifted_by_whole_pixels(most: int) -> None:
    x = torch.arange(200.0 * 1 * 7 * 5).reshape(200, 1, 7, 5)
    moved = shifted(x, Rng.of(range(200)), most)
    seen = set()
    for i in range(200):
        dy, dx = divmod(int(moved[i, 0, 3, 2] - x[i, 0, 3, 2]) + most * 5 + most, 5)
        dy, dx = dy - most, dx - most
        if most == 1:  # with 2, the whole width is reached and the division is not unique
            seen.add((dy, dx))
            rows = (torch.arange(7) + dy).clamp(0, 6)
            columns = (torch.arange(5) + dx).clamp(0, 4)
            assert torch.equal(moved[i, 0], x[i, 0][rows][:, columns])
    assert most != 1 or len(seen) == 9
    assert shifted(x, Rng.of(range(200)), 0) is x
    assert torch.equal(shifted(x[50:60], Rng.of(range(50, 60)), most), moved[50:60])


class Drawer:
    """A "model" that draws held-out digits, as asked."""

    conditioner, device = Labels(), torch.device("cpu")

    def sample(self, n: int, *, seed: int = 0, **settings: Any) -> Samples:
        seeds = torch.arange(seed, seed + n)
        held_out = Digits().load().held_out
        rows = seeds % len(held_out["x"])
        return Samples(held_out["x"][rows], seeds, {"label": held_out["label"][rows]}, CODEC)


def test_samples_are_compared_with_a_part_and_the_judge_learns_from_all() -> None:
    """Pairs are of at most `compared` items; what is read as asked is said of all held-out data."""
    data, said = Digits().load(), list[str]()
    judge = Classifier(CODEC, 10, width=8, samples=3_200, batch=32, lr=1e-2, compared=100)
    trial = Trial(120, say=said.append)
    figures = {f.name: f for f in judge(Drawer(), data, trial)}  # type: ignore[arg-type]
    reader = judge.train(data.train, torch.device("cpu"))
    right = (reader.read(data.held_out["x"]) == data.held_out["label"]).double().mean()
    assert figures["read as asked"].real == pytest.approx(float(right)) and float(right) > 0.5
    assert trial.ruler["judge"] == [reader.digest]
    real = references(reader, data, 100, trial)["judge"]
    assert len(real.train) == len(real.held_out) == 100 and real.moments.count == len(data)
    # Drawn of held-out data, 120 of which 100 stand beside the 100 that are kept.
    assert figures["recall-judge"].samples > 0.8 and figures["fd-judge"].real is not None
    assert figures["fd-judge of 120"].real is None
    assert said[0] == "the judge: its weights are read, or trained on real data"
    with pytest.raises(UserError, match="needs -n of at least 898, got 120"):
        replace(judge, halves=True)(Drawer(), data, Trial(120))  # type: ignore[arg-type]


# The judge that comes with the package --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped() -> Classifier:
    """The judge of the recipe mnist."""
    several = recipes.load("mnist")[0].judge
    assert isinstance(several, Several) and isinstance(several.judges[0], Classifier)
    return several.judges[0]


@real
def test_the_judge_of_mnist_is_not_trained_again(shipped: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights are the package's, and read what they should: 99.45 % of all test digits, of which every fourth."""
    data = Mnist().load()

    def no(*arguments: Any) -> None:
        raise AssertionError("the judge is trained again")

    monkeypatch.setattr("unnoise.judges.taught.taught", no)
    reader = shipped.reader(data, trial := Trial(1))
    assert trial.ruler == {"judge": [reader.digest]}
    right = reader.read(data.held_out["x"][::4]) == data.held_out["label"][::4]
    assert float(right.double().mean()) >= 0.993
    with pytest.raises(AssertionError, match="trained again"):  # of other data there are none
        shipped.train_once({k: v[1:] for k, v in data.train.items()}, Runtime())


def test_its_file_says_what_it_is_made_of_and_is_small(shipped: Classifier) -> None:
    (file,) = WEIGHTS.iterdir()
    assert file.stat().st_size <= 1 << 20
    with safe_open(file, "pt") as f:
        key = json.loads(f.metadata()[cache.KEY])
    own = key_of(shipped.recipe(None), {}, shipped.seed)
    assert key["recipe"] == json.loads(cache.canonical(own["recipe"])) and key["seed"] == shipped.seed
    assert re.fullmatch("[0-9a-f]{64}", key["data"])
    assert file.name == cache.name_of("classifier", key)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_features_are_of_the_means_of_cells(dims: int) -> None:
    """Without stages: what the head sees of [0, 1, .. n^dims - 1]. One cell forgets where things are."""
    x = torch.arange(4.0**dims).reshape(1, 1, *(4,) * dims)
    for grid, means in ((1, x.mean().reshape(1)), (2, cells(x[0, 0]))):
        net = ConvClassifier(channels=1, classes=2, stages=0, dims=dims, hidden=grid**dims, grid=grid)
        with torch.no_grad():
            net.inner.weight.copy_(torch.eye(grid**dims))
            net.inner.bias.zero_()
        torch.testing.assert_close(net.features(x)[0], torch.nn.functional.silu(means))
        flipped = torch.equal(net.features(x.flip(2)), net.features(x))
        assert flipped == (grid == 1)


def cells(x: torch.Tensor) -> torch.Tensor:
    """Means of the halves of each axis of [4, ..], in order."""
    for axis in range(x.ndim):
        x = x.unflatten(axis, (2, 2)).mean(axis + 1)
    return x.flatten()
