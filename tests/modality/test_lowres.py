"""Small pictures as conditions, and the noise on them (pitfall 32)."""

import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from unnoise.core.condition import Conditioner, drop
from unnoise.core.rng import Rng
from unnoise.data import Mnist
from unnoise.errors import UserError
from unnoise.modality import Image, Labels, LowRes
from unnoise.spec import build, describe

SMALL = Image((1, 4, 4))
LOW = LowRes(SMALL, (8, 8), augment=(0.0, 1.0))
SEEDS = torch.arange(3)


def pictures(n: int, shape: tuple[int, ...] = (1, 4, 4), seed: int = 0) -> torch.Tensor:
    return (Rng.of(range(seed, seed + n)).uniform(torch.zeros(n, *shape)) * 256).floor().to(torch.uint8)


def told(raw: dict[str, torch.Tensor], conditioner: LowRes = LOW, first: int = 0) -> dict[str, torch.Tensor]:
    n = len(raw["low"])
    return conditioner.encode(raw, Rng.of(range(first, first + n)))


def test_it_is_a_conditioner_and_a_value() -> None:
    conditioner = LowRes(SMALL, (8, 8), Labels({"label": 10}))
    assert isinstance(conditioner, Conditioner) and build(describe(conditioner)) == conditioner
    assert conditioner.names == ("low", "augment", "label") and conditioner.needs == ("low",)


def test_without_noise_the_picture_is_the_resized_one() -> None:
    low = pictures(3)
    nearest = replace(LOW, resize="nearest")
    image = told({"low": low, "augment": torch.zeros(3)}, nearest)["image"]
    assert torch.equal(image, SMALL.encode(low).repeat_interleave(2, 2).repeat_interleave(2, 3))
    flat = torch.full((1, 1, 4, 4), 51, dtype=torch.uint8)
    image = told({"low": flat, "augment": torch.zeros(1)})["image"]
    torch.testing.assert_close(image, torch.full((1, 1, 8, 8), 51 / 127.5 - 1))
    ramp = (torch.arange(4, dtype=torch.uint8) * 60).expand(1, 1, 4, 4)
    image = told({"low": ramp, "augment": torch.zeros(1)})["image"][0, 0, 3]
    # Pixel centres: the middle of large pixel 2 k + 1 lies a quarter of a small pixel after that of small pixel k.
    torch.testing.assert_close((image[1:7] + 1) * 127.5, torch.arange(15.0, 180.0, 30.0))


@pytest.mark.parametrize("s", [0.2, 0.6, 0.9])
def test_the_noise_preserves_variance_and_is_of_the_stated_level(s: float) -> None:
    low = pictures(400)
    clean = told({"low": low, "augment": torch.zeros(400)})["image"]
    noisy = told({"low": low, "augment": torch.full((400,), s)})["image"]
    eps = (noisy - (1 - s**2) ** 0.5 * clean) / s
    assert abs(float(eps.mean())) < 5 * eps.numel() ** -0.5 and abs(float(eps.std()) - 1) < 0.02
    assert abs(float(torch.corrcoef(torch.stack([eps.flatten(), clean.flatten()]))[0, 1])) < 0.03


def test_pitfall_32_at_full_augmentation_nothing_is_left_of_the_picture() -> None:
    one, other, s = pictures(5), pictures(5, seed=100), torch.ones(5)
    a, b = (told({"low": low, "augment": s})["image"] for low in (one, other))
    assert torch.equal(a, b)
    away = [
        float((told({"low": one, "augment": s * v})["image"] - told({"low": other, "augment": s * v})["image"]).norm())
        for v in (0.0, 0.3, 0.6, 0.9)
    ]
    whole = away[0]
    torch.testing.assert_close(away, [whole * (1 - v**2) ** 0.5 for v in (0.0, 0.3, 0.6, 0.9)], rtol=1e-5, atol=0)


def test_in_training_the_level_is_uniform_over_its_range_and_told() -> None:
    n = 4000
    conditioner = replace(LOW, augment=(0.2, 0.6), default=0.3)
    out = told({"low": pictures(1).expand(n, -1, -1, -1)}, conditioner)
    s = out["vector"][:, 4].asin().sin()  # the first sine is that of asin s itself
    assert 0.2 <= float(s.min()) < 0.21 and 0.59 < float(s.max()) <= 0.6
    assert abs(float(s.mean()) - 0.4) < 5 * 0.4 / (12 * n) ** 0.5
    again = told({"low": pictures(1).expand(n, -1, -1, -1), "augment": s}, conditioner)
    torch.testing.assert_close(again["image"], out["image"], rtol=1e-4, atol=1e-4)  # what is told is what is done
    angle = s.asin()
    expected = torch.cat([torch.stack([f(angle * 2**k) for k in range(4)], 1) for f in (torch.cos, torch.sin)], 1)
    torch.testing.assert_close(out["vector"], expected, rtol=0, atol=1e-5)


def test_a_row_does_not_depend_on_its_batch() -> None:
    low = pictures(6)
    whole = told({"low": low})
    part = told({"low": low[2:5]}, first=2)
    assert all(torch.equal(whole[k][2:5], part[k]) for k in whole)


def test_asking() -> None:
    low = pictures(2)
    asked = LOW.ask({"low": low}, SEEDS)
    assert torch.equal(asked["low"], low[[0, 1, 0]])
    assert torch.equal(asked["augment"], torch.full((3,), LOW.default))
    assert torch.equal(LOW.ask(asked, SEEDS)["low"], asked["low"])  # asking for what was answered changes nothing
    one = LOW.ask({"low": low[0].numpy(), "augment": [0.0, 0.5]}, SEEDS)
    assert torch.equal(one["low"], low[[0, 0, 0]]) and one["augment"].tolist() == [0.0, 0.5, 0.0]


def test_labels_come_along_and_are_what_null_takes_away() -> None:
    conditioner = LowRes(SMALL, (8, 8), Labels({"label": 10}))
    low = pictures(3)
    assert conditioner.ask({"low": low}, torch.arange(8, 11))["label"].tolist() == [8, 9, 0]
    asked = conditioner.ask({"low": low, "label": 7}, SEEDS)
    cond = conditioner.encode(asked, Rng.of(SEEDS))
    assert cond["label"].tolist() == [7, 7, 7]
    null = conditioner.null(cond)
    assert null["label"].tolist() == [10, 10, 10]
    assert torch.equal(null["image"], cond["image"]) and torch.equal(null["vector"], cond["vector"])
    dropped = drop(cond, null, Rng.of(SEEDS), 0.999)
    assert torch.equal(dropped["image"], cond["image"]) and dropped["label"].tolist() == [10, 10, 10]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {},
            r"nothing to enlarge: give low=, uint8 pictures \[N, 1, 4, 4\] .*--cond low=FILE.npz",
        ),
        ({"low": pictures(2, (1, 8, 8))}, r"condition 'low': the data are torch.uint8 pictures of shape \(1, 8, 8\)"),
        ({"low": pictures(2).float()}, "condition 'low': the data are torch.float32"),
        ({"low": 3}, r"condition 'low' is pictures \[N, 1, 4, 4\], got 3"),
        ({"low": np.zeros((0, 1, 4, 4), np.uint8)}, "condition 'low' is pictures"),
        ({"low": pictures(2), "augment": 0.8}, "augment=0.8 is out of range: trained from 0 to 0.7"),
        ({"low": pictures(2), "augment": float("nan")}, "augment=nan is out of range"),
        ({"low": pictures(2), "augmnet": 0.1}, "unknown condition 'augmnet': did you mean augment?"),
        ({"low": pictures(2), "label": 1}, "unknown condition 'label'.*augment, low"),
    ],
    ids=lambda v: str(v)[:30],
)
def test_what_cannot_be_asked_is_refused(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LowRes(SMALL, (8, 8)).ask(asked, SEEDS)


def test_data_without_small_pictures_are_refused() -> None:
    with pytest.raises(UserError, match=r"no column 'low' of small pictures, only \['x'\]"):
        LOW.encode({"x": pictures(2)}, Rng.of([0, 1]))
    with pytest.raises(UserError, match=r"condition 'low': the data range from 3 to 3 only|the data are"):
        LOW.check({"low": pictures(2, (3, 4, 4))})


@pytest.mark.parametrize("wrong", [{"augment": (-0.1, 0.5)}, {"augment": (0.5, 0.2)}, {"default": 0.9}], ids=str)
def test_ranges_that_do_not_exist_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"augment is a range|outside of the range"):
        LowRes(SMALL, (8, 8), **wrong)


def test_of_real_digits_the_upsampling_is_close_to_the_large_picture() -> None:
    if not os.environ.get("UNNOISE_DATA"):
        pytest.skip("UNNOISE_DATA does not say where MNIST is")
    held_out = Mnist(size=32, low=True, limit=1).load().held_out
    low, high = held_out["low"][:200], held_out["x"][:200]
    conditioner = LowRes(Image((1, 16, 16)), (32, 32))
    conditioner.check({"low": low})
    image = conditioner.encode({"low": low, "augment": torch.zeros(200)}, Rng.of(range(200)))["image"]
    true = Image((1, 32, 32)).encode(high)
    error = (image - true).square().mean()
    for axis in (2, 3):
        for way in (-1, 1):  # neither shifted nor turned: a pixel to any side is worse
            assert error < 0.6 * (image.roll(way, axis) - true).square().mean()
