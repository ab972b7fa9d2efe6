"""Closed-form denoisers against brute-force integration of Bayes' rule in one dimension."""

from typing import Any

import pytest
import torch
from torch import Tensor

from unnoise.core.exact import Empirical, Mixture, Normal
from unnoise.core.level import Level
from unnoise.core.rng import Rng

D = torch.float64
POINTS = Rng.of(range(4)).normal(torch.zeros(4, 2, dtype=D))
LEVELS = [Level.of(0.8, 0.6), Level.of(0.1, 0.99), Level.of(1.0, 3.0), Level.of(0.999, 0.05), Level.of(0.0, 1.0)]


def brute(density: Any, x: Tensor, level: Level) -> tuple[Tensor, Tensor]:
    """E[x0 | x] and Var[x0 | x] by quadrature over x0, for x [B, 1]."""
    x0 = torch.linspace(-12, 12, 200001, dtype=D)
    log_p = density(x0) - (x - level.alpha * x0) ** 2 / (2 * level.sigma**2)
    share = log_p.softmax(-1)
    mean = share @ x0
    return mean[:, None], (share @ x0**2 - mean**2)[:, None]


def normal_log(x0: Tensor, mean: float, std: float) -> Tensor:
    return -((x0 - mean) ** 2) / (2 * std**2) - torch.tensor(std, dtype=D).log()


X = torch.tensor([[-2.0], [-0.3], [0.0], [0.9], [2.5]], dtype=D)


@pytest.mark.parametrize("level", LEVELS, ids=str)
def test_normal_is_bayes_rule(level: Level) -> None:
    est = Normal(0.7, 0.4)(X, level)
    mean, var = brute(lambda x0: normal_log(x0, 0.7, 0.4), X, level)
    assert est.var is not None
    torch.testing.assert_close(est.x0, mean, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(est.var, var, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("level", LEVELS, ids=str)
def test_mixture_is_bayes_rule(level: Level) -> None:
    means, stds, weights = [-1.5, 0.4, 2.0], [0.3, 0.8, 0.2], [1.0, 2.0, 3.0]
    data = Mixture(torch.tensor(means, dtype=D)[:, None], stds, torch.tensor(weights, dtype=D))
    est = data(X, level)

    def density(x0: Tensor) -> Tensor:
        parts = [
            normal_log(x0, m, s) + torch.tensor(w, dtype=D).log() for m, s, w in zip(means, stds, weights, strict=True)
        ]
        return torch.stack(parts).logsumexp(0)

    mean, var = brute(density, X, level)
    assert est.var is not None
    torch.testing.assert_close(est.x0, mean, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(est.var, var, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(data.responsibilities(X, level).sum(1), torch.ones(5, dtype=D))


@pytest.mark.parametrize("level", LEVELS, ids=str)
def test_empirical_is_bayes_rule_over_points(level: Level) -> None:
    points = torch.tensor([[-1.0], [0.5], [0.6], [3.0]], dtype=D)
    share = (-((X - level.alpha * points.T) ** 2) / (2 * level.sigma**2)).softmax(-1)
    est = Empirical(points)(X, level)
    assert est.var is not None
    torch.testing.assert_close(est.x0, share @ points, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(est.var, share @ points**2 - (share @ points) ** 2, rtol=1e-8, atol=1e-12)


def test_in_many_dimensions_the_components_share_their_responsibility() -> None:
    """A mixture of wide separation is the Normal of the nearest component; one component is Normal itself."""
    means = torch.tensor([[[-50.0, -50.0]] * 2, [[50.0, 50.0]] * 2], dtype=D)
    x, level = means + 0.3, Level.of(1.0, 0.5)
    est, alone = Mixture(means, [0.4, 0.7])(x, level), Normal(means, torch.tensor([0.4, 0.7])[:, None, None])(x, level)
    assert est.var is not None and alone.var is not None
    torch.testing.assert_close(est.x0, alone.x0, rtol=1e-6, atol=0)
    one = Mixture(means[:1], [0.4])(x, level)
    torch.testing.assert_close(one.x0, Normal(means[:1], 0.4)(x, level).x0, rtol=1e-12, atol=0)


def test_empirical_without_noise_is_the_nearest_point_to_the_bit() -> None:
    points = torch.tensor([[0.0, 0.0], [1.0, 1.0], [5.0, 0.0]])
    x = torch.tensor([[0.1, 0.2], [0.8, 0.7], [40.0, 0.0]])
    est = Empirical(points)(x, Level.of(1.0, 0.0))
    assert torch.equal(est.x0, points) and est.var is not None and not bool(est.var.any())
    noise = Empirical(points)(x, Level.of(0.0, 1.0))
    torch.testing.assert_close(noise.x0, points.mean(0).expand(3, 2))


@pytest.mark.parametrize(
    "data",
    [Normal(0.7, 0.4), Mixture(POINTS[:3], [0.1, 0.5, 1.0]), Empirical(POINTS)],
    ids=lambda d: type(d).__name__,
)
def test_frames_rows_and_dtypes(data: Any) -> None:
    x = Rng.of(range(3)).normal(torch.zeros(3, 2, dtype=D))
    level, k = Level.of(0.6, 0.8), 12.3
    est = data(x, level)
    scaled = data(k * x, Level(k * level.alpha, k * level.sigma))
    torch.testing.assert_close(scaled.x0, est.x0, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(scaled.var, est.var, rtol=1e-8, atol=1e-12)
    rows = Level(torch.tensor([0.6, 1.0, 0.2], dtype=D), torch.tensor([0.8, 2.0, 0.9], dtype=D))
    by_row = data(x, rows)
    for i in range(3):
        alone = data(x[i : i + 1], rows.at(i))
        torch.testing.assert_close(by_row.x0[i : i + 1], alone.x0, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(by_row.var[i : i + 1], alone.var, rtol=1e-9, atol=1e-12)
    for given in (level.to(dtype=torch.float32), level, rows):
        narrow = data(x.float(), given)
        assert narrow.x0.dtype == narrow.var.dtype == torch.float32
    assert est.x0.shape == est.var.shape == x.shape


def test_python_floats_are_not_rounded_to_float32() -> None:
    est = Normal(0.1, 0.4)(torch.zeros(1, 1, dtype=D), Level.of(0.0, 1.0))
    assert float(est.x0) == 0.1


def test_transport_solves_the_probability_flow_ode() -> None:
    """d x = d_alpha x0_hat + d_sigma eps_hat along any curve of levels, by central differences."""
    data = Normal(0.7, 0.4)

    def level(t: float) -> Level:
        angle = torch.tensor(t, dtype=D)
        return Level(angle.cos() * (1 + 0.3 * angle), angle.sin() * (1 + 0.3 * angle))

    h = 1e-5
    for t in (0.2, 0.8, 1.3):
        at = data.transport(X, level(1.5), level(t))
        after, before = (data.transport(X, level(1.5), level(t + d)) for d in (h, -h))
        up, down = level(t + h), level(t - h)
        x0 = data(at, level(t)).x0
        eps = (at - level(t).alpha * x0) / level(t).sigma
        want = (up.alpha - down.alpha) * x0 + (up.sigma - down.sigma) * eps
        torch.testing.assert_close((after - before) / (2 * h), want / (2 * h), rtol=1e-7, atol=1e-8)
    there = data.transport(X, level(1.5), level(0.3))
    torch.testing.assert_close(data.transport(there, level(0.3), level(1.5)), X, rtol=1e-12, atol=1e-12)


def test_transport_carries_the_marginal_to_the_marginal() -> None:
    data, src = Normal(0.7, 0.4), Level.of(0.3, 0.9)
    width = ((0.3 * 0.4) ** 2 + 0.9**2) ** 0.5
    z = torch.tensor([[-1.0], [0.0], [2.0]], dtype=D)
    got = data.transport(0.3 * 0.7 + width * z, src, Level.of(1.0, 0.0))
    torch.testing.assert_close(got, 0.7 + 0.4 * z, rtol=1e-13, atol=1e-14)
