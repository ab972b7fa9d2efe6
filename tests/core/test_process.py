"""The Gaussian process: composition of its kernels, DDPM's and DDIM's formulas, mix and pin."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unnoise.core.estimate import Estimate
from unnoise.core.exact import Normal
from unnoise.core.level import CLEAN, Level
from unnoise.core.process import Gaussian
from unnoise.core.rng import Rng
from unnoise.core.schedule import Linear

D = torch.float64
P = Gaussian()


def draw(n: int, path: int = 0) -> Tensor:
    return Rng.of(range(n)).fold(path).normal(torch.zeros(n, 1, dtype=D))


def moments(kernel: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of a kernel x -> mean + std z, from its affine use of known noise."""

    class Fixed(Gaussian):
        value: float = 0.0

        def noise(self, like: Tensor, rng: Rng) -> Tensor:
            return torch.full_like(like, self.value)

    results = []
    for value in (0.0, 1.0):
        process = Fixed()
        object.__setattr__(process, "value", value)
        results.append(kernel(process, x))
    return results[0], results[1] - results[0]


LEVELS = [
    (Level.of(1.0, 0.0), Level.of(0.8, 0.6), Level.of(0.28, 0.96)),
    (Level.of(1.0, 0.1), Level.of(1.0, 2.0), Level.of(1.0, 50.0)),
    (Level.of(0.9, 0.1), Level.of(0.5, 0.5), Level.of(0.0, 1.0)),
    (Level.of(0.9, 0.1), Level.of(0.0, 1.0), Level.of(0.0, 1.0)),
    (Level.of(2.0, 0.1), Level.of(0.8, 0.6), Level.of(0.3, 30.0)),
]


@pytest.mark.parametrize("a, b, c", LEVELS)
def test_forward_composes_in_mean_and_variance(a: Level, b: Level, c: Level) -> None:
    """q(c | a) = q(c | b) q(b | a)."""
    x, rng = draw(4), Rng.of(range(4))
    direct, spread = moments(lambda p, y: p.forward(y, a, c, rng), x)
    halfway, first = moments(lambda p, y: p.forward(y, a, b, rng), x)
    twice, second = moments(lambda p, y: p.forward(y, b, c, rng), halfway)
    gain = moments(lambda p, y: p.forward(y, b, c, rng), torch.ones_like(x))[0]
    torch.testing.assert_close(twice, direct, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close((gain * first) ** 2 + second**2, spread**2, rtol=1e-12, atol=1e-15)


def test_forward_composes_statistically_with_independent_noise() -> None:
    n = 40000
    rng, x0 = Rng.of(range(n)), draw(n, 9)
    a, b = Level.of(0.9, 0.3), Level.of(0.4, 0.8)
    y = P.forward(P.forward(x0, CLEAN, a, rng.fold(1)), a, b, rng.fold(2))
    noise = (y - 0.4 * x0) / 0.8
    assert float(noise.mean()) == pytest.approx(0, abs=4 / math.sqrt(n))
    assert float(noise.var()) == pytest.approx(1, abs=4 * math.sqrt(2 / n))
    assert float((noise * x0).mean()) == pytest.approx(0, abs=4 / math.sqrt(n))


def test_forward_from_clean_is_the_definition_of_a_level() -> None:
    x, rng, level = draw(5), Rng.of(range(5)), Level.of(0.3, 0.7)
    torch.testing.assert_close(P.forward(x, CLEAN, level, rng), 0.3 * x + 0.7 * P.noise(x, rng), rtol=1e-14, atol=0)
    assert torch.equal(P.forward(x, level, level, rng), x)


def test_forward_to_pure_noise_forgets_everything() -> None:
    rng = Rng.of(range(3))
    top = Level.of(0.0, 1.0)
    assert torch.equal(P.forward(draw(3), CLEAN, top, rng), P.forward(100 + draw(3), CLEAN, top, rng))


def test_forward_takes_a_level_for_every_frame() -> None:
    x = torch.ones(3, 3, 3, dtype=D)
    t = torch.tensor([0.1, 0.5, 0.9], dtype=D).reshape(1, 1, 3)
    mean, spread = moments(lambda p, y: p.forward(y, CLEAN, Level(1 - t, t), Rng.of(range(3))), x)
    torch.testing.assert_close(mean, (1 - t).expand(3, 3, 3), rtol=1e-14, atol=0)
    torch.testing.assert_close(spread, t.expand(3, 3, 3), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("var", ["small", "large"])
def test_backward_is_ddpm_posterior_at_every_step_of_the_table(var: Any) -> None:
    """Ho et al. 2020, eq. 7: the posterior's mean, beta-tilde (small) and beta (large)."""
    betas = np.linspace(1e-4, 0.02, 1000)
    alphabar = np.concatenate([[1.0], np.cumprod(1 - betas)])
    k = torch.arange(1, 1001, dtype=D) / 1000
    src, dst = Linear()(k), Linear()(k - 1e-3)
    dst = Level(dst.alpha, torch.where(k > 1e-3 + 1e-9, dst.sigma, torch.zeros_like(dst.sigma)))
    x, x0 = draw(1000, 1)[:, 0], draw(1000, 2)[:, 0]
    got, spread = moments(lambda p, y: p.backward(y, Estimate(x0), src, dst, Rng.of(range(1000)), var=var), x)
    before, after = alphabar[:-1], alphabar[1:]
    mean = np.sqrt(before) * betas / (1 - after) * x0.numpy()
    mean += np.sqrt(1 - betas) * (1 - before) / (1 - after) * x.numpy()
    np.testing.assert_allclose(got.numpy(), mean, rtol=1e-6, atol=1e-7)
    variance = betas * (1 - before) / (1 - after) if var == "small" else betas.copy()
    variance[0] = 0.0  # the last step is the mean
    np.testing.assert_allclose(spread.numpy() ** 2, variance, rtol=1e-6, atol=1e-15)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_backward_is_ddim_eq_12_and_16(eta: float) -> None:
    a, b = 0.3, 0.7  # alphabar of the source and of the destination
    src, dst = (Level.of(math.sqrt(u), math.sqrt(1 - u)) for u in (a, b))
    x, x0 = draw(6, 1), draw(6, 2)
    got, spread = moments(lambda p, y: p.backward(y, Estimate(x0), src, dst, Rng.of(range(6)), eta=eta), x)
    sigma = eta * math.sqrt((1 - b) / (1 - a)) * math.sqrt(1 - a / b)
    eps = (x - math.sqrt(a) * x0) / math.sqrt(1 - a)
    torch.testing.assert_close(got, math.sqrt(b) * x0 + math.sqrt(1 - b - sigma**2) * eps, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(spread, torch.full_like(x, sigma), rtol=1e-12, atol=1e-15)


def test_backward_after_forward_is_the_joint_normal() -> None:
    """q(x_a | x_b, x0) averaged over q(x_b | x0) is q(x_a | x0): mean alpha_a x0, variance sigma_a^2, for any eta."""
    a, b, x0 = Level.of(0.9, 0.3), Level.of(0.4, 0.8), draw(3, 1)
    rng = Rng.of(range(3))
    for eta in (0.0, 0.5, 1.0):
        middle, s1 = moments(lambda p, y: p.forward(y, CLEAN, b, rng), x0)
        mean, s2 = moments(lambda p, y, e=eta: p.backward(y, Estimate(x0), b, a, rng, eta=e), middle)
        up = moments(lambda p, y, e=eta: p.backward(y, Estimate(x0), b, a, rng, eta=e), middle + s1)[0]
        torch.testing.assert_close(mean, 0.9 * x0, rtol=1e-13, atol=1e-15)
        torch.testing.assert_close((up - mean) ** 2 + s2**2, torch.full_like(x0, 0.09), rtol=1e-12, atol=0)


def test_learned_variance_with_the_exact_one_is_the_exact_kernel() -> None:
    """For normal data, q(x_dst | x_src) is normal with known moments; and "large" is that of standard normal data."""
    std = 0.4
    src, dst = Level.of(0.5, 1.1), Level.of(0.8, 0.3)
    x, rng = draw(5), Rng.of(range(5))
    for denoise, kind, s in ((Normal(0.0, std), "learned", std), (Normal(0.0, 1.0), "large", 1.0)):
        est = denoise(x, src)
        got, spread = moments(lambda p, y, e=est, k=kind: p.backward(y, e, src, dst, rng, var=k), x)
        r = float(src.alpha / dst.alpha)  # x_src = r x_dst + noise
        before = (0.8 * s) ** 2 + 0.3**2
        total = (0.5 * s) ** 2 + 1.1**2
        torch.testing.assert_close(got, r * before / total * x, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(
            spread**2, torch.full_like(x, before - (r * before) ** 2 / total), rtol=1e-12, atol=0
        )


def test_learned_variance_needs_one() -> None:
    x = draw(2)
    with pytest.raises(ValueError, match=r"Var\[x0 \| x\]"):
        P.backward(x, Estimate(x), Level.of(0.6, 0.8), Level.of(0.8, 0.6), Rng.of(range(2)), var="learned")


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("var", ["small", "large", "learned"])
@pytest.mark.parametrize("src", [Level.of(0.6, 0.8), Level.of(0.0, 1.0), Level.of(1.0, 80.0)], ids=str)
def test_the_last_step_is_the_estimate_to_the_bit(eta: float, var: Any, src: Level) -> None:
    x, x0 = draw(8, 1), draw(8, 2)
    est = Estimate(x0, torch.ones_like(x0))
    assert torch.equal(P.backward(x, est, src, CLEAN, Rng.of(range(8)), eta=eta, var=var), x0)


@pytest.mark.parametrize("var", ["small", "large", "learned"])
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_backward_and_forward_do_not_depend_on_the_frame(eta: float, var: Any) -> None:
    x, rng = draw(6, 1), Rng.of(range(6))
    src, dst, k, m = Level.of(0.5, 0.9), Level.of(0.8, 0.4), 3.7, 0.2
    est = Estimate(draw(6, 2), torch.full_like(x, 0.3))

    def scaled(level: Level, by: float) -> Level:
        return Level(by * level.alpha, by * level.sigma)

    plain = P.backward(x, est, src, dst, rng, eta=eta, var=var)
    other = P.backward(k * x, est, scaled(src, k), scaled(dst, m), rng, eta=eta, var=var)
    torch.testing.assert_close(other, m * plain, rtol=1e-12, atol=1e-14)
    up = P.forward(x, dst, src, rng)
    torch.testing.assert_close(P.forward(k * x, scaled(dst, k), scaled(src, m), rng), m * up, rtol=1e-12, atol=1e-14)


def test_mix_is_linear_and_takes_tensors() -> None:
    a, b, c = (Estimate(draw(4, i), torch.full((4, 1), float(i), dtype=D)) for i in range(3))
    mixed = P.mix([a, b, c], [-2.0, torch.arange(4.0, dtype=D).reshape(4, 1), 0.5])
    want = -2 * a.x0 + torch.arange(4.0, dtype=D).reshape(4, 1) * b.x0 + 0.5 * c.x0
    torch.testing.assert_close(mixed.x0, want, rtol=1e-14, atol=1e-15)
    assert mixed.var is c.var
    with pytest.raises(ValueError):
        P.mix([a, b], [1.0])


def test_pin_puts_what_is_known_in_its_place_with_no_variance() -> None:
    est, y = Estimate(draw(4, 1), torch.ones(4, 1, dtype=D)), draw(4, 2)
    mask = torch.tensor([[True], [False], [True], [False]])
    pinned = P.pin(est, y, mask)
    assert pinned.var is not None
    assert torch.equal(pinned.x0[::2], y[::2]) and torch.equal(pinned.x0[1::2], est.x0[1::2])
    assert pinned.var.flatten().tolist() == [0.0, 1.0, 0.0, 1.0]
    assert P.pin(Estimate(est.x0), y, mask).var is None
