"""Moments and the Frechet distance: closed forms of Normals, invariances, independence of batching."""

import math

import pytest
import torch

from unnoise.metrics import Moments, frechet_distance, half_distance, halves_distance
from unnoise.metrics.frechet import frechet_estimate, frechet_infinite, grouped, too_few

torch.set_num_threads(1)


def normal(mean, covariance, count: int = 1_000) -> Moments:
    """Moments that are exactly those of a Normal."""
    return Moments(count, torch.tensor(mean).double(), torch.tensor(covariance).double() * (count - 1))


def features(n: int, d: int, seed: int = 0, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=generator, dtype=torch.float64)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) @ mixing + shift


def close(a: Moments, b: Moments, rtol: float) -> None:
    assert a.count == b.count
    torch.testing.assert_close(a.mean, b.mean, rtol=rtol, atol=rtol)
    torch.testing.assert_close(a.scatter, b.scatter, rtol=rtol, atol=rtol * b.scatter.abs().max().item())


@pytest.mark.parametrize("shift", [0.0, 1e6])
@pytest.mark.parametrize("sizes", [[1] * 300, [7] * 42 + [6], [299, 1], [300]])
def test_moments_do_not_depend_on_batching(sizes, shift):
    x = features(300, 6, shift=shift)
    streamed = Moments.empty(6)
    for block in x.split(sizes):
        streamed = streamed.update(block)
    centred = x - x.mean(0)
    # what the features themselves have lost by lying far from zero is not the stream's fault
    close(streamed, Moments(300, x.mean(0), centred.T @ centred), rtol=1e-12 if not shift else 1e-9)
    torch.testing.assert_close(streamed.covariance, torch.cov(x.T), rtol=1e-9, atol=1e-9)


def test_moments_merge_over_processes():
    x = features(101, 4)
    ranks = [Moments.empty(4).update(x[rank::3]) for rank in range(3)]
    close(ranks[0].merge(ranks[1]).merge(ranks[2]), Moments.of(x), rtol=1e-12)
    close(ranks[0].merge(ranks[1].merge(ranks[2])), Moments.of(x), rtol=1e-12)
    close(Moments.of(x).merge(Moments.empty(4)), Moments.of(x), rtol=0)


def test_moments_are_float64_also_of_float32():
    x = features(50, 3).float()
    assert torch.equal(Moments.of(x).mean, x.double().mean(0))


def test_features_that_are_not_finite_are_named_by_row():
    x = features(20, 3)
    x[13, 1] = math.nan
    with pytest.raises(ValueError, match="row 13 is not"):
        Moments.of(x)
    with pytest.raises(ValueError, match="row 113 is not"):
        Moments.of(features(100, 3)).update(x)


def test_impossible_moments_are_refused():
    with pytest.raises(ValueError, match=r"\[N, D\]"):
        Moments.of(torch.zeros(5))
    with pytest.raises(ValueError, match="at least 2 rows"):
        _ = Moments.of(torch.zeros(1, 3)).covariance
    with pytest.raises(ValueError, match="cannot be merged"):
        Moments.empty(3).merge(Moments.empty(4))
    with pytest.raises(ValueError, match="have no distance"):
        frechet_distance(Moments.of(features(9, 3)), Moments.of(features(9, 4)))


def test_commuting_covariances():
    a = normal([0.0, 1.0], [[4.0, 0.0], [0.0, 9.0]])
    b = normal([1.0, 3.0], [[1.0, 0.0], [0.0, 16.0]])
    # |mu|^2 and the squared differences of the standard deviations
    assert frechet_distance(a, b) == pytest.approx(1 + 4 + (2 - 1) ** 2 + (3 - 4) ** 2, abs=1e-12)


def test_covariances_that_do_not_commute():
    ca, cb = [[2.0, 1.0], [1.0, 2.0]], [[3.0, 0.0], [0.0, 1.0]]
    # for 2 x 2, tr sqrt(M) = sqrt(tr M + 2 sqrt(det M)); tr(Ca Cb) = 8, det(Ca Cb) = 9
    expected = 4 + 4 - 2 * math.sqrt(8 + 2 * 3)
    assert frechet_distance(normal([0.0, 0.0], ca), normal([0.0, 0.0], cb)) == pytest.approx(expected, abs=1e-12)


def test_distance_of_a_set_to_itself_is_zero_and_translation_adds_its_square():
    a = Moments.of(features(500, 8))
    moved = Moments.of(features(500, 8) + 3.0)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, moved) == pytest.approx(8 * 9, rel=1e-9)


def test_distance_is_symmetric_and_blind_to_a_rotation_of_both():
    x, y = features(300, 5, seed=1), features(400, 5, seed=2, shift=0.5)
    rotation = torch.linalg.qr(features(5, 5, seed=3)).Q
    d = frechet_distance(Moments.of(x), Moments.of(y))
    assert frechet_distance(Moments.of(y), Moments.of(x)) == pytest.approx(d, rel=1e-9)
    assert frechet_distance(Moments.of(x @ rotation), Moments.of(y @ rotation)) == pytest.approx(d, rel=1e-9)


def test_fewer_rows_than_features():
    x, y = features(20, 64, seed=1), features(20, 64, seed=2)
    assert frechet_distance(Moments.of(x), Moments.of(x)) == pytest.approx(0, abs=1e-4)
    assert frechet_distance(Moments.of(x), Moments.of(y)) > 1


def test_halves_of_a_normal_have_the_distance_of_sampling_error():
    # of n rows of N(0, I_d) each, to first order: 2 d / n from the means, |C_a - C_b|^2 / 4 from the covariances
    n, d = 2_000, 3
    x = torch.randn(2 * n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean, error = halves_distance(x, splits=100, seed=1)
    expected = 2 * d / n + d * (d + 1) / (2 * n)
    assert 0 < error < expected / 5
    assert abs(mean - expected) < 4 * error


def test_half_distance_of_more_real_data_is_that_of_the_halves_and_of_other_data_is_larger():
    generator = torch.Generator().manual_seed(0)
    real, samples = (torch.randn(n, 3, generator=generator) for n in (2_000, 1_000))
    halves = halves_distance(real, splits=20, seed=5)
    assert half_distance(samples, real, splits=20, seed=5) < 3 * halves.mean
    assert half_distance(samples * 1.5, real, splits=20, seed=5) > 20 * halves.mean


def test_splits_are_reproducible_and_shared():
    x = features(61, 4)
    assert halves_distance(x, 5, seed=3) == halves_distance(x, 5, seed=3)
    assert halves_distance(x, 5, seed=3) != halves_distance(x, 5, seed=4)
    # the whole of the real data stands in for the second halves: the same first halves give smaller distances
    assert 0 < half_distance(x, x, 5, seed=3) < halves_distance(x, 5, seed=3).mean
    with pytest.raises(ValueError, match="at least 4 rows"):
        halves_distance(x[:3])
    with pytest.raises(ValueError, match="at least 2 splits"):
        halves_distance(x, splits=1)


def test_the_stated_error_is_the_spread_over_repeats():
    def pair(seed):
        generator = torch.Generator().manual_seed(seed)
        a, b = (torch.randn(600, 3, generator=generator, dtype=torch.float64) for _ in range(2))
        return grouped(a), grouped(b * 1.2 + 0.3)

    found = [frechet_estimate(*pair(i)) for i in range(100)]
    spread = torch.tensor([f.value for f in found]).std().item()
    assert math.sqrt(sum(f.error**2 for f in found) / len(found)) == pytest.approx(spread, rel=0.3)
    # |mu|^2 and the squared differences of the standard deviations
    expected = 3 * 0.3**2 + 3 * 0.2**2
    infinite = torch.tensor([frechet_infinite(*pair(i)) for i in range(100)])
    assert abs(infinite.mean().item() - expected) < 3 * infinite.std().item() / 10
    assert infinite.std().item() == pytest.approx(spread, rel=0.3)


def test_extrapolation_takes_the_bias_of_equal_distributions_away():
    biased, both, one = [], [], []
    known = [normal([0.0] * 4, torch.eye(4).tolist(), 10**9)]
    for i in range(30):
        generator = torch.Generator().manual_seed(i)
        a, b = (grouped(torch.randn(400, 4, generator=generator, dtype=torch.float64)) for _ in range(2))
        biased.append(frechet_estimate(a, b).value)
        both.append(frechet_infinite(a, b))
        one.append(frechet_infinite(a, known))
    for values in (both, one):
        x = torch.tensor(values)
        assert abs(x.mean().item()) < 3 * x.std().item() / math.sqrt(30)
    assert sum(biased) > 5 * abs(sum(both))


def test_groups_are_the_set_and_a_single_group_is_known():
    x, y = features(101, 4, seed=1), features(90, 4, seed=2)
    close(_joined(grouped(x, 7)), Moments.of(x), rtol=1e-12)
    found = frechet_estimate(grouped(x), grouped(y))
    assert found.value == pytest.approx(frechet_distance(Moments.of(x), Moments.of(y)), rel=1e-9)
    one = frechet_estimate(grouped(x), [Moments.of(y)])
    other = frechet_estimate([Moments.of(x)], grouped(y))
    assert math.hypot(one.error, other.error) == pytest.approx(found.error, rel=1e-9)
    assert frechet_estimate([Moments.of(x)], [Moments.of(y)]).error == 0
    # a class in every twelfth row
    labels = (torch.arange(1_200) % 12)[:, None].double()
    assert all(g.covariance.item() > 5 for g in grouped(labels))


def _joined(groups):
    whole = Moments.empty(len(groups[0].mean))
    for g in groups:
        whole = whole.merge(g)
    return whole


def test_too_few_rows_are_named_with_the_bias():
    """Pitfall 33: a distance that depends on the count says so."""
    assert too_few(2_049, 2_048) is None
    assert "2048 rows for 2048 features" in str(too_few(2_048, 2_048))
    with pytest.raises(ValueError, match="3 rows a group"):
        grouped(features(35, 2))
    with pytest.raises(ValueError, match="12 and 7 groups"):
        frechet_infinite(grouped(features(99, 2)), grouped(features(99, 2), 7))
    with pytest.raises(ValueError, match="at least one group"):
        frechet_estimate([], [])
