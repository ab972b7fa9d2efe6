"""Runge-Kutta solvers against the papers' own loops, and their tableaux."""

import math
from typing import Any

import pytest
import torch

from unnoise.core.denoiser import Preconditioned
from unnoise.core.exact import Mixture, Normal
from unnoise.core.level import Level
from unnoise.core.parameterization import X0, Eps
from unnoise.core.process import Gaussian
from unnoise.core.rng import Rng
from unnoise.core.schedule import Linear, Rectified
from unnoise.sample.driver import sample
from unnoise.sample.grids import KarrasGrid, TrailingGrid
from unnoise.sample.ode import RK4, Euler, Heun, Midpoint

D = torch.float64
RNG = Rng.of(range(8))
X = RNG.fold(99).normal(torch.zeros(8, 2, dtype=D))
DATA = Mixture(torch.tensor([[-1.0, 0.3], [0.8, -0.5], [0.1, 1.2]], dtype=D), [0.3, 0.5, 0.4])
SOLVERS: list[Any] = [Euler(), Heun(), Midpoint(), RK4()]


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_tableaux_are_consistent_and_meet_their_order_conditions(solver: Any) -> None:
    a, b = solver.tableau
    nodes = [0.0, *(sum(row) for row in a)]
    assert len(b) == solver.evaluations == len(a) + 1
    assert all(len(row) == i + 1 for i, row in enumerate(a))
    for power in range(solver.order):
        assert sum(w * c**power for w, c in zip(b, nodes, strict=True)) == pytest.approx(1 / (power + 1))


def test_euler_is_ddim_and_eps_prediction_equals_x0_prediction() -> None:
    """Pitfall 9: solvers see x0_hat only; a network of eps and its x0 twin give the same DDIM samples."""
    table = Linear()
    low = float(table(torch.ones((), dtype=D)).logsnr)
    grid = TrailingGrid(table)(20, (low, math.inf))

    class Net(torch.nn.Module):
        def __init__(self, eps: bool) -> None:
            super().__init__()
            self.eps = eps

        def forward(self, x: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
            level = Level(angle.cos(), angle.sin())
            x0 = DATA(x, level).x0
            return (x - angle.cos()[:, None] * x0) / angle.sin()[:, None] if self.eps else x0

    models = [Preconditioned(Net(eps), p, interval=(low, math.inf)) for eps, p in ((True, Eps()), (False, X0()))]
    a, b = ([*sample(Euler(), Gaussian(), m, X, grid, RNG)][-1].x for m in models)
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    x = X
    for i in range(20):
        src, dst = grid.at(i), grid.at(i + 1)
        x0 = DATA(x, src).x0
        x = dst.alpha * x0 + dst.sigma * (x - src.alpha * x0) / src.sigma  # Song et al. eq. 12, sigma_t = 0
    torch.testing.assert_close(a, x, rtol=1e-9, atol=1e-9)


def test_heun_is_edm_algorithm_1() -> None:
    grid = KarrasGrid()(12, (-math.inf, math.inf))
    x = y = 80 * X
    t = grid.sigma

    def one(sigma: torch.Tensor) -> Level:
        return Level(torch.ones((), dtype=D), sigma)

    for i in range(12):
        d = (y - DATA(y, one(t[i])).x0) / t[i]
        z = y + (t[i + 1] - t[i]) * d
        if t[i + 1] != 0:
            e = (z - DATA(z, one(t[i + 1])).x0) / t[i + 1]
            z = y + (t[i + 1] - t[i]) * (d / 2 + e / 2)
        y = z
    *_, last = sample(Heun(), Gaussian(), DATA, x, grid, RNG)
    torch.testing.assert_close(last.x, y, rtol=1e-11, atol=1e-11)


def test_euler_on_the_rectified_path_is_the_euler_of_flow_matching() -> None:
    grid = Rectified()(torch.linspace(1, 0, 11, dtype=D))
    y = X
    for i in range(10):
        t = grid.sigma[i]
        x0 = DATA(y, grid.at(i)).x0
        velocity = (y - (1 - t) * x0) / t - x0  # E[eps - x0 | x]
        y = y + (grid.sigma[i + 1] - t) * velocity
    *_, last = sample(Euler(), Gaussian(), DATA, X, grid, RNG)
    torch.testing.assert_close(last.x, y, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_euler_steps_are_exact_where_the_flow_is_straight(solver: Any) -> None:
    """A constant estimate makes the flow straight in the (alpha, sigma) plane: every solver is exact in one step."""

    def point(x: torch.Tensor, level: Any, cond: Any = None, *, to: Any = None) -> Any:
        return Gaussian().mix([DATA(x, level)], [0.0])._replace(x0=torch.full_like(x, 0.25))

    src, dst = Level.of(0.3, 0.9), Level.of(0.8, 0.5)
    grid = Level(torch.stack([src.alpha, dst.alpha]), torch.stack([src.sigma, dst.sigma]))
    *_, last = sample(solver, Gaussian(), point, X, grid, RNG, open_end=True)
    want = 0.8 * 0.25 + 0.5 * (X - 0.3 * 0.25) / 0.9
    torch.testing.assert_close(last.x, want, rtol=1e-13, atol=1e-14)


def test_a_two_time_network_lands_in_one_step() -> None:
    """The exact flow map through `to`: one Euler step is the whole flow."""
    data = Normal(0.7, 0.4)

    def flow_map(x: torch.Tensor, level: Any, cond: Any = None, *, to: Any = None) -> Any:
        y = data.transport(x, level, to)
        x0 = (y - to.sigma / level.sigma * x) / (to.alpha - level.alpha * to.sigma / level.sigma)
        return data(x, level)._replace(x0=x0)

    src, dst = Level.of(0.2, 0.9), Level.of(0.9, 0.1)
    grid = Level(torch.stack([src.alpha, dst.alpha]), torch.stack([src.sigma, dst.sigma]))
    *_, last = sample(Euler(), Gaussian(), flow_map, X, grid, RNG, open_end=True)
    torch.testing.assert_close(last.x, data.transport(X, src, dst), rtol=1e-12, atol=1e-13)
