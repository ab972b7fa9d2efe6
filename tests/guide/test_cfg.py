"""Classifier-free guidance on closed forms, on all or by attribute, its cost, its interval, with every sampler."""

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
from unnoise.guide import Cfg, CfgEach, Interval
from unnoise.sample import Ancestral
from unnoise.sample.driver import sample

D = torch.float64
STD = 0.4
SAMPLERS: list[Any] = [getattr(unnoise.sample, name)() for name in unnoise.sample.__all__] + [Ancestral(eta=0.0)]
every = pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
COND = {"c": torch.tensor([0.5, -1.0, 2.0], dtype=D)}
RNG = Rng.of(range(3))
X = RNG.fold(77).normal(torch.zeros(3, 4, dtype=D))


class Shifted:
    """Data N(c, 0.4^2), where c is the condition; counts its evaluations."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor, level: Any, cond: Any = None, *, to: Any = None) -> Estimate:
        self.calls += 1
        return Normal(cond["c"][:, None], STD)(x, level)


def null(cond: Any) -> dict[str, Tensor]:
    return {"c": torch.zeros_like(cond["c"])}


def angles(n: int) -> Level:
    return Cosine(0.0)(torch.linspace(1, 0, n + 1, dtype=D))


def end(sampler: Any, denoise: Any, grid: Level, x: Tensor = X) -> Tensor:
    *_, last = sample(sampler, Gaussian(), denoise, x, grid, RNG, COND)
    return last.x


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0, 7.5, -1.0])
def test_cfg_extrapolates_from_null_to_cond(scale: float) -> None:
    """Equal widths: the estimate is linear in the mean, so guidance is data of mean scale c."""
    level = Level.of(0.6, 0.8)
    got = Cfg(Shifted(), Gaussian(), null, scale)(X, level, COND)
    torch.testing.assert_close(got.x0, Normal(scale * COND["c"][:, None], STD)(X, level).x0, rtol=1e-12, atol=1e-13)
    inner, w = Shifted(), scale - 1
    want = (1 + w) * inner(X, level, COND).x0 - w * inner(X, level, null(COND)).x0  # Ho & Salimans, eq. 6
    torch.testing.assert_close(got.x0, want, rtol=1e-12, atol=1e-13)
    assert got.var is not None


def test_a_scale_a_row() -> None:
    level, scales = Level.of(0.6, 0.8), torch.tensor([1.0, 2.0, 5.0], dtype=D)
    got = Cfg(Shifted(), Gaussian(), null, scales[:, None])(X, level, COND)
    for i in range(3):
        alone = Cfg(Shifted(), Gaussian(), null, float(scales[i]))(X, level, COND)
        torch.testing.assert_close(got.x0[i], alone.x0[i], rtol=1e-13, atol=1e-14)


@every
def test_scale_1_is_off_and_costs_nothing(sampler: Any) -> None:
    plain, off, on = Shifted(), Shifted(), Shifted()
    want = end(sampler, plain, angles(5))
    assert torch.equal(end(sampler, Cfg(off, Gaussian(), null, 1.0), angles(5)), want)
    end(sampler, Cfg(on, Gaussian(), null, 2.0), angles(5))
    assert off.calls == plain.calls and on.calls == 2 * plain.calls


@every
def test_cfg_composes_with_every_sampler(sampler: Any) -> None:
    """Guided samples are the samples of N(scale c, 0.4^2)."""
    got = end(sampler, Cfg(Shifted(), Gaussian(), null, 2.5), angles(9))
    want = end(sampler, Normal(2.5 * COND["c"][:, None], STD), angles(9))
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12)


@every
def test_interval_everywhere_is_inside_and_nowhere_is_outside(sampler: Any) -> None:
    inside, outside = Cfg(Shifted(), Gaussian(), null, 3.0), Shifted()
    finite = Level(*(a[1:] for a in angles(9)[:2]))  # type: ignore[arg-type, union-attr]
    assert torch.equal(end(sampler, Interval(inside, outside), finite), end(sampler, inside, finite))
    assert torch.equal(end(sampler, Interval(inside, outside, 50.0, 60.0), finite), end(sampler, outside, finite))


@every
def test_interval_on_the_host_and_by_row_agree(sampler: Any) -> None:
    """One level for the batch is decided on the host, [B] levels by where: the same samples."""
    guided = Interval(Cfg(Shifted(), Gaussian(), null, 3.0), Shifted(), -2.0, 3.0)
    grid = angles(9)
    rows = Level(*(a[:, None].repeat(1, 3) for a in grid[:2]))  # type: ignore[arg-type, union-attr]
    host = end(sampler, guided, grid)
    torch.testing.assert_close(end(sampler, guided, rows), host, rtol=1e-12, atol=1e-13)
    assert not torch.allclose(host, end(sampler, guided.outside, grid), atol=1e-3)
    assert not torch.allclose(host, end(sampler, guided.inside, grid), atol=1e-3)


def test_interval_costs_nothing_outside_itself() -> None:
    inner, outer = Shifted(), Shifted()
    guided = Interval(Cfg(inner, Gaussian(), null, 3.0), outer, -1.0, 1.0)
    logsnr = torch.tensor([-6.0, -1.0, -0.5, 0.0, 0.5, 1.0, 6.0, math.inf], dtype=D)
    end(Ancestral(0.0), guided, Level.of_logsnr(logsnr))
    assert inner.calls == 2 * 3 and outer.calls == 4, "the ends are exclusive"


@pytest.mark.parametrize("alpha, sigma", [(0.0, 1.0), (1.0, 0.0)])
def test_interval_at_the_infinite_ends_is_outside(alpha: float, sigma: float) -> None:
    class Fixed:
        def __init__(self, value: float) -> None:
            self.value = value

        def __call__(self, x: Tensor, level: Any, cond: Any = None, *, to: Any = None) -> Estimate:
            return Estimate(torch.full_like(x, self.value), torch.full_like(x, self.value))

    chosen = Interval(Fixed(1.0), Fixed(2.0))
    for level in (Level.of(alpha, sigma), Level(*(torch.full((3,), v, dtype=D) for v in (alpha, sigma)))):
        assert chosen(X, level).x0.unique().tolist() == [2.0]
    mixed = chosen(X, Level(torch.tensor([0.0, 0.6, 1.0]), torch.tensor([1.0, 0.8, 0.0])))
    assert mixed.x0[:, 0].tolist() == mixed.var[:, 0].tolist() == [2.0, 1.0, 2.0]


def test_the_variance_survives_guidance_by_row() -> None:
    """So that Ancestral(variance="learned") works with levels a row as it does with one."""
    guided = Interval(Cfg(Shifted(), Gaussian(), null, 3.0), Shifted(), -2.0, 3.0)
    grid = angles(9)
    rows = Level(*(a[:, None].repeat(1, 3) for a in grid[:2]))  # type: ignore[arg-type, union-attr]
    learned = Ancestral(variance="learned")
    torch.testing.assert_close(end(learned, guided, rows), end(learned, guided, grid), rtol=1e-12, atol=1e-13)


def test_the_trained_interval_is_that_of_what_is_inside() -> None:
    model = Preconditioned(torch.nn.Identity(), V(), interval=(-6.0, 6.0))
    guided = Cfg(model, Gaussian(), null, 2.0)
    assert guided.interval == (-6.0, 6.0) and Interval(guided, model).interval == (-6.0, 6.0)
    assert Cfg(Shifted(), Gaussian(), null, 2.0).interval is None
    for denoise in (guided, Interval(guided, model)):
        with pytest.raises(ValueError, match=r"trained for log-SNR in \[-6, 6\]"):
            end(Ancestral(), denoise, angles(4))


def test_invalid_intervals_and_states_of_parts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"3.0 and 1.0"):
        Interval(Shifted(), Shifted(), 3.0, 1.0)
    with pytest.raises(ValueError, match="one level"):
        Interval(Shifted(), Shifted())({"a": X}, {"a": Level.of(0.6, 0.8)})


# By attribute --------------------------------------------------------------------------------------------------------

PARTS = {
    "hair": torch.tensor([0.5, -1.0, 2.0], dtype=D),
    "body": torch.tensor([1.0, 0.25, -0.5], dtype=D),
    "eyes": torch.tensor([-2.0, 0.5, 1.0], dtype=D),
}
LEVEL = Level.of(0.6, 0.8)


class Added:
    """Data N(sum of the attributes, 0.4^2); an attribute of which nothing is said is 0. Counts its evaluations."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor, level: Any, cond: Any = None, *, to: Any = None) -> Estimate:
        self.calls += 1
        return Normal(torch.stack([*cond.values()]).sum(0)[:, None], STD)(x, level)


class Clusters:
    """Data near -1 or near 1, how often depends on both attributes: given a noisy x these are not independent."""

    LOGIT = torch.tensor([[0.3, -0.8, 0.1], [1.2, 0.4, 0.6], [0.5, -0.1, 0.2]], dtype=D)  # the last: nothing said

    def __call__(self, x: Tensor, level: Any, cond: Any = None, *, to: Any = None) -> Estimate:
        variance = level.alpha**2 * STD**2 + level.sigma**2
        centres = [torch.tensor(c, dtype=D) for c in (-1.0, 1.0)]
        logit = self.LOGIT[cond["a"], cond["b"]][:, None] + 2 * level.alpha * x / variance
        share = torch.stack([torch.sigmoid(-logit), torch.sigmoid(logit)])
        return Estimate((share * torch.stack([Normal(c, STD)(x, level).x0 for c in centres])).sum(0))


def silent(cond: Any, name: str) -> dict[str, Tensor]:
    return {**cond, name: torch.zeros_like(cond[name])}


@pytest.mark.parametrize(
    "scales", [{"hair": 2.0}, {"hair": 3.0, "body": -0.5}, {"hair": 0.0, "body": 1.5, "eyes": 4.0}]
)
def test_where_means_add_up_each_is_scaled_by_its_own(scales: dict[str, float]) -> None:
    """And so it is the conjunction of Liu et al. 2022, each attribute told alone, with 1 for what is not named."""
    got = CfgEach(Added(), Gaussian(), silent, scales)(X, LEVEL, PARTS)
    total = torch.stack([scales.get(k, 1.0) * v for k, v in PARTS.items()]).sum(0)
    torch.testing.assert_close(got.x0, Normal(total[:, None], STD)(X, LEVEL).x0, rtol=1e-12, atol=1e-13)
    nothing = {k: torch.zeros_like(v) for k, v in PARTS.items()}
    none = Added()(X, LEVEL, nothing).x0
    theirs = none + sum(scales.get(k, 1.0) * (Added()(X, LEVEL, {**nothing, k: v}).x0 - none) for k, v in PARTS.items())
    torch.testing.assert_close(got.x0, theirs, rtol=1e-12, atol=1e-13)
    assert got.var is not None


def test_one_attribute_is_cfg() -> None:
    for scale in (0.0, 0.5, 1.0, 3.0, -1.0):
        each = CfgEach(Added(), Gaussian(), silent, {"hair": scale})(X, LEVEL, {"hair": PARTS["hair"]})
        plain = Cfg(Added(), Gaussian(), lambda c: silent(c, "hair"), scale)(X, LEVEL, {"hair": PARTS["hair"]})
        torch.testing.assert_close(each.x0, plain.x0, rtol=1e-13, atol=1e-14)


def test_scales_of_1_are_the_conditional_model_and_0_leaves_an_attribute_out() -> None:
    """Also where attributes depend on each other given x, where a sum of attributes told alone is another model."""
    cond = {"a": torch.tensor([0, 1, 0]), "b": torch.tensor([1, 0, 0])}
    x = X[:, :1]

    def without(cond: Any, name: str) -> dict[str, Tensor]:
        return {**cond, name: torch.full_like(cond[name], 2)}

    model = Clusters()
    told = model(x, LEVEL, cond).x0
    assert torch.equal(CfgEach(model, Gaussian(), without, {"a": 1.0, "b": 1.0})(x, LEVEL, cond).x0, told)
    left = CfgEach(model, Gaussian(), without, {"a": 0.0})(x, LEVEL, cond).x0
    torch.testing.assert_close(left, model(x, LEVEL, without(cond, "a")).x0, rtol=1e-12, atol=1e-13)
    none = model(x, LEVEL, without(without(cond, "a"), "b")).x0
    theirs = none + sum(model(x, LEVEL, without(cond, k)).x0 - none for k in cond)
    assert float((theirs - told).abs().max()) > 0.01


@every
def test_attributes_are_guided_with_every_sampler(sampler: Any) -> None:
    """Guided samples are the samples of N(sum of scaled attributes, 0.4^2); only what is scaled costs."""
    inner, plain = Added(), Added()
    scales = {"hair": 2.5, "body": 1.0, "eyes": 0.5}
    guided = CfgEach(inner, Gaussian(), silent, scales)
    *_, got = sample(sampler, Gaussian(), guided, X, angles(5), RNG, PARTS)
    mean = torch.stack([scales[k] * v for k, v in PARTS.items()]).sum(0)
    *_, want = sample(sampler, Gaussian(), Normal(mean[:, None], STD), X, angles(5), RNG, {})
    torch.testing.assert_close(got.x, want.x, rtol=1e-10, atol=1e-11)
    for _ in sample(sampler, Gaussian(), plain, X, angles(5), RNG, PARTS):
        pass
    assert inner.calls == 3 * plain.calls


def test_guidance_by_attribute_nests_like_any_other() -> None:
    model = Preconditioned(torch.nn.Identity(), V(), interval=(-6.0, 6.0))
    guided = CfgEach(model, Gaussian(), silent, {"hair": 2.0})
    assert guided.interval == (-6.0, 6.0) and CfgEach(Added(), Gaussian(), silent, {}).interval is None
    inner = Interval(CfgEach(Added(), Gaussian(), silent, {"hair": 3.0}), Added(), 50.0, 60.0)
    assert torch.equal(inner(X, LEVEL, PARTS).x0, Added()(X, LEVEL, PARTS).x0)
