"""Precision, recall, density and coverage: constructed sets, and agreement with the definitions row by row."""

import math

import pytest
import torch

from unnoise.metrics import coverage, density, features, manifold_estimate, precision, recall

torch.set_num_threads(1)
ALL = [precision, recall, density, coverage]


def modes(centres: list[float], each: int, seed: int = 0) -> torch.Tensor:
    """Narrow clusters on a line in 3 dimensions."""
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([torch.randn(each, 3, generator=generator) * 0.1 + c for c in centres])


def draw(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def brute_force(real: torch.Tensor, fake: torch.Tensor, k: int) -> dict[str, float]:
    def radius(x: torch.Tensor, i: int) -> float:
        return sorted((x[i] - x[j]).norm().item() for j in range(len(x)) if j != i)[k - 1]

    n = len(real)
    in_real = [[(fake[j] - real[i]).norm().item() <= radius(real, i) for i in range(n)] for j in range(n)]
    in_fake = [[(real[j] - fake[i]).norm().item() <= radius(fake, i) for i in range(n)] for j in range(n)]
    return {
        "precision": sum(any(row) for row in in_real) / n,
        "recall": sum(any(row) for row in in_fake) / n,
        "density": sum(sum(row) for row in in_real) / (k * n),
        "coverage": sum(any(in_real[j][i] for j in range(n)) for i in range(n)) / n,
    }


@pytest.mark.parametrize("k", [1, 3, 5])
def test_agreement_with_the_definitions(k):
    generator = torch.Generator().manual_seed(k)
    real = torch.randn(40, 4, generator=generator, dtype=torch.float64)
    fake = torch.randn(40, 4, generator=generator, dtype=torch.float64) * 0.8 + 0.3
    expected = brute_force(real, fake, k)
    assert {f.__name__: f(real, fake, k) for f in ALL} == pytest.approx(expected)


def test_memory_bound_changes_nothing(monkeypatch):
    real, fake = modes([0, 1, 2], 20, seed=1), modes([0.1, 1, 1.9], 20, seed=2)
    whole = [f(real, fake) for f in ALL]
    monkeypatch.setattr(features, "BUDGET", 7 * len(real))
    assert [f(real, fake) for f in ALL] == whole


def test_half_of_the_modes():
    real = modes([0, 100, 200, 300], 100, seed=1)
    fake = modes([0, 200], 200, seed=2)
    assert precision(real, fake) == pytest.approx(1, abs=0.05)
    assert recall(real, fake) == pytest.approx(0.5, abs=0.05)
    assert coverage(real, fake) == pytest.approx(0.5, abs=0.05)


def test_half_of_the_samples_off_the_manifold():
    real = modes([0], 200, seed=1)
    fake = modes([0, 100], 100, seed=2)
    assert precision(real, fake) == pytest.approx(0.5, abs=0.05)
    assert density(real, fake) == pytest.approx(0.5, abs=0.1)


def test_identical_sets():
    x = modes([0, 5], 50)
    assert precision(x, x) == recall(x, x) == coverage(x, x) == 1
    # k + 1 balls hold a row on average: those of k others, and its own
    assert density(x, x, k=5) == pytest.approx(6 / 5)


def test_equal_distributions_have_density_one():
    real, fake = (torch.randn(1_000, 2, generator=torch.Generator().manual_seed(s)) for s in (1, 2))
    assert density(real, fake) == pytest.approx(1, abs=0.05)
    assert coverage(real, fake) == pytest.approx(1 - 0.5**5, abs=0.02)


def test_far_apart():
    real, fake = modes([0], 50), modes([1_000], 50)
    assert [f(real, fake) for f in ALL] == [0, 0, 0, 0]


def test_duplicates_make_balls_of_radius_zero_that_still_hold_copies():
    x = modes([0], 3).repeat_interleave(10, 0)
    shuffled = x[torch.randperm(30, generator=torch.Generator().manual_seed(0))]
    assert precision(x, shuffled) == recall(x, shuffled) == coverage(x, shuffled) == 1
    assert precision(x, shuffled + 1e-6) == 0


def test_one_outlier_raises_precision_but_hardly_density():
    real = modes([0], 100)
    real[0] = 1_000
    fake = modes([500], 100)
    assert precision(real, fake) == 1
    assert density(real, fake) <= 1 / 5


@pytest.mark.parametrize("metric", ALL)
def test_mistakes_are_named(metric):
    x = modes([0], 20)
    with pytest.raises(ValueError, match="20 real and 19 fake"):
        metric(x, x[1:])
    with pytest.raises(ValueError, match="k must lie in"):
        metric(x, x, k=20)
    with pytest.raises(ValueError, match="have no distance"):
        metric(x, x[:, 1:])
    with pytest.raises(ValueError, match="row 3 is not"):
        metric(x, x.index_fill(0, torch.tensor([3]), float("inf")))


def test_all_four_at_once_are_each_alone():
    real, fake = draw(90, 1), draw(90, 2) * 0.7 + 0.3
    found = manifold_estimate(real, fake, 3)
    for name, alone in zip(found._fields, (precision, recall, density, coverage), strict=True):
        assert getattr(found, name).value == alone(real, fake, 3)
    assert all(math.isnan(f.error) for f in found)  # 90 rows are not four parts of 30


def test_the_stated_errors_are_the_spread_over_repeats():
    found = [manifold_estimate(draw(500, 2 * i), draw(500, 2 * i + 1) * 0.9 + 0.2, 3) for i in range(40)]
    for name in found[0]._fields:
        spread = torch.tensor([getattr(f, name).value for f in found]).std().item()
        stated = math.sqrt(sum(getattr(f, name).error ** 2 for f in found) / len(found))
        assert stated == pytest.approx(spread, rel=0.4), name
