"""The judge: a classifier trained by our own trainer."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from unnoise.core.rng import Rng
from unnoise.data import Digits
from unnoise.judges import Classifier
from unnoise.judges.classifier import Classification, shifted
from unnoise.modality import Image
from unnoise.recipe import Judge
from unnoise.spec import build, describe

CODEC = Image((1, 8, 8), 0, 16)


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
