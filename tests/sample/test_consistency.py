"""Jumps of an exact flow map: whatever the number of steps, samples have the distribution of the data."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from unnoise.core.estimate import Estimate
from unnoise.core.exact import Mixture, Normal
from unnoise.core.flowmap import aim
from unnoise.core.level import CLEAN, Level
from unnoise.core.process import Gaussian
from unnoise.core.product import Product
from unnoise.core.rng import Rng
from unnoise.core.schedule import Cosine, Karras
from unnoise.sample import Consistency, Euler
from unnoise.sample.driver import sample

D = torch.float64
MEAN, STD = 0.7, 0.4
DATA = Normal(MEAN, STD)


def exact_map(x: Tensor, level: Level, cond: Any = None, *, to: Any = None) -> Estimate:
    """The two-time denoiser of normal data: its straight line lands where the probability-flow ODE does."""
    return Estimate(aim(x, level, DATA.transport(x, level, to), to))


def angles(n: int, low: float = 0.0) -> Level:
    return Cosine(0.0)(torch.linspace(1, low, n + 1, dtype=D))


def run(sampler: Any, denoise: Any, n: int, grid: Level, open_end: bool = False) -> Tensor:
    rng = Rng.of(range(n))
    x = rng.fold(10**6).normal(torch.zeros(n, 1, dtype=D))
    *_, last = sample(sampler, Gaussian(), denoise, grid.at(0).sigma * x, grid, rng, open_end=open_end)
    return last.x


@pytest.mark.parametrize("gamma", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_an_exact_map_needs_no_steps(gamma: float, steps: int) -> None:
    n = 20000
    x = run(Consistency(gamma), exact_map, n, angles(steps))
    assert float(x.mean()) == pytest.approx(MEAN, abs=4 * STD / math.sqrt(n))
    assert float(x.std()) == pytest.approx(STD, rel=4 / math.sqrt(2 * n))


@pytest.mark.parametrize("gamma", [0.0, 0.6, 1.0])
def test_and_is_right_on_the_way(gamma: float) -> None:
    """The state at an open end is data with that level's noise, in another frame too."""
    n, grid = 20000, Karras(0.3, 20.0)(torch.linspace(1, 0, 4, dtype=D))
    rng = Rng.of(range(n))
    x = Gaussian().forward(torch.full((n, 1), MEAN, dtype=D), CLEAN, grid.at(0), rng)
    x = x + STD * rng.fold(1).normal(x)
    *_, last = sample(Consistency(gamma), Gaussian(), exact_map, x, grid, rng.fold(2), open_end=True)
    assert float(last.x.mean()) == pytest.approx(MEAN, abs=4 * 0.5 / math.sqrt(n))
    assert float(last.x.std()) == pytest.approx(0.5, rel=4 / math.sqrt(2 * n))  # 0.4^2 + 0.3^2 = 0.5^2


def test_gamma_0_is_euler_and_lands_where_the_ode_lands() -> None:
    mixture = Mixture(torch.tensor([[-1.0], [0.8]], dtype=D), [0.3, 0.5])
    for grid in (angles(7), angles(3)):
        torch.testing.assert_close(
            run(Consistency(0.0), mixture, 6, grid), run(Euler(), mixture, 6, grid), rtol=1e-11, atol=1e-12
        )
    x = run(Consistency(0.0), exact_map, 6, angles(3))
    torch.testing.assert_close(x, run(Consistency(0.0), exact_map, 6, angles(1)), rtol=1e-10, atol=1e-12)


def test_a_step_is_algorithm_1() -> None:
    """To clean data, and forward again with the noise of the step's number; where it goes is told so."""
    rng, grid, goals = Rng.of(range(5)), Karras(0.5, 10.0)(torch.linspace(1, 0, 3, dtype=D)), []

    def told(x: Tensor, level: Level, cond: Any = None, *, to: Any = None) -> Estimate:
        goals.append((float(to.alpha), float(to.sigma)))
        return exact_map(x, level, to=to)

    x = y = rng.fold(10**6).normal(torch.zeros(5, 3, dtype=D)) * 10
    for i in range(2):
        clean = DATA.transport(y, grid.at(i), CLEAN)
        y = clean + grid.sigma[i + 1] * rng.fold(i).normal(y)
    *_, last = sample(Consistency(), Gaussian(), told, x, grid, rng, open_end=True)
    torch.testing.assert_close(last.x, y, rtol=1e-10, atol=1e-12)
    assert goals == [(1.0, 0.0), (1.0, 0.0)]


def test_a_plain_denoiser_is_no_flow_map() -> None:
    """What the docstring warns of: with posterior means for jumps, samples lose their variance."""
    assert float(run(Consistency(), DATA, 4000, angles(2)).std()) < 0.5 * STD
    assert float(run(Consistency(), exact_map, 4000, angles(2)).std()) > 0.95 * STD


def test_a_state_of_parts() -> None:
    """Each part jumps and is noised as it would be alone, with the randomness of its part."""
    process, grid, rng = Product({"a": Gaussian(), "b": Gaussian()}), angles(3), Rng.of(range(4))
    x = {"a": rng.fold(7).normal(torch.zeros(4, 2, dtype=D)), "b": rng.fold(8).normal(torch.zeros(4, 3, dtype=D))}

    def denoise(x: Any, level: Any, cond: Any = None, *, to: Any = None) -> Any:
        return {k: exact_map(v, level[k], to=to[k]) for k, v in x.items()}

    ends = {}
    for gamma in (0.0, 1.0):
        *_, last = sample(Consistency(gamma), process, denoise, x, {"a": grid, "b": grid}, rng)
        ends[gamma] = last.x
    for k, part in x.items():
        torch.testing.assert_close(ends[0.0][k], DATA.transport(part, grid.at(0), CLEAN), rtol=1e-9, atol=1e-11)
        assert not torch.allclose(ends[1.0][k], ends[0.0][k], atol=1e-2)
        assert float((ends[1.0][k] - MEAN).abs().max()) < 5 * STD


def test_stochastic_says_whether_noise_is_drawn() -> None:
    assert not Consistency(0.0).stochastic
    assert Consistency(0.1).stochastic and Consistency().stochastic


@pytest.mark.parametrize("gamma", [-0.1, 1.1, math.nan])
def test_invalid_arguments_raise_with_the_value(gamma: float) -> None:
    with pytest.raises(ValueError, match=str(gamma)):
        Consistency(gamma)
