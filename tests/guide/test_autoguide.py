"""Autoguidance on closed forms, with every sampler."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import unnoise.sample
from unnoise.core.denoiser import Preconditioned
from unnoise.core.estimate import Estimate
from unnoise.core.exact import Normal
from unnoise.core.level import Level
from unnoise.core.parameterization import V
from unnoise.core.process import Gaussian
from unnoise.core.rng import Rng
from unnoise.core.schedule import Cosine
from unnoise.guide import Autoguidance, Cfg, Interval
from unnoise.sample import Ancestral
from unnoise.sample.driver import sample

D = torch.float64
SAMPLERS: list[Any] = [getattr(unnoise.sample, name)() for name in unnoise.sample.__all__] + [Ancestral(eta=0.0)]
every = pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
COND = {"c": torch.tensor([0.5, -1.0, 2.0], dtype=D)}
RNG = Rng.of(range(3))
X = RNG.fold(77).normal(torch.zeros(3, 4, dtype=D))
LEVEL = Level.of(0.6, 0.8)


class Of:
    """Data N(reach c, std^2), where c is the condition; counts its evaluations."""

    def __init__(self, reach: float = 1.0, std: float = 0.4) -> None:
        self.reach, self.std, self.calls = reach, std, 0

    def __call__(self, x: Tensor, level: Any, cond: Any = None, *, to: Any = None) -> Estimate:
        self.calls += 1
        return Normal(self.reach * cond["c"][:, None], self.std)(x, level)


def null(cond: Any) -> dict[str, Tensor]:
    return {"c": torch.zeros_like(cond["c"])}


def end(sampler: Any, denoise: Any, grid: Level | None = None) -> Tensor:
    levels = Cosine(0.0)(torch.linspace(1, 0, 6, dtype=D)) if grid is None else grid
    *_, last = sample(sampler, Gaussian(), denoise, X, levels, RNG, COND)
    return last.x


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0, 3.5, -1.0])
def test_it_extrapolates_from_the_weaker_one(scale: float) -> None:
    """Also of other widths; the variance stays that of what is guided."""
    strong, weak = Of(), Of(0.5, 0.7)
    got = Autoguidance(strong, weak, Gaussian(), scale)(X, LEVEL, COND)
    a, b = (d(X, LEVEL, COND) for d in (strong, weak))
    torch.testing.assert_close(got.x0, scale * a.x0 + (1 - scale) * b.x0, rtol=1e-13, atol=1e-14)
    assert torch.equal(got.var, a.var)


@every
def test_samples_are_those_of_a_mean_further_away_from_the_weaker_ones(sampler: Any) -> None:
    """Of equal widths the estimate is linear in the mean: data of mean (s + (1 - s) / 2) c."""
    got = end(sampler, Autoguidance(Of(), Of(0.5), Gaussian(), 3.0))
    torch.testing.assert_close(got, end(sampler, Of(2.0)), rtol=1e-10, atol=1e-11)


@every
def test_scale_1_is_off_to_the_bit_and_costs_nothing(sampler: Any) -> None:
    plain, strong, weak = Of(), Of(), Of(0.5)
    want = end(sampler, plain)
    assert torch.equal(end(sampler, Autoguidance(strong, weak, Gaussian())), want)
    assert (strong.calls, weak.calls) == (plain.calls, 0)
    assert not torch.allclose(end(sampler, Autoguidance(strong, weak, Gaussian(), 1.5)), want, atol=1e-3)
    assert weak.calls == plain.calls


def test_a_scale_a_row() -> None:
    scales = torch.tensor([1.0, 2.0, 5.0], dtype=D)
    got = Autoguidance(Of(), Of(0.5), Gaussian(), scales[:, None])(X, LEVEL, COND)
    for i in range(3):
        alone = Autoguidance(Of(), Of(0.5), Gaussian(), float(scales[i]))(X, LEVEL, COND)
        torch.testing.assert_close(got.x0[i], alone.x0[i], rtol=1e-13, atol=1e-14)


def test_classifier_free_guidance_guides_the_pair() -> None:
    """The mean of what is said is (s + (1 - s) / 2) c, that of nothing 0: Cfg scales the one."""
    strong, weak = Of(), Of(0.5)
    pair = Autoguidance(strong, weak, Gaussian(), 3.0)
    got = Cfg(pair, Gaussian(), null, 1.5)(X, LEVEL, COND)
    torch.testing.assert_close(got.x0, Of(1.5 * 2.0)(X, LEVEL, COND).x0, rtol=1e-12, atol=1e-13)
    assert (strong.calls, weak.calls) == (2, 2)


def test_it_acts_within_an_interval_and_has_that_of_what_it_guides() -> None:
    weak = Of(0.5)
    guided = Interval(Autoguidance(Of(), weak, Gaussian(), 3.0), Of(), -1.0, 1.0)
    logsnr = torch.tensor([-6.0, -1.0, -0.5, 0.0, 0.5, 1.0, 6.0, math.inf], dtype=D)
    end(Ancestral(0.0), guided, Level.of_logsnr(logsnr))
    assert weak.calls == 3
    model = Preconditioned(torch.nn.Identity(), V(), interval=(-6.0, 6.0))
    assert Autoguidance(model, weak, Gaussian()).interval == (-6.0, 6.0)
    assert Autoguidance(weak, model, Gaussian()).interval is None
