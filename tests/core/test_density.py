"""Densities: quantiles, log p, intervals; stratified positions."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from unnoise.core.density import LogitNormalTime, LogNormalSigma, UniformTime, stratified, uniforms
from unnoise.core.rng import Rng
from unnoise.core.schedule import Cosine, Linear, Rectified, Shifted, Sigmoid

D = torch.float64
DENSITIES: list[Any] = [
    UniformTime(high=0.999),
    UniformTime(Rectified(), 0.01, 0.98),
    UniformTime(Sigmoid(), 1e-3, 0.99),
    UniformTime(Shifted(Cosine(), -2.0), 1e-2, 0.99),
    LogitNormalTime(),
    LogitNormalTime(Cosine(0.0), 0.5, 0.7),
    LogNormalSigma(),
    LogNormalSigma(0.4, 2.0),
]


def quantiles(n: int) -> Tensor:
    """Fine in the middle and finer at both ends, where normal quantiles run away."""
    return torch.sigmoid(torch.linspace(-30, 30, n, dtype=D)).clamp(max=1 - 1e-13)


def phi(z: Tensor) -> Tensor:
    return 0.5 * torch.erfc(-z / math.sqrt(2))


@pytest.mark.parametrize("density", DENSITIES, ids=str)
def test_p_integrates_to_one_over_the_log_snr(density: Any) -> None:
    level, log_p = density(quantiles(40001))
    assert float(torch.trapezoid(log_p.exp(), -level.logsnr)) == pytest.approx(1, abs=2e-4)


@pytest.mark.parametrize("density", DENSITIES, ids=str)
def test_log_p_is_the_slope_of_the_quantile_function(density: Any) -> None:
    """p(log-SNR) = |du / d log-SNR|, by central differences; u = 0 is the cleanest."""
    u = torch.linspace(0.01, 0.99, 99, dtype=D)
    h = 1e-6
    slope = (density(u + h)[0].logsnr - density(u - h)[0].logsnr) / (2 * h)
    assert bool((slope < 0).all())
    torch.testing.assert_close(density(u)[1], -(-slope).log(), rtol=1e-6, atol=1e-6)


def test_log_p_of_a_table_between_its_knots() -> None:
    density = UniformTime(Linear())
    u = (torch.arange(3, 990, 7, dtype=D) + 0.3) / 999
    h = 1e-8
    slope = (density(u + h)[0].logsnr - density(u - h)[0].logsnr) / (2 * h)
    torch.testing.assert_close(density(u)[1], -(-slope).log(), rtol=1e-5, atol=1e-5)


def test_quantile_functions_are_inverse_distribution_functions() -> None:
    u = torch.linspace(0, 0.9999, 2001, dtype=D)
    tail = 0.5 * math.erfc(5 / math.sqrt(2))

    def cut(z: Tensor) -> Tensor:
        return (phi(z) - tail) / (1 - 2 * tail)

    sigma = LogNormalSigma(-1.2, 1.2)(u)[0].sigma
    torch.testing.assert_close(cut((sigma.log() + 1.2) / 1.2), u, rtol=1e-9, atol=1e-10)
    t = LogitNormalTime(Rectified(), 0.5, 0.7)(u)[0].sigma
    torch.testing.assert_close(cut(((t / (1 - t)).log() - 0.5) / 0.7), u, rtol=1e-9, atol=1e-10)
    t = UniformTime(Rectified(), 0.2, 0.7)(u)[0].sigma
    torch.testing.assert_close((t - 0.2) / 0.5, u, rtol=1e-12, atol=1e-13)


def test_moments_of_what_is_drawn() -> None:
    """Karras: ln sigma ~ N(-1.2, 1.2^2); Esser: logit t ~ N(0, 1)."""
    u = uniforms(Rng.of(range(40000)))
    log_sigma = LogNormalSigma()(u)[0].sigma.log()
    assert float(log_sigma.mean()) == pytest.approx(-1.2, abs=4 * 1.2 / 200)
    assert float(log_sigma.std()) == pytest.approx(1.2, rel=0.015)
    t = LogitNormalTime()(u)[0].sigma
    assert float(torch.logit(t).mean()) == pytest.approx(0, abs=4 / 200)
    assert float(torch.logit(t).std()) == pytest.approx(1, rel=0.015)


@pytest.mark.parametrize("density", [*DENSITIES, UniformTime(), UniformTime(Linear())], ids=str)
def test_draws_lie_in_the_interval_and_fill_it(density: Any) -> None:
    low, high = density.interval
    level, log_p = density(torch.tensor([0.0, 1e-9, 0.5, 1 - 2.0**-53], dtype=D))
    logsnr = level.logsnr
    assert bool((logsnr >= low - 1e-6).all()) and bool((logsnr <= high + 1e-6).all())
    assert float(logsnr[0]) == pytest.approx(high, abs=1e-6)
    if math.isfinite(low):
        assert float(logsnr[-1]) == pytest.approx(low, abs=1e-6)
    else:
        assert float(logsnr[-1]) < -60
    assert bool(torch.isfinite(log_p).all())
    assert not level.alpha.requires_grad and not log_p.requires_grad


def test_any_shape_of_quantiles() -> None:
    u = torch.linspace(0, 0.99, 6, dtype=D).reshape(2, 3, 1)
    for density in DENSITIES:
        level, log_p = density(u)
        assert level.alpha.shape == level.sigma.shape == log_p.shape == (2, 3, 1)


def discrepancy(points: Tensor) -> float:
    ordered = points.sort().values
    n = len(ordered)
    steps = torch.arange(n + 1, dtype=D) / n
    return float(torch.maximum((ordered - steps[:-1]).abs(), (steps[1:] - ordered).abs()).max())


@pytest.mark.parametrize("start", [0, 1, 999, 123456789, 2**40 + 17, 2**62])
@pytest.mark.parametrize("n", [2, 8, 33, 256, 5000])
def test_any_window_of_stratified_positions_is_even(start: int, n: int) -> None:
    """Star discrepancy below log(n) / n, where independent draws have about 1 / sqrt(n)."""
    u = stratified(torch.arange(start, start + n))
    assert u.dtype == D and float(u.min()) >= 0 and float(u.max()) < 1
    assert discrepancy(u) < 1.3 * (math.log(n) + 1) / n


def test_stratified_is_the_golden_ratio_of_the_position_alone() -> None:
    position = torch.arange(0, 100000, 37)
    want = (position.double() * ((math.sqrt(5) - 1) / 2)) % 1
    torch.testing.assert_close(stratified(position), want, rtol=0, atol=1e-10)
    shuffled = position[torch.randperm(len(position), generator=torch.Generator().manual_seed(0))]
    assert torch.equal(stratified(shuffled).sort().values, stratified(position).sort().values)
    assert float(stratified(torch.tensor([0]))) == 0.0


def test_uniforms_are_stratified_where_positions_are_given() -> None:
    rng, position = Rng.of(range(5)), torch.arange(7, 12)
    assert torch.equal(uniforms(rng, position), stratified(position))
    free = uniforms(rng)
    assert free.dtype == D and free.shape == (5,) and torch.equal(free[2:3], uniforms(rng[2:3]))


def test_a_density_does_not_depend_on_grad_mode() -> None:
    u = torch.tensor([0.3], dtype=D)
    with torch.no_grad():
        off = UniformTime()(u)[1]
    assert torch.equal(off, UniformTime()(u)[1])


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: UniformTime(low=0.0), "0.0"),
        (lambda: UniformTime(low=0.9, high=0.5), "0.9 and 0.5"),
        (lambda: UniformTime(high=1.5), "1.5"),
        (lambda: LogitNormalTime(std=0.0), "0.0"),
        (lambda: LogNormalSigma(std=-1.0), "-1.0"),
    ],
)
def test_invalid_arguments_raise_with_the_value(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()
