"""Ancestral sampling: DDPM's moments, DDIM at eta 0, exact few-step sampling from an exact variance."""

import math
from typing import Any

import pytest
import torch

from unnoise.core.exact import Normal
from unnoise.core.level import Level
from unnoise.core.process import Gaussian
from unnoise.core.rng import Rng
from unnoise.core.schedule import Cosine, Linear
from unnoise.sample.ancestral import Ancestral
from unnoise.sample.driver import sample
from unnoise.sample.ode import Euler

D = torch.float64
MEAN, STD = 0.7, 0.4
DATA = Normal(MEAN, STD)


def run(sampler: Any, n: int, grid: Level, open_end: bool = False) -> torch.Tensor:
    rng = Rng.of(range(n))
    x = rng.fold(10**6).normal(torch.zeros(n, 1, dtype=D))
    *_, last = sample(sampler, Gaussian(), DATA, x, grid, rng, open_end=open_end)
    return last.x


def angles(n: int, low: float = 0.0) -> Level:
    return Cosine(0.0)(torch.linspace(1, low, n + 1, dtype=D))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_moments_on_normal_data(eta: float) -> None:
    n = 20000
    x = run(Ancestral(eta), n, angles(150))
    assert float(x.mean()) == pytest.approx(MEAN, abs=4 * STD / math.sqrt(n))
    assert float(x.std()) == pytest.approx(STD, rel=0.03)


def test_learned_variance_makes_three_steps_exact_and_small_does_not() -> None:
    n, grid = 40000, angles(3, 1e-3)
    x = run(Ancestral(variance="learned"), n, grid, True)
    assert float(x.std()) == pytest.approx(STD, rel=4 / math.sqrt(2 * n))
    assert float(x.mean()) == pytest.approx(MEAN, abs=4 * STD / math.sqrt(n))
    assert float(run(Ancestral(), n, grid, True).std()) < 0.6 * STD


def test_large_variance_is_exact_for_standard_normal_data_and_too_much_for_narrow() -> None:
    n, grid = 40000, angles(3, 1e-3)
    rng = Rng.of(range(n))
    x = rng.fold(10**6).normal(torch.zeros(n, 1, dtype=D))
    *_, last = sample(Ancestral(variance="large"), Gaussian(), Normal(), x, grid, rng, open_end=True)
    assert float(last.x.std()) == pytest.approx(1, rel=4 / math.sqrt(2 * n))
    assert float(run(Ancestral(variance="large"), n, grid, True).std()) > 1.1 * STD


def test_a_step_is_ddpm_algorithm_2() -> None:
    """x' = (x - beta / sqrt(1 - alphabar) eps) / sqrt(1 - beta) + sqrt(beta-tilde) z, noise of the step's number."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=D)
    bar = torch.cat([torch.ones(1, dtype=D), (1 - betas).cumprod(0)])
    rng = Rng.of(range(5))
    x = y = rng.normal(torch.zeros(5, 3, dtype=D))
    k = torch.arange(1000, 989, -1)
    grid = Linear()(k.double() / 1000)
    for i, t in enumerate(k[:-1]):
        eps = (y - bar[t].sqrt() * DATA(y, grid.at(i)).x0) / (1 - bar[t]).sqrt()
        beta = betas[t - 1]
        y = (y - beta / (1 - bar[t]).sqrt() * eps) / (1 - beta).sqrt()
        y = y + (beta * (1 - bar[t - 1]) / (1 - bar[t])).sqrt() * rng.fold(i).normal(y)
    *_, last = sample(Ancestral(), Gaussian(), DATA, x, grid, rng, open_end=True)
    torch.testing.assert_close(last.x, y, rtol=1e-7, atol=1e-8)


def test_eta_0_is_the_euler_solver() -> None:
    """Pitfall 9."""
    for grid in (angles(7), Linear()(torch.linspace(1, 0, 8, dtype=D))):
        torch.testing.assert_close(run(Ancestral(0.0), 6, grid), run(Euler(), 6, grid), rtol=1e-11, atol=1e-12)


def test_stochastic_says_whether_noise_is_drawn() -> None:
    assert not Ancestral(0.0).stochastic
    assert Ancestral().stochastic and Ancestral(0.0, "large").stochastic and Ancestral(0.0, "learned").stochastic


@pytest.mark.parametrize("eta", [-0.1, 1.1, math.nan])
def test_invalid_arguments_raise_with_the_value(eta: float) -> None:
    with pytest.raises(ValueError, match=str(eta)):
        Ancestral(eta)


def test_unknown_variance_is_refused(unchecked: None) -> None:
    bad: Any = "medium"
    with pytest.raises(ValueError, match="medium"):
        Ancestral(variance=bad)
