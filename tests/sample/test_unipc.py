"""UniPC against its paper's algorithms, and elements that set out at different steps."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from unnoise.core.exact import Mixture, Normal
from unnoise.core.level import Level
from unnoise.core.process import Gaussian
from unnoise.core.rng import Rng
from unnoise.core.schedule import Cosine
from unnoise.sample import RK4, UniPC
from unnoise.sample.driver import sample
from unnoise.sample.grids import KarrasGrid, RollingGrid

D = torch.float64
DATA = Mixture(torch.tensor([[-1.0, 0.3], [0.8, -0.5], [0.1, 1.2]], dtype=D), [0.3, 0.5, 0.4])
X = Rng.of(range(8)).normal(torch.zeros(8, 2, dtype=D))
EVERYWHERE = (-math.inf, math.inf)


def end(sampler: Any, grid: Level, x: Tensor = X, denoise: Any = DATA) -> Tensor:
    *_, last = sample(sampler, Gaussian(), denoise, x, grid, Rng.of(range(len(x))), open_end=True)
    return last.x


def fitted(nodes: list[float], begin: float, end: float) -> Tensor:
    """The paper's linear system, R a B = phi, with phi in closed form, scaled so that weights sum to 1."""
    h, moments = end - begin, [-math.expm1(begin - end)]
    for i in range(1, len(nodes)):
        moments.append(h**i - i * moments[-1])
    powers = torch.tensor([[(n - begin) ** i for n in nodes] for i in range(len(nodes))], dtype=D)
    return torch.linalg.solve(powers, torch.tensor(moments, dtype=D)) / moments[0]


def algorithms_1_and_2(x: Tensor, grid: Level, p: int) -> Tensor:
    """Predict by p estimates; evaluate; take the step again by p + 1; the last step, to sigma = 0, of first order."""
    at = [float(v) for v in grid.logsnr / 2]
    known, before = [DATA(x, grid.at(0)).x0], x
    for k in range(len(at) - 1):
        if k:
            new = DATA(x, grid.at(k)).x0
            nodes = [at[k], *at[k - 1 :: -1][:p]]
            x = moved(before, grid, k - 1, fitted(nodes, at[k - 1], at[k]), [new, *known[::-1][:p]])
            known.append(new)
        nodes = at[k::-1][:p] if math.isfinite(at[k + 1]) else at[k : k + 1]
        weights = fitted(nodes, at[k], at[k + 1]) if len(nodes) > 1 else torch.ones(1, dtype=D)
        before, x = x, moved(x, grid, k, weights, known[::-1])
    return x


def moved(x: Tensor, grid: Level, k: int, weights: Tensor, estimates: list[Tensor]) -> Tensor:
    """Step k of the grid, the mean of the estimates in the place of x0."""
    r = grid.sigma[k + 1] / grid.sigma[k]
    mean = sum(w * x0 for w, x0 in zip(weights, estimates, strict=False))
    return r * x + (grid.alpha[k + 1] - r * grid.alpha[k]) * mean


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("last", [0.0, 0.2])
@pytest.mark.parametrize("steps", [1, 2, 3, 9])  # fewer than the estimates that it remembers, too
def test_it_is_the_papers(p: int, last: float, steps: int) -> None:
    grid = Cosine()(torch.linspace(0.9, last, steps + 1, dtype=D))
    torch.testing.assert_close(end(UniPC(p), grid), algorithms_1_and_2(X, grid, p), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("p", [1, 3])  # 2, the default, is among all samplers in test_driver.py
def test_regressed_order(p: int) -> None:
    grids = [Cosine(0.0)(torch.linspace(0.95, 0.1, n + 1, dtype=D)) for n in (48, 96, 300)]
    exact = end(RK4(), grids[2])
    errors = [float((end(UniPC(p), g) - exact).square().mean().sqrt()) for g in grids[:2]]
    assert p + 1 - 0.15 <= math.log2(errors[0] / errors[1]) <= p + 1 + 0.4, errors


def test_estimates_that_lie_on_a_polynomial_are_integrated_exactly() -> None:
    """p estimates carry a polynomial of degree p - 1 in log(alpha / sigma): however long the steps, without error."""

    class Line(Normal):
        def __call__(self, x: Tensor, level: Level, *more: Any, **rest: Any) -> Any:
            return super().__call__(x, level)._replace(x0=(2 + level.logsnr / 2).expand_as(x))

    level = Level(torch.ones(5, dtype=D), torch.tensor([9.0, 3.0, 1.0, 0.2, 0.1], dtype=D))
    last = end(UniPC(2), level, denoise=Line(0.0, 1.0))
    # With alpha = 1 and x0 = 2 - log(sigma), dx / dsigma = (x - x0) / sigma has the solutions c sigma + x0 - 1.
    found = 1 - level.sigma.log()
    want = found[4] + (X - found[0]) / level.sigma[0] * level.sigma[4]
    torch.testing.assert_close(last, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_an_element_that_sets_out_later_takes_the_same_steps(p: int) -> None:
    """What it was estimated to be while it stood still is not taken for a step."""
    inner = KarrasGrid(0.01, 10)
    rolling = RollingGrid(count=3, grid=inner, lag=2, axis=1, ndim=2)(7, EVERYWHERE)
    x = Rng.of(range(4)).normal(torch.zeros(4, 3, dtype=D))
    alone = end(UniPC(p), inner(7, EVERYWHERE), x, Normal(0.7, 0.4))
    torch.testing.assert_close(end(UniPC(p), rolling, x, Normal(0.7, 0.4)), alone, rtol=1e-12, atol=1e-12)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="p must be 1, 2 or 3, got 4"):
        UniPC(4)
    with pytest.raises(ValueError, match="use Ancestral"):
        UniPC().coefficients({"a": Level.of(1.0, 0.0)})
