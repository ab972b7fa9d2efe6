"""iDDPM's objective: who is trained by what, and what its minimum is."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unnoise.core.bound import term
from unnoise.core.denoiser import Preconditioned
from unnoise.core.density import stratified
from unnoise.core.exact import Normal
from unnoise.core.hybrid import Hybrid, Steps
from unnoise.core.level import Level
from unnoise.core.objective import Denoising, OverLevels
from unnoise.core.parameterization import LearnedVariance, V
from unnoise.core.process import Gaussian, posterior
from unnoise.core.rng import Rng
from unnoise.core.schedule import Cosine, Karras, Linear
from unnoise.core.weight import MinSnr, Sigmoid
from unnoise.modality.plain import Plain
from unnoise.spec import build, describe

D = torch.float64
CODEC = Plain((2, 3))


class Halves(nn.Module):
    """The mean and the variance from parameters of their own: an affine map each, of x and of c_noise."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.variance = nn.Parameter(torch.tensor([0.3, -0.2])), nn.Parameter(torch.tensor([0.1, 0.4]))

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        c = c_noise.reshape(-1, 1, 1)
        return torch.cat([self.mean[0] * x + self.mean[1] * c, self.variance[0] * x + self.variance[1]], 1)


class Same(nn.Module):
    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        return x


def parts(net: nn.Module | None = None) -> dict[str, Any]:
    return {"model": Preconditioned(net or Halves(), LearnedVariance(V())), "codec": CODEC}


def batch(n: int) -> dict[str, Tensor]:
    return {"x": 0.7 + 0.4 * Rng.of(range(n)).normal(torch.zeros(n, 2, 3)), "position": torch.arange(n)}


def gradients(objective: Any, n: int = 64) -> tuple[Tensor, Tensor]:
    """Of the mean's and of the variance's parameters."""
    components = parts()
    objective(components, batch(n), Rng.of(range(n)), 0).mean.backward()
    net = components["model"].net
    return net.mean.grad, torch.zeros(2) if net.variance.grad is None else net.variance.grad


STEPS = Steps(Cosine(), 10)


@pytest.mark.parametrize("weight", [None, MinSnr()])
def test_the_mean_learns_from_l_simple_alone_to_the_bit(weight: Any) -> None:
    with_bound, own = gradients(Hybrid(density=STEPS, weight=weight, factor=0.1))
    without, nothing = gradients(Hybrid(density=STEPS, weight=weight, factor=0.0))
    assert torch.equal(with_bound, without)
    assert bool((own.abs() > 1e-5).all()) and bool((nothing == 0).all())


@pytest.mark.parametrize("weight", [None, MinSnr()])
def test_l_simple_is_the_denoising_loss(weight: Any) -> None:
    data, rng, components = batch(64), Rng.of(range(64)), parts()
    hybrid = Hybrid(density=STEPS, weight=weight, factor=0.0)
    plain = Denoising(density=STEPS, weight=weight)
    a, b = hybrid(components, data, rng, 0), plain(components, data, rng, 0)
    torch.testing.assert_close(a.value, b.value * b.weight, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradients(hybrid)[0], gradients(plain)[0], rtol=1e-5, atol=1e-6)


def test_the_factor_multiplies_the_sum_over_all_steps() -> None:
    """count times the mean over elements of the step's own term, in nats."""
    data, rng, components = batch(40), Rng.of(range(40)), parts()
    without, with_bound = (Hybrid(density=STEPS, factor=f, drop=0.0)(components, data, rng, 0) for f in (0.0, 0.5))
    u = stratified(data["position"])
    src, to = STEPS(u)[0], STEPS.below(u)
    x0 = CODEC.encode(data["x"]).double()
    at = src.like(x0)
    x = at.alpha * x0 + at.sigma * Gaussian().noise(x0.float(), rng.fold(1))
    with torch.no_grad():
        est = components["model"](x, src, to=to)
    want = 0.5 * 10 * term(est, x0, src, to, "learned").flatten(1).mean(1)
    torch.testing.assert_close((with_bound.value - without.value).double(), want, rtol=1e-4, atol=1e-4)


class TrueMean(nn.Module):
    """V's answer for normal data in the first half; in the second a number for each of K steps."""

    def __init__(self, mean: float, std: float, steps: Steps) -> None:
        super().__init__()
        self.data, self.steps = Normal(mean, std), steps
        self.v = nn.Parameter(torch.zeros(steps.count, dtype=D))

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        sigma, alpha = c_noise.sin(), c_noise.cos()  # Angle, in the variance-preserving frame
        level = Level(alpha, sigma)
        x0 = self.data(x, level).x0
        at = level.like(x)
        k = (
            (
                self.steps.schedule(torch.arange(1, self.steps.count + 1, dtype=D) / self.steps.count).sigma.asin()
                - c_noise[:, None]
            )
            .abs()
            .argmin(1)
        )
        return torch.cat([(at.alpha * x - x0) / at.sigma, self.v[k].reshape(-1, 1, 1).expand_as(x)], 1)


def test_the_variance_of_least_bound_is_the_true_one() -> None:
    """Normal data: v at the minimum gives every step the variance of q(x_dst | x_src) in closed form."""
    mean, std, count, n = 0.2, 0.5, 5, 3000
    steps = Steps(Cosine(), count)
    net = TrueMean(mean, std, steps)
    components = {"model": Preconditioned(net, LearnedVariance(V())), "codec": None}
    x0 = mean + std * Rng.of(range(n)).fold(9).normal(torch.zeros(n, 2, 3, dtype=D))
    u = (torch.arange(n, dtype=D) + 0.5) / n
    objective = Hybrid(density=steps, factor=1.0, drop=0.0)
    optimiser = torch.optim.LBFGS([net.v], max_iter=20, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = objective.at(u, components, {"x": x0}, Rng.of(range(n))).mean
        value.backward()
        return value

    optimiser.step(loss)
    k = torch.arange(1, count + 1, dtype=D)
    src, dst = Cosine()(k / count), Cosine()((k - 1) / count)
    c = posterior(src, dst)
    truth = c.small + c.gain**2 * std**2 * src.sigma**2 / (src.alpha**2 * std**2 + src.sigma**2)
    zero = torch.zeros(count, 1, dtype=D)
    est = LearnedVariance(V()).estimate(torch.cat([zero, net.v.detach()[:, None]], 1), zero, src, dst)
    assert est.var is not None
    found = c.small + c.gain**2 * est.var[:, 0]
    torch.testing.assert_close(found, truth, rtol=5 / math.sqrt(n), atol=0)
    assert float((truth / c.large).max()) < 0.95, "and that is not the large variance"


def test_steps_are_those_of_a_table() -> None:
    steps, table = Steps(Linear(), 1000), Linear().alphas()
    u = (torch.arange(1000, dtype=D) + 0.5) / 1000
    torch.testing.assert_close(steps(u)[0].alpha, table[1:], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(steps.below(u).alpha, table[:-1], rtol=1e-12, atol=1e-14)
    low, high = steps.interval
    assert low == pytest.approx(float(steps(torch.tensor(0.9999, dtype=D))[0].logsnr), rel=1e-9)
    assert high == pytest.approx(float(steps(torch.tensor(0.0, dtype=D))[0].logsnr), rel=1e-9)
    assert float(steps.below(torch.tensor(0.0, dtype=D)).sigma) == 0


def test_a_row_does_not_depend_on_its_batch() -> None:
    data, rng, components = batch(8), Rng.of(range(8)), parts()
    whole = Hybrid(density=STEPS)(components, data, rng, 0)
    for i in (0, 3, 7):
        alone = Hybrid(density=STEPS)(components, {k: v[i : i + 1] for k, v in data.items()}, rng[i : i + 1], 0)
        torch.testing.assert_close(alone.value, whole.value[i : i + 1], rtol=1e-6, atol=1e-6)


def test_it_is_an_objective_over_levels_and_a_value() -> None:
    hybrid = Hybrid(density=Steps(Linear(), 500), factor=0.01)
    assert isinstance(hybrid, OverLevels) and build(describe(hybrid)) == hybrid


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="factor must be >= 0, got -1"):
        Hybrid(factor=-1.0)
    with pytest.raises(ValueError, match="no density"):
        Hybrid(weight=Sigmoid())
    with pytest.raises(ValueError, match="at least 2, got 1"):
        Steps(count=1)
    with pytest.raises(ValueError, match=r"begins at sigma = 0\.002"):
        Steps(Karras())
    plain = {"model": Preconditioned(Same(), V()), "codec": CODEC}
    with pytest.raises(ValueError, match='var="learned" needs a denoiser'):
        Hybrid(density=STEPS)(plain, batch(4), Rng.of(range(4)), 0)
