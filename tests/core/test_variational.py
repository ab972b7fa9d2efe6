"""The bound in continuous time against likelihoods in closed form, and what of it trains which part of a schedule."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unnoise.core.density import LogNormalSigma, UniformTime
from unnoise.core.exact import Normal
from unnoise.core.lattice import Lattice
from unnoise.core.learned import LearnedSchedule
from unnoise.core.level import Level
from unnoise.core.parameterization import X0
from unnoise.core.process import Gaussian
from unnoise.core.rng import Rng
from unnoise.core.schedule import Karras
from unnoise.core.space import Padded, ZeroCoM
from unnoise.core.variational import Terms, VariationalBound
from unnoise.spec import Build, build, describe

D = torch.float64
MEAN, STD = 0.3, 0.5
CHANCES = torch.tensor([0.1, 0.05, 0.4, 0.15, 0.3], dtype=D)
VALUES = torch.linspace(-1, 1, 5, dtype=D)


class Known(nn.Module):
    """An estimate in closed form as a model that predicts x0."""

    parameterization = X0()

    def __init__(self, estimate: Callable[[Tensor, Level], Tensor]) -> None:
        super().__init__()
        self.estimate = estimate

    def residual(self, x0: Tensor, eps: Tensor, level: Level, cond: Any = None) -> Tensor:
        at = level.like(x0)
        return self.estimate(at.alpha * x0 + at.sigma * eps, at) - x0


def normal(x: Tensor, level: Level) -> Tensor:
    return Normal(MEAN, STD)(x, level).x0


def discrete(x: Tensor, level: Level) -> Tensor:
    """E[x0 | x] of independent elements on five values."""
    log_p = CHANCES.log() - ((x[..., None] - level.alpha[..., None] * VALUES) / level.sigma[..., None]) ** 2 / 2
    return (log_p.softmax(-1) * VALUES).sum(-1)


@dataclass(frozen=True)
class Steps:
    """A codec of values that are states already, on five of them or (bins None) a continuum."""

    bins: int | None
    log_det: float = math.log(0.5)

    def encode(self, raw: Tensor, rng: Rng) -> Tensor:
        return raw

    def blank(self, n: int) -> Tensor:
        return torch.zeros(n, 1)


def learned(seed: int = 0, low: float = -14.0, high: float = 14.0) -> LearnedSchedule:
    """With an interior of random weights, and ends in the middle of ranges of 2."""
    schedule = LearnedSchedule((low - 1, low + 1), (high - 1, high + 1), units=8)
    generator = torch.Generator().manual_seed(seed)
    for name, p in schedule.named_parameters():
        if seed and name != "places":
            nn.init.normal_(p, std=1.5, generator=generator)
    return schedule


def evenly(n: int) -> Tensor:
    return (torch.arange(n, dtype=D) + 0.5) / n


def measured(x0: Tensor, estimate: Any, density: Any, codec: Any = None, **settings: Any) -> Terms:
    """The terms of rows x0, their levels spread evenly."""
    parts = {"model": Known(estimate), "schedule": density, "codec": codec or Steps(None)}
    named = "schedule" if isinstance(density, LearnedSchedule) else density
    with torch.no_grad():
        return VariationalBound(named, **settings).terms(evenly(len(x0)), parts, {"x": x0}, Rng.of(range(len(x0))))


@pytest.mark.parametrize("density", [learned(), learned(3), UniformTime(Karras(5e-3, 5e2), low=1e-9)], ids=str)
def test_it_is_the_likelihood_of_normal_data(density: Any) -> None:
    """With the exact estimate nothing is lost but what the ends leave out: here less than 1e-3 nats.

    Levels are spread evenly, so that what is left of chance is the noise of half a million elements.
    """
    for point in (-0.4, 0.3, 1.3):
        terms = measured(torch.full((500, 1024), point, dtype=D), normal, density)
        want = ((point - MEAN) / STD) ** 2 / 2 + math.log(STD) + math.log(2 * math.pi) / 2
        assert float(terms.total.mean()) == pytest.approx(want, abs=0.06)


@pytest.mark.parametrize("value", range(5))
def test_it_is_the_probability_of_discrete_data(value: int) -> None:
    """No dequantisation: with the exact estimate the bound is -log P of the value itself."""
    terms = measured(VALUES[value].repeat(500, 2048), discrete, learned(low=-12.0, high=10.0), Steps(5))
    assert float(terms.total.mean()) == pytest.approx(-math.log(CHANCES[value]), abs=0.04)
    assert float(terms.reconstruction.abs().max()) < 1e-9 and float(terms.prior.max()) < 1e-5


def test_what_the_ends_leave_out_is_in_the_other_terms() -> None:
    """Ends close together: the sum is still a bound, and the parts are their closed forms."""
    n, schedule = 500, learned(low=-2.0, high=4.0)
    x0 = MEAN + STD * Rng.of(range(n)).fold(9).normal(torch.zeros(n, 1024, dtype=D))
    terms = measured(x0, normal, schedule)
    torch.testing.assert_close(terms.prior, x0.square().mean(1) * math.exp(-2) / 2)
    entropy = math.log(STD) + math.log(2 * math.pi * math.e) / 2
    assert entropy + 0.02 < float(terms.total.mean()) < entropy + 0.1
    flat = 0.5 * math.log(2 * math.pi * math.e) - 2.0  # of N(x / alpha, exp(-4)), on average
    assert float(terms.reconstruction.mean()) == pytest.approx(flat, abs=5 * math.sqrt(0.5 / n / 1024))


@pytest.mark.parametrize("logsnr", [-8.0, 0.0, 4.0, 12.0])
def test_the_decoder_is_bayes_rule(logsnr: float) -> None:
    lattice, x0 = Lattice(5, 0.5), VALUES.repeat(200, 1)
    eps = Rng.of(range(200)).normal(x0)
    end = torch.tensor(logsnr, dtype=D, requires_grad=True)
    level = Level.of_logsnr(end)
    x = level.alpha * x0 + level.sigma * eps
    log_q = -(((x[..., None] - level.alpha * VALUES) / level.sigma) ** 2) / 2
    want = log_q.log_softmax(-1).gather(-1, torch.arange(5).expand(200, 5)[..., None])[..., 0]
    found = lattice.log_posterior(x0, eps, end)
    torch.testing.assert_close(found, want, rtol=1e-7, atol=1e-9)
    slopes = [torch.autograd.grad(v.sum(), end, retain_graph=True)[0] for v in (found, want)]
    torch.testing.assert_close(*slopes, rtol=1e-6, atol=1e-9)
    assert bool((lattice.log_posterior(x0.float(), eps.float(), end.float()) - found).abs().max() < 1e-4)
    for least in (logsnr, logsnr - 3):  # fewer values are looked at, and nothing is lost
        torch.testing.assert_close(lattice.log_posterior(x0, eps, end, least), found, rtol=1e-12, atol=1e-14)


def test_the_decoder_looks_at_few_of_many_values() -> None:
    """8 bits, both ends of the range among them."""
    lattice, n = Lattice(256, 2 / 255), 5000
    x0 = torch.linspace(-1, 1, 256, dtype=D).repeat(n // 256 + 1)[:n]
    eps = Rng.of(range(n)).normal(torch.zeros(n, 1, dtype=D))[:, 0]
    for logsnr in (6.0, 9.5, 13.3):
        end = torch.tensor(logsnr, dtype=D)
        few, all_ = (lattice.log_posterior(x0, eps, end, least) for least in (logsnr, -math.inf))
        torch.testing.assert_close(few, all_, rtol=1e-12, atol=1e-14)
        assert few.dtype == D and float(few.max()) <= 0


def test_the_interior_of_the_schedule_does_not_matter_in_expectation() -> None:
    """An estimate that is wrong: the expected sum is of the ends alone, its spread is not."""
    x0 = torch.full((500, 1024), 0.9, dtype=D)

    def worse(x: Tensor, level: Level) -> Tensor:
        return normal(x, level) * 0.8

    found = [measured(x0, worse, learned(seed, -6.0, 6.0)).total for seed in range(4)]
    assert [float(t.mean()) for t in found] == pytest.approx([float(found[0].mean())] * 4, abs=0.1)
    spread = [float(t.std()) for t in found]
    assert max(spread) > 1.1 * min(spread)


class Linear(nn.Module):
    """A network with a weight, as a model."""

    parameterization = X0()

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.3, dtype=D))

    def residual(self, x0: Tensor, eps: Tensor, level: Level, cond: Any = None) -> Tensor:
        at = level.like(x0)
        return self.weight * at.alpha * (at.alpha * x0 + at.sigma * eps) - x0


class Plainly:
    """A learned schedule as any density: no gradient is touched on its way."""

    def __init__(self, schedule: LearnedSchedule) -> None:
        self.schedule, self.interval = schedule, tuple(float(e.detach()) for e in schedule.ends())

    def __call__(self, u: Tensor) -> tuple[Level, Tensor]:
        return self.schedule(u)


def test_one_backward_pass_trains_ends_by_the_bound_and_the_interior_by_its_variance() -> None:
    x0, rng, u = torch.linspace(-1, 1, 6, dtype=D)[:, None].repeat(1, 3), Rng.of(range(6)), evenly(6)
    schedule, model = learned(1, -3.0, 5.0).double(), Linear()
    parts = {"model": model, "schedule": schedule, "codec": Steps(None)}
    loss = VariationalBound("schedule").at(u, parts, {"x": x0}, rng)
    loss.mean.backward()  # type: ignore[no-untyped-call]
    found = {k: p.grad.clone() for k, p in schedule.named_parameters() if p.grad is not None}
    slope = model.weight.grad

    def terms() -> Terms:
        return VariationalBound(Plainly(schedule)).terms(u, parts, {"x": x0}, rng)  # type: ignore[arg-type]

    interior = {k: p for k, p in schedule.named_parameters() if k != "places"}
    want = torch.autograd.grad(terms().diffusion.square().mean(), list(interior.values()))
    for k, g in zip(interior, want, strict=True):
        torch.testing.assert_close(found[k], g)
    (direct,) = torch.autograd.grad(terms().total.mean(), model.weight)
    torch.testing.assert_close(slope, direct)

    def whole(i: int, by: float) -> float:
        with torch.no_grad():
            schedule.places[i] += by
            value = float(VariationalBound("schedule").at(u, parts, {"x": x0}, rng).mean)
            schedule.places[i] -= by
        return value

    numeric = [(whole(i, 1e-5) - whole(i, -1e-5)) / 2e-5 for i in (0, 1)]
    assert found["places"].tolist() == pytest.approx(numeric, rel=1e-6)


def test_training_the_schedule_lowers_the_variance_and_not_the_mean() -> None:
    n, schedule = 2000, LearnedSchedule((-11.0, -9.0), (9.0, 11.0), units=16)
    parts = {"model": Known(normal), "schedule": schedule, "codec": Steps(None)}
    rng = Rng.of(range(n))
    x0 = MEAN + STD * rng.fold(9).normal(torch.zeros(n, 8, dtype=D))
    interior = [p for k, p in schedule.named_parameters() if k != "places"]
    optimizer = torch.optim.Adam(interior, lr=0.03)
    before = measured(x0, normal, schedule)
    for step in range(150):
        rows = torch.arange(64) + 64 * step
        batch = {"x": x0[rows % n], "position": rows}
        optimizer.zero_grad()
        VariationalBound("schedule")(parts, batch, Rng.of(rows + n), 0).mean.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    after = measured(x0, normal, schedule)
    assert float(after.diffusion.var()) < 0.5 * float(before.diffusion.var())
    errors = [float(t.total.std()) / math.sqrt(n) for t in (before, after)]
    assert float(after.total.mean()) == pytest.approx(float(before.total.mean()), abs=4 * math.hypot(*errors))


def test_elements_that_do_not_exist_do_not_count() -> None:
    x0 = torch.tensor([[0.3, -0.5, 0.0], [0.1, 0.0, 0.0]], dtype=D)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]], dtype=torch.bool)
    objective, rng = VariationalBound(LogNormalSigma(), process=Gaussian(Padded())), Rng.of(range(2))
    parts = {"model": Known(normal), "codec": Steps(None)}
    whole = objective.terms(evenly(2), parts, {"x": x0, "mask": mask}, rng)
    for i, real in enumerate((2, 1)):
        rows = slice(i, i + 1)
        batch = {"x": x0[rows, :real], "mask": mask[rows, :real]}
        alone = objective.terms(evenly(2)[rows], parts, batch, rng[rows])
        for a, b in zip(whole[:3], alone[:3], strict=True):
            torch.testing.assert_close(a[rows], b)


def test_what_has_no_bound_is_refused(unchecked: None) -> None:
    with pytest.raises(ValueError, match="no bound in ZeroCoM"):
        VariationalBound(process=Gaussian(ZeroCoM()))
    for weights in (learned(), Build(LearnedSchedule)):
        with pytest.raises(ValueError, match="has weights and belongs into the state"):
            VariationalBound(weights)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="of one Gaussian state"):
        VariationalBound(LogNormalSigma()).terms(
            evenly(2), {"model": Known(normal)}, {"x": torch.zeros(2, 3, dtype=torch.int64)}, Rng.of(range(2))
        )


def test_it_is_a_value() -> None:
    for objective in (VariationalBound("schedule"), VariationalBound(LogNormalSigma(-0.5), drop=0.1)):
        assert build(describe(objective)) == objective
