"""A network's variance between the two of DDPM: its ends, its use in sampling, its description."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unnoise.core.denoiser import Preconditioned
from unnoise.core.estimate import Estimate
from unnoise.core.exact import Normal
from unnoise.core.level import Level
from unnoise.core.parameterization import Edm, Eps, Flow, LearnedVariance, V
from unnoise.core.process import Gaussian, Variance, posterior
from unnoise.core.rng import Rng
from unnoise.core.schedule import Cosine, Linear
from unnoise.sample.ancestral import Ancestral
from unnoise.sample.driver import sample
from unnoise.spec import build, describe

D = torch.float64
MEAN, STD = 0.7, 0.4
DATA = Normal(MEAN, STD)


class Normals(nn.Module):
    """The exact velocity of normal data, with a second half of constants, or such that the variance is exact."""

    def __init__(self, v: float | None, grid: Level) -> None:
        super().__init__()
        self.v, self.grid = v, grid

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        level = Level(c_noise.cos(), c_noise.sin()).like(x)
        est = DATA(x, level)
        assert est.var is not None
        velocity = (level.alpha * x - est.x0) / level.sigma
        if self.v is not None:
            return torch.cat([velocity, torch.full_like(x, self.v)], 1)
        k = int((self.grid.sigma.asin() - c_noise[0]).abs().argmin())
        c = posterior(self.grid.at(k), self.grid.at(k + 1))
        total = c.small + c.gain**2 * est.var
        low = torch.where(c.small > 0, c.small, 1e-3 * c.large)
        f = (total / low).log() / (c.large / low).log()  # iDDPM eq. 15, solved for its v
        return torch.cat([velocity, 2 * f - 1], 1)


def grid(steps: int, low: float = 0.0) -> Level:
    return Cosine(0.0)(torch.linspace(1, low, steps + 1, dtype=D))


def model(v: float | None, levels: Level) -> Preconditioned:
    return Preconditioned(Normals(v, levels), LearnedVariance(V()))


def step(denoise: Any, src: Level, dst: Level, var: Variance) -> Tensor:
    x = Rng.of(range(5)).normal(torch.zeros(5, 1, 3, dtype=D))
    return Gaussian().backward(x, denoise(x, src, to=dst), src, dst, Rng.of(range(5)).fold(1), var=var)


@pytest.mark.parametrize("v, var", [(1.0, "large"), (-1.0, "small")])
def test_the_ends_are_ddpm_s_two_variances(v: float, var: Any) -> None:
    levels = grid(10)
    for k in range(1, 9):
        src, dst = levels.at(k), levels.at(k + 1)
        torch.testing.assert_close(
            step(model(v, levels), src, dst, "learned"), step(DATA, src, dst, var), rtol=1e-9, atol=1e-10
        )


def test_between_them_it_is_a_mean_in_log() -> None:
    """exp(v' log beta + (1 - v') log beta-tilde), of DDPM's own table."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=D)
    bar = torch.cat([torch.ones(1, dtype=D), (1 - betas).cumprod(0)])
    for t in (2, 10, 500, 1000):
        src, dst = (Linear()(torch.tensor(i / 1000, dtype=D)) for i in (t, t - 1))
        tilde = betas[t - 1] * (1 - bar[t - 1]) / (1 - bar[t])
        for share in (0.0, 0.3, 1.0):
            x = torch.zeros(1, 1, 1, dtype=D)
            out = torch.tensor([[[0.0], [2 * share - 1]]], dtype=D)
            est = LearnedVariance(Eps()).estimate(out, x, src, dst)
            c = posterior(src, dst)
            assert est.var is not None
            found = float(c.small + c.gain**2 * est.var)
            assert found == pytest.approx(float(betas[t - 1] ** share * tilde ** (1 - share)), rel=1e-6)


def test_three_steps_of_the_exact_variance_give_the_data() -> None:
    """Where the small variance gives too narrow data, and the large one too wide."""
    n, levels = 40000, grid(3, 1e-3)
    rng = Rng.of(range(n))
    x = rng.fold(10**6).normal(torch.zeros(n, 1, 1, dtype=D))
    stds = {}
    for name, v, var in (("exact", None, "learned"), ("small", None, "small"), ("large", None, "large")):
        sampler = Ancestral(variance=var)  # type: ignore[arg-type]
        *_, last = sample(sampler, Gaussian(), model(v, levels), x, levels, rng, open_end=True)
        stds[name] = float(last.x.std())
        if name == "exact":
            assert float(last.x.mean()) == pytest.approx(MEAN, abs=4 * STD / math.sqrt(n))
    assert stds["exact"] == pytest.approx(STD, rel=4 / math.sqrt(2 * n) + 2e-3)
    assert stds["small"] < 0.6 * STD and stds["large"] > 1.1 * STD


def test_a_step_to_clean_data_is_floored_at_a_share_of_the_large_variance() -> None:
    src, clean = Level.of(0.8, 0.6), Level.of(1.0, 0.0)
    x = torch.zeros(1, 1, 2, dtype=D)
    for v, share in ((1.0, 1.0), (0.0, 0.02**0.5), (-1.0, 0.02)):
        out = torch.cat([x, torch.full_like(x, v)], 1)
        est = LearnedVariance(V(), floor=0.02).estimate(out, x, src, clean)
        assert est.var is not None
        assert est.var.flatten().tolist() == pytest.approx([0.36 * share] * 2, rel=1e-12)


def test_without_a_goal_there_is_no_variance() -> None:
    levels = grid(4)
    x = torch.ones(2, 1, 3, dtype=D)
    est: Estimate = model(0.0, levels)(x, levels.at(1))
    assert est.var is None
    torch.testing.assert_close(est.x0, DATA(x, levels.at(1)).x0)
    with pytest.raises(ValueError, match='var="learned" needs'):
        Gaussian().backward(x, est, levels.at(1), levels.at(2), Rng.of([0, 1]), var="learned")


@pytest.mark.parametrize("k", [1e-2, 30.0])
def test_the_variance_does_not_depend_on_the_frame(k: float) -> None:
    x = Rng.of(range(4)).normal(torch.zeros(4, 2, 3, dtype=D))
    out = Rng.of(range(4)).fold(1).normal(torch.zeros(4, 4, 3, dtype=D))
    src, dst = Level.of(0.6, 0.8), Level.of(0.9, 0.3)
    for mean in (V(), Eps(), Flow(), Edm(0.7)):
        p = LearnedVariance(mean)
        a = p.estimate(out, x, src, dst)
        b = p.estimate(out, k * x, Level(k * src.alpha, k * src.sigma), Level(dst.alpha / k, dst.sigma / k))
        torch.testing.assert_close(b.x0, a.x0, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(b.var, a.var, rtol=1e-10, atol=1e-12)


def test_other_than_twice_the_channels_are_refused_with_the_remedy() -> None:
    x = torch.zeros(2, 3, 4)
    for channels in (3, 5, 12):
        with pytest.raises(ValueError, match="out_channels=6"):
            LearnedVariance(V()).estimate(torch.zeros(2, channels, 4), x, Level.of(0.6, 0.8))


def test_it_is_a_value() -> None:
    for p in (LearnedVariance(V()), LearnedVariance(Edm(0.3), floor=0.01)):
        assert build(describe(p)) == p
    assert LearnedVariance(Eps()).needs_signal and not LearnedVariance(V()).needs_signal
    with pytest.raises(ValueError, match="Learned"):
        Preconditioned(nn.Identity(), LearnedVariance(Eps()))
