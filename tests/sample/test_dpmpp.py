"""DPM-Solver++(2M) against the paper's algorithm."""

import math

import pytest
import torch
from torch import Tensor

from unnoise.core.exact import Mixture
from unnoise.core.level import Level
from unnoise.core.process import Gaussian
from unnoise.core.rng import Rng
from unnoise.core.schedule import Cosine
from unnoise.sample.dpmpp import DPMpp2M
from unnoise.sample.driver import sample

D = torch.float64
DATA = Mixture(torch.tensor([[-1.0, 0.3], [0.8, -0.5], [0.1, 1.2]], dtype=D), [0.3, 0.5, 0.4])
RNG = Rng.of(range(8))
X = RNG.normal(torch.zeros(8, 2, dtype=D))


def algorithm_2(x: Tensor, grid: Level) -> Tensor:
    """Lu et al. 2022, algorithm 2: x' = (sigma' / sigma) x - alpha' (exp(-h) - 1) D; the last step of first order."""
    lam = grid.alpha.log() - grid.sigma.log()
    before = x
    for i in range(len(lam) - 1):
        x0 = DATA(x, grid.at(i)).x0
        h = float(lam[i + 1] - lam[i])
        d = x0
        if i > 0 and math.isfinite(h) and math.isfinite(float(lam[i - 1])):
            r = float(lam[i] - lam[i - 1]) / h
            d = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * before
        x = grid.sigma[i + 1] / grid.sigma[i] * x - grid.alpha[i + 1] * math.expm1(-h) * d
        before = x0
    return x


@pytest.mark.parametrize("top", [1.0, 0.9])
@pytest.mark.parametrize("end", [0.0, 0.2])
def test_it_is_algorithm_2(top: float, end: float) -> None:
    grid = Cosine()(torch.linspace(top, end, 10, dtype=D))
    *_, last = sample(DPMpp2M(), Gaussian(), DATA, X, grid, RNG, open_end=end > 0)
    if top < 1:
        torch.testing.assert_close(last.x, algorithm_2(X, grid), rtol=1e-9, atol=1e-10)
        return
    # From pure noise log-SNR is infinite: one step of first order, whose end forgets x but for its direction.
    first = DATA(X, grid.at(0)).x0
    start = grid.alpha[1] * first + grid.sigma[1] * X
    steps = [s.x for s in sample(DPMpp2M(), Gaussian(), DATA, X, grid, RNG, open_end=end > 0)]
    torch.testing.assert_close(steps[0], start, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(last.x, algorithm_2(start, grid.at(slice(1, None))), rtol=1e-9, atol=1e-10)


def test_parts_are_refused() -> None:
    with pytest.raises(ValueError, match="use Ancestral"):
        DPMpp2M().coefficients({"a": Level.of(1.0, 0.0)})
