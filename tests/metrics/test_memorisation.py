"""Nearest training examples: exact distances, and a ratio that tells copies from new data."""

import math

import pytest
import torch

from unnoise.metrics import features, nearest_distances, nearest_ratio
from unnoise.metrics.memorisation import nearest, nearest_ratio_estimate

torch.set_num_threads(1)


def draw(n: int, seed: int, shape: tuple[int, ...] = (6,)) -> torch.Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


def test_agreement_with_brute_force_in_blocks(monkeypatch):
    query, reference = draw(23, 1), draw(31, 2)
    expected = (query[:, None].double() - reference[None].double()).norm(dim=-1).amin(1)
    monkeypatch.setattr(features, "BUDGET", 100)
    found = nearest_distances(query, reference)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_a_copy_is_at_distance_zero(shift):
    train = draw(200, 1, (3, 8, 8)) + shift
    samples = draw(5, 2, (3, 8, 8)) + shift
    samples[2] = train[77]
    assert (nearest_distances(samples, train) == 0).tolist() == [False, False, True, False, False]


def test_integer_images_are_compared_as_numbers():
    black, white = torch.zeros(1, 2, 2, dtype=torch.uint8), torch.full((1, 2, 2), 255, dtype=torch.uint8)
    assert nearest_distances(black, white).item() == 510


def test_ratio_of_new_data_is_one_and_of_copies_is_small():
    train, held_out, new = draw(2_000, 1), draw(500, 2), draw(700, 3)
    assert nearest_ratio(new, held_out, train) == pytest.approx(1, abs=0.05)
    assert nearest_ratio(train[:300], held_out, train) == 0
    assert nearest_ratio(train[:300] + 0.01 * draw(300, 4), held_out, train) < 0.05
    assert nearest_ratio(new * 3, held_out, train) > 2


def test_mistakes_are_named():
    train = draw(10, 1)
    with pytest.raises(ValueError, match="have no distance"):
        nearest_distances(train, draw(10, 1, (2, 3)))
    with pytest.raises(ValueError, match="copies of training data"):
        nearest_ratio(train, train, train)
    with pytest.raises(ValueError, match=r"\[N, D\]"):
        nearest_distances(train[:0], train)


def test_the_nearest_item_is_named():
    train = draw(50, 1)
    found, index = nearest(train[[7, 3, 49]] + 1e-3, train)
    assert index.tolist() == [7, 3, 49]
    assert torch.equal(found, nearest_distances(train[[7, 3, 49]] + 1e-3, train))


def test_the_stated_error_of_the_ratio_is_the_spread_over_repeats():
    train = draw(500, 0, (3,))
    found = []
    for i in range(80):
        sets = [nearest_distances(draw(n, 1 + 2 * i + k, (3,)), train) for k, n in enumerate((200, 150))]
        found.append(nearest_ratio_estimate(*sets, rounds=200))
    spread = torch.tensor([f.value for f in found]).std().item()
    assert math.sqrt(sum(f.error**2 for f in found) / len(found)) == pytest.approx(spread, rel=0.3)


def test_the_ratio_of_distances_is_that_of_items_whatever_their_order():
    train, held_out, new = draw(200, 1), draw(51, 2), draw(71, 3)
    own, held = nearest_distances(new, train), nearest_distances(held_out, train)
    found = nearest_ratio_estimate(own, held)
    assert found.value == pytest.approx(nearest_ratio(new, held_out, train), rel=1e-12)
    assert nearest_ratio_estimate(own.flip(0), held.flip(0)) == found
    copies = nearest_ratio_estimate(own * 0, held)
    assert copies.value == 0 and math.isnan(copies.error)
    with pytest.raises(ValueError, match="copies of training data"):
        nearest_ratio_estimate(own, held * 0)
