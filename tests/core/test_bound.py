"""The variational bound against likelihoods in closed form: of normal data, of quantised normal data."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from unnoise.core.bound import Nats, bound, bounds
from unnoise.core.condition import Codec
from unnoise.core.estimate import Estimate
from unnoise.core.exact import Mixture, Normal
from unnoise.core.lattice import Lattice
from unnoise.core.level import Level
from unnoise.core.process import Gaussian
from unnoise.core.rng import Rng
from unnoise.core.schedule import Cosine, Linear, Rectified
from unnoise.core.space import Padded, ZeroCoM
from unnoise.modality import Image
from unnoise.modality.plain import Plain
from unnoise.sample.grids import KarrasGrid

D = torch.float64
MEAN, STD = 0.7, 0.4
DATA = Normal(MEAN, STD)
POINTS = torch.tensor([[-0.6], [0.3], [0.75], [1.4]], dtype=D)


def cosine(steps: int) -> Level:
    return Cosine()(torch.linspace(1, 0, steps + 1, dtype=D))


def nll(x: Tensor) -> Tensor:
    """Of one element of normal data, in nats."""
    return ((x - MEAN) / STD) ** 2 / 2 + math.log(STD) + 0.5 * math.log(2 * math.pi)


def repeated(levels: Level, draws: int, points: Tensor = POINTS, **settings: Any) -> tuple[Tensor, Tensor]:
    """Mean and standard error of the bound of each point over draws."""
    x0 = points.repeat_interleave(draws, 0)
    total = bound(Gaussian(), DATA, x0, levels, Rng.of(range(len(x0))), **settings).total.reshape(len(points), draws)
    return total.mean(1), total.std(1) / math.sqrt(draws)


GRIDS = {
    "1 step": cosine(1),
    "2 steps": cosine(2),
    "3 steps": cosine(3),
    "40 steps": cosine(40),
    "flow": Rectified()(torch.linspace(1, 0, 5, dtype=D)),
    "uneven": Cosine(0.0)(torch.tensor([1.0, 0.97, 0.3, 0.29, 0.02, 0.0], dtype=D)),
}


@pytest.mark.parametrize("name", GRIDS)
def test_it_is_the_likelihood_of_normal_data_on_every_grid(name: str) -> None:
    """With the exact Var[x0 | x] every step is exact: nothing is lost, however long the step."""
    mean, error = repeated(GRIDS[name], 4000, var="learned")
    assert bool(((mean - nll(POINTS[:, 0])).abs() < 4.5 * error + 1e-9).all())
    assert float(error.max()) < 0.05


def test_the_small_variance_loses_what_the_steps_are_too_long_for() -> None:
    """A normal p of the right mean and variance s in the place of v loses (v / s - 1 - log(v / s)) / 2 on average."""
    x0 = MEAN + STD * Rng.of(range(4000)).normal(torch.zeros(4000, 1, dtype=D))
    for steps in (6, 24):
        grid, gap = cosine(steps), 0.0
        found = bounds(Gaussian(), DATA, x0, grid, Rng.of(range(len(x0))).fold(1), variances=("learned", "small"))
        for k in range(steps - 1):
            (a, s), (b, r) = ((float(v.alpha[i]), float(v.sigma[i])) for v, i in ((grid, k), (grid, k + 1)))
            small = r**2 * (1 - (a * r / (b * s)) ** 2)
            gain = b - a * (a / b) * (r / s) ** 2
            v = small + gain**2 * STD**2 * s**2 / (a**2 * STD**2 + s**2)
            gap += (v / small - 1 - math.log(v / small)) / 2
        steps_only = found["small"].steps.sum(1) - found["learned"].steps.sum(1)
        error = float(steps_only.std()) / math.sqrt(len(x0))
        assert gap > 0.15
        assert float(steps_only.mean()) == pytest.approx(gap, abs=5 * error)


def test_the_large_variance_is_exact_for_standard_normal_data() -> None:
    x0 = POINTS.repeat_interleave(4000, 0)
    total = bound(Gaussian(), Normal(), x0, cosine(3), Rng.of(range(len(x0))), var="large").total.reshape(4, -1)
    want = POINTS[:, 0] ** 2 / 2 + 0.5 * math.log(2 * math.pi)
    assert bool(((total.mean(1) - want).abs() < 4.5 * total.std(1) / math.sqrt(4000)).all())


def test_a_grid_that_begins_with_signal_pays_for_the_prior() -> None:
    """KL(N(alpha x0, sigma^2) || N(0, sigma^2)), and no bound is below the likelihood."""
    grid = Linear()(torch.linspace(0.5, 0, 6, dtype=D))
    a, s = float(grid.alpha[0]), float(grid.sigma[0])
    x0 = torch.tensor([[1.0, -2.0, 0.5]], dtype=D)
    nats = bound(Gaussian(), DATA, x0, grid, Rng.of([0]), var="learned")
    assert float(nats.prior) == pytest.approx((1 + 4 + 0.25) * (a / s) ** 2 / 2, rel=1e-12)
    data = MEAN + STD * Rng.of(range(4000)).normal(torch.zeros(4000, 1, dtype=D))
    total = bound(Gaussian(), DATA, data, grid, Rng.of(range(4000)), var="learned").total
    assert float(total.mean()) > float(nll(data[:, 0]).mean()) + 0.01


def test_a_correlated_truth_bounds_above_its_likelihood() -> None:
    """Elements that a step draws independently are dependent given x: the bound is loose, tight in the limit."""
    means = torch.tensor([[-1.0, -1.0], [1.0, 1.0]], dtype=D)
    data = Mixture(means, [0.25, 0.25])
    rng = Rng.of(range(3000))
    side = (rng.fold(7).uniform(torch.zeros(3000, dtype=D)) < 0.5).long()
    x0 = means[side] + 0.25 * rng.fold(8).normal(torch.zeros(3000, 2, dtype=D))
    square = (x0[:, None] - means).square().sum(-1) / 0.25**2
    truth = -float(((-square / 2).logsumexp(1) - math.log(2) - math.log(2 * math.pi * 0.25**2)).mean())
    found = [float(bound(Gaussian(), data, x0, cosine(k), rng, var="learned").total.mean()) for k in (2, 8, 128)]
    assert found[0] > found[1] > found[2] > truth - 0.03
    assert found[0] > truth + 0.1 and found[2] < truth + 0.06


def test_no_bit_depends_on_the_frame_beyond_rounding() -> None:
    """Every level of a grid scaled by a factor of its own."""
    grid = cosine(6)
    k = torch.tensor([0.5, 3.0, 1.7, 100.0, 1e-3, 0.9, 2.0], dtype=D)
    scaled = Level(grid.alpha * k, grid.sigma * k)
    x0 = POINTS.repeat(3, 2)
    for lattice in (None, Lattice(5, 0.25)):
        x = x0 if lattice is None else 0.25 * (x0 / 0.25).round().clamp(-2, 2)
        a, b = (
            bounds(Gaussian(), DATA, x, g, Rng.of(range(12)), variances=("learned", "small", "large"), lattice=lattice)
            for g in (grid, scaled)
        )
        for var in a:
            torch.testing.assert_close(a[var].steps, b[var].steps, rtol=1e-9, atol=1e-10)
            torch.testing.assert_close(a[var].total, b[var].total, rtol=1e-9, atol=1e-10)


def test_a_row_does_not_depend_on_its_batch() -> None:
    x0, rng = POINTS.repeat(1, 3), Rng.of(range(4))
    whole = bound(Gaussian(), DATA, x0, cosine(5), rng, var="learned")
    for rows in (slice(0, 1), slice(1, 3), slice(3, 4)):
        alone = bound(Gaussian(), DATA, x0[rows], cosine(5), rng[rows], var="learned")
        assert torch.equal(alone.total, whole.total[rows])


def test_variances_share_their_draws() -> None:
    x0, rng = POINTS, Rng.of(range(4))
    both = bounds(Gaussian(), DATA, x0, cosine(5), rng, variances=("small", "learned"))
    for var, nats in both.items():
        assert torch.equal(bound(Gaussian(), DATA, x0, cosine(5), rng, var=var).total, nats.total)


def test_elements_that_do_not_exist_do_not_count() -> None:
    x0 = POINTS.repeat(1, 3)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1]], dtype=torch.bool)
    nats = bound(Gaussian(Padded(mask)), DATA, x0, cosine(4), Rng.of(range(4)), var="learned")
    assert nats.elements.tolist() == [3, 2, 1, 3]
    for i in range(4):
        n = int(mask[i].sum())
        alone = bound(Gaussian(), DATA, x0[i : i + 1, :n], cosine(4), Rng.of([i]), var="learned")
        torch.testing.assert_close(nats.total[i : i + 1], alone.total, rtol=1e-12, atol=1e-12)


# Discrete data --------------------------------------------------------------------------------------------------------

LATTICE = Lattice(17, 0.125)
VALUES = 0.125 * (torch.arange(17, dtype=D) - 8)


@pytest.mark.parametrize("std", [1e-4, 0.03, 0.5, 40.0])
@pytest.mark.parametrize("mean", [-3.0, -0.19, 0.0, 0.99, 7.0])
def test_probabilities_of_bins_add_up_to_one(mean: float, std: float) -> None:
    log_p = LATTICE.log_mass(VALUES, torch.full_like(VALUES, mean), torch.full_like(VALUES, std))
    assert float(log_p.exp().sum()) == pytest.approx(1, rel=1e-12)


def test_a_bin_is_an_integral_of_the_normal_even_far_in_its_tails() -> None:
    """By quadrature, in log; the first and last bin have a whole tail."""
    mean, std = torch.tensor(0.05, dtype=D), torch.tensor(0.11, dtype=D)
    log_p = LATTICE.log_mass(VALUES, mean, std)
    for k, value in enumerate(VALUES.tolist()):
        low, high = value - 0.0625 - (3.0 if k == 0 else 0), value + 0.0625 + (3.0 if k == 16 else 0)
        edges = torch.linspace(low, high, 400_001, dtype=D)
        middle = (edges[1:] + edges[:-1]) / 2
        log_density = -0.5 * ((middle - mean) / std) ** 2 - std.log() - 0.5 * math.log(2 * math.pi)
        want = float(log_density.logsumexp(0)) + math.log((high - low) / 400_000)
        assert float(log_p[k]) == pytest.approx(want, abs=1e-6)
    mirrored = LATTICE.log_mass(-VALUES, -mean, std)
    assert torch.equal(log_p, mirrored)
    # 60 standard deviations away exp(log P) is 0 in float64: P itself could not have been subtracted.
    assert -2000 < float(LATTICE.log_mass(VALUES[12], VALUES[12] - 6.0, torch.tensor(0.1, dtype=D))) < -1600


def test_gradients_of_bins_are_finite_and_right() -> None:
    mean = torch.tensor([0.02, -5.0, 5.0, 0.5], dtype=D, requires_grad=True)
    std = torch.tensor([0.01, 0.2, 0.2, 3.0], dtype=D, requires_grad=True)
    x0 = VALUES[torch.tensor([8, 0, 0, 16])]
    assert torch.autograd.gradcheck(lambda m, s: LATTICE.log_mass(x0, m, s), (mean, std))


class Quantised:
    """The exact denoiser of N(mean, std^2) rounded to the lattice."""

    def __init__(self, lattice: Lattice, mean: float, std: float) -> None:
        values = lattice.step * (torch.arange(lattice.count, dtype=D) - (lattice.count - 1) / 2)
        self.values = values
        self.log_p = lattice.log_mass(values, torch.tensor(mean, dtype=D), torch.tensor(std, dtype=D))

    def __call__(self, x: Tensor, level: Level, cond: Any = None, *, to: Any = None) -> Estimate:
        level = level.like(x)
        log_q = -0.5 * ((x[..., None] - level.alpha * self.values) / level.sigma) ** 2
        p = (self.log_p + log_q).softmax(-1)
        mean = p @ self.values
        return Estimate(mean, p @ self.values**2 - mean**2 + 1e-12)


def test_the_bound_of_quantised_data_tends_to_their_likelihood() -> None:
    """-log P(k) in closed form: an integer's own probability, not a density."""
    lattice = Lattice(5, 0.5)
    data = Quantised(lattice, 0.2, 0.6)
    x0 = data.values.reshape(-1, 1).repeat_interleave(400, 0)
    p = data.log_p.exp()
    entropy = -float((p * data.log_p).sum())
    for steps in (12, 192):
        nats = bound(
            Gaussian(),
            data,  # type: ignore[arg-type]
            x0,
            cosine(steps),
            Rng.of(range(len(x0))),
            var="learned",
            lattice=lattice,
        )
        total = nats.total.reshape(5, -1)
        error = float((p**2 * total.var(1) / 400).sum().sqrt())
        excess = float((p * total.mean(1)).sum()) - entropy
        assert excess > -3 * error
        if steps == 12:
            assert excess > 2 * error, "a normal is not what a step needs here"
    assert excess < 0.025 * entropy and error < 0.01 * entropy
    assert float(nats.last.abs().max()) < 1e-6, "near clean data nothing is left to guess"


def test_lattices_of_codecs() -> None:
    digits, wide = Image((1, 8, 8), 0, 16), Image((3, 4, 4), 0, 255)
    for codec in (digits, wide):
        lattice = Lattice.of(codec)
        assert lattice is not None and isinstance(codec, Codec)
        raw = torch.arange(codec.bins, dtype=torch.uint8).reshape(-1, 1, 1, 1)
        k = lattice.index(codec.encode(raw))
        assert k.flatten().tolist() == list(range(codec.bins or 0))
    assert Lattice.of(Plain((3,), 2.0, 5.0)) is None
    assert Lattice.of(Image((1, 2, 2), 0, 1, "float32")) is None


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "levels",
    [
        Cosine()(torch.linspace(1, 0.1, 4, dtype=D)),
        Cosine()(torch.tensor([1.0, 0.2, 0.6, 0.0], dtype=D)),
        Cosine()(torch.tensor([1.0, 0.5, 0.5, 0.0], dtype=D)),
        Level(torch.ones(1, dtype=D), torch.zeros(1, dtype=D)),
    ],
)
def test_grids_that_are_no_way_from_noise_to_data_are_refused(levels: Level) -> None:
    with pytest.raises(ValueError, match="a bound needs a grid"):
        bound(Gaussian(), DATA, POINTS, levels, Rng.of(range(4)), var="learned")


def test_what_has_no_bound_is_refused() -> None:
    with pytest.raises(ValueError, match="ZeroCoM"):
        bound(Gaussian(ZeroCoM()), DATA, POINTS[..., None], cosine(3), Rng.of(range(4)))
    with pytest.raises(ValueError, match=r"0\.3 is none of the 5 values, 0\.25 apart"):
        bound(Gaussian(), DATA, POINTS[1:2], cosine(3), Rng.of([1]), lattice=Lattice(5, 0.25))

    def silent(x: Tensor, level: Level, cond: Any = None, *, to: Any = None) -> Estimate:
        return Estimate(DATA(x, level).x0)

    with pytest.raises(ValueError, match='var="learned" needs'):
        bound(Gaussian(), silent, POINTS, cosine(3), Rng.of(range(4)), var="learned")  # type: ignore[arg-type]
    for count, step in ((1, 1.0), (5, 0.0)):
        with pytest.raises(ValueError, match=f"got {count} and {step}"):
            Lattice(count, step)


def test_a_karras_grid_is_a_grid_like_any_other() -> None:
    """alpha = 1 throughout; what sigma_max leaves of the data costs little."""
    mean, error = repeated(KarrasGrid(0.01, 400.0)(12, (-math.inf, math.inf)), 4000, var="learned")
    assert bool(((mean - nll(POINTS[:, 0])).abs() < 4.5 * error + 1e-4).all())
    assert isinstance(bound(Gaussian(), DATA, POINTS, cosine(2), Rng.of(range(4))), Nats)
