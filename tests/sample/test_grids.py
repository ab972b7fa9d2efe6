"""Grids: their first and last level, their published spacings."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from unnoise.core.level import Level
from unnoise.core.schedule import Cosine, Karras, Linear, Rectified, ScaledLinear, Shifted, Table, ZeroTerminal
from unnoise.sample import grids
from unnoise.sample.grids import KarrasGrid, LogSnrGrid, TrailingGrid, UniformGrid
from unnoise.sample.ode import Euler
from unnoise.sample.plan import check_interval, plan

D = torch.float64
ANY = (-math.inf, math.inf)
TERMINAL = float(Linear()(torch.ones((), dtype=D)).logsnr)
# grid, trained interval, log-SNR of the noisiest level of its path inside that interval
NOISIEST: list[tuple[Any, tuple[float, float], float]] = [
    (UniformGrid(), ANY, -math.inf),
    (UniformGrid(), (-12.0, 12.0), -12.0),
    (UniformGrid(Rectified()), ANY, -math.inf),
    (UniformGrid(Linear()), ANY, TERMINAL),
    (UniformGrid(Linear()), (TERMINAL, 10.0), TERMINAL),
    (UniformGrid(Linear()), (-5.0, 10.0), -5.0),
    (UniformGrid(Shifted(Cosine(), -2.0)), (-8.0, 12.0), -8.0),
    (UniformGrid(ZeroTerminal(ScaledLinear())), ANY, -math.inf),
    (KarrasGrid(), ANY, -2 * math.log(80)),
    (KarrasGrid(sigma_max=None), (-9.6, 14.4), -9.6),
    (LogSnrGrid(), (-10.0, 12.0), -10.0),
    (LogSnrGrid(-6.0, 6.0, "flow"), ANY, -6.0),
    (LogSnrGrid(-6.0, None, "ve"), (-9.0, 9.0), -6.0),
    (TrailingGrid(), ANY, TERMINAL),
    (TrailingGrid(ZeroTerminal(Linear())), ANY, -math.inf),
    (TrailingGrid(Table((0.01,) * 400)), ANY, math.log(0.99**400 / (1 - 0.99**400))),
]


def test_every_public_grid_is_tested_here() -> None:
    assert {type(g).__name__ for g, _, _ in NOISIEST} == set(grids.__all__)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 50, 333])
@pytest.mark.parametrize("grid, interval, noisiest", NOISIEST, ids=lambda v: str(v)[:40])
def test_the_noisiest_level_is_in_the_plan_and_the_clean_one_ends_it(
    grid: Any, interval: tuple[float, float], noisiest: float, steps: int
) -> None:
    """Pitfall 7: t = T is sampled by every grid at any number of steps. Pitfall 8: none ends in noise."""
    levels = grid(steps, interval)
    assert levels.alpha.shape == levels.sigma.shape == (steps + 1,) and levels.alpha.dtype == D
    assert levels.alpha.device.type == "cpu"
    logsnr = levels.logsnr
    assert float(logsnr[0]) == pytest.approx(noisiest, abs=1e-8)
    assert float(levels.alpha[-1]) == 1.0 and float(levels.sigma[-1]) == 0.0
    assert bool((logsnr[1:] > logsnr[:-1]).all())
    check_interval(levels, interval)
    rows = plan(Euler(), levels)
    assert len(rows) == steps and rows[-1].last
    assert isinstance(rows[0].src, Level) and rows[0].src.host == (float(levels.alpha[0]), float(levels.sigma[0]))


def test_uniform_grid_is_equal_in_the_time_of_its_schedule() -> None:
    t = UniformGrid(Rectified())(8, ANY).sigma
    np.testing.assert_allclose(t.numpy(), np.linspace(1, 0, 9), rtol=1e-15)
    inside = UniformGrid(Rectified())(8, (-3.0, 9.0)).sigma
    start = 1 / (1 + math.exp(-1.5))
    np.testing.assert_allclose(inside.numpy(), np.linspace(start, 0, 9), rtol=1e-12, atol=1e-15)


def test_karras_grid_is_edm_eq_5() -> None:
    i = np.arange(18)
    want = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    levels = KarrasGrid()(18, ANY)
    np.testing.assert_allclose(levels.sigma.numpy(), [*want, 0.0], rtol=1e-12)
    assert torch.equal(levels.alpha, torch.ones(19, dtype=D))
    torch.testing.assert_close(levels.sigma[:-1], Karras()(torch.linspace(1, 0, 18, dtype=D)).sigma, rtol=1e-12, atol=0)


@pytest.mark.parametrize("frame", ["vp", "flow", "ve"])
def test_log_snr_grid_is_equal_in_log_snr(frame: Any) -> None:
    levels = LogSnrGrid(frame=frame)(11, (-10.0, 12.0))
    np.testing.assert_allclose(levels.logsnr[:-1].numpy(), np.linspace(-10, 12, 11), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 7, 10, 25, 1000])
def test_trailing_grid_is_lin_2023_table_2(steps: int) -> None:
    k = np.round(np.arange(1000, 0, -1000 / steps))[:steps]
    betas = np.linspace(1e-4, 0.02, 1000)
    want = np.cumprod(1 - betas)[k.astype(int) - 1]
    np.testing.assert_allclose((TrailingGrid()(steps, ANY).alpha[:-1] ** 2).numpy(), want, rtol=1e-10)


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: UniformGrid()(0, ANY), "got 0"),
        (lambda: KarrasGrid()(0, ANY), "got 0"),
        (lambda: LogSnrGrid(-1.0, 1.0)(-3, ANY), "got -3"),
        (lambda: TrailingGrid()(0, ANY), "got 0"),
        (lambda: TrailingGrid()(1001, ANY), "1000 entries has no grid of 1001"),
        (lambda: KarrasGrid(sigma_max=None)(5, ANY), "give sigma_max"),
        (lambda: KarrasGrid(sigma_min=90.0)(5, ANY), "90.0 and 80.0"),
        (lambda: KarrasGrid(sigma_min=0.0)(5, ANY), "0.0 and 80.0"),
        (lambda: KarrasGrid(rho=0), "rho must be positive and finite, got 0"),
        (lambda: KarrasGrid(rho=float("inf")), "got inf"),
        (lambda: LogSnrGrid()(5, ANY), "-inf and inf"),
        (lambda: LogSnrGrid(3.0, 1.0)(5, ANY), "3.0 and 1.0"),
    ],
)
def test_invalid_grids_raise_with_the_value(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


def test_a_grid_on_a_path_that_never_is_clean_is_refused_by_the_plan() -> None:
    with pytest.raises(ValueError, match=r"sigma = 0\.002"):
        plan(Euler(), UniformGrid(Karras())(5, ANY))
