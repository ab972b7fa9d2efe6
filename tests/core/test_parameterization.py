"""Parameterizations: their tables, their targets, their frames."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unnoise.core.denoiser import Preconditioned
from unnoise.core.exact import Normal
from unnoise.core.level import Level
from unnoise.core.noise import Angle
from unnoise.core.parameterization import X0, Edm, Eps, Flow, V
from unnoise.core.process import Gaussian
from unnoise.core.rng import Rng
from unnoise.core.schedule import Rectified
from unnoise.sample.driver import sample
from unnoise.sample.ode import Euler

D = torch.float64
ALL: list[Any] = [Eps(), X0(), V(), Flow(), Edm(), Edm(1.3)]
A, S = 0.28, 0.96


class Fn(nn.Module):
    """A function as a network."""

    def __init__(self, f: Any) -> None:
        super().__init__()
        self.f = f

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return self.f(x, noise)


def draw(path: int, n: int = 6) -> Tensor:
    return Rng.of(range(n)).fold(path).normal(torch.zeros(n, 3, dtype=D))


@pytest.mark.parametrize("p", ALL, ids=str)
@pytest.mark.parametrize("k", [1e-3, 3.7, 250.0])
def test_denoisers_do_not_depend_on_the_frame(p: Any, k: float) -> None:
    """D(k x; k alpha, k sigma) = D(x; alpha, sigma)."""
    model = Preconditioned(Fn(lambda h, n: h * 1.3 + h.sin() + n[:, None]), p, interval=(-20.0, 20.0))
    x = draw(0)
    for level in (Level.of(A, S), Level.of(0.999, 0.04), Level.of(0.01, 1.0)):
        scaled = Level(k * level.alpha, k * level.sigma)
        torch.testing.assert_close(model(k * x, scaled).x0, model(x, level).x0, rtol=1e-11, atol=1e-13)


KNOWN = [
    (Eps(), (1.0, 1 / A, -S / A)),
    (X0(), (1.0, 0.0, 1.0)),
    (V(), (1.0, A, -S)),
    (Flow(), (1 / (A + S), 1 / (A + S), -S / (A + S))),
]


@pytest.mark.parametrize("p, want", KNOWN, ids=str)
def test_coefficients_in_the_variance_preserving_frame(p: Any, want: tuple[float, ...]) -> None:
    assert [float(c) for c in p(Level.of(A, S))] == pytest.approx(want, rel=1e-14)


@pytest.mark.parametrize("sigma", [0.002, 0.5, 80.0])
@pytest.mark.parametrize("s", [0.5, 1.0])
def test_edm_is_the_table_of_karras(sigma: float, s: float) -> None:
    c = Edm(s)(Level.of(1.0, sigma))
    m = sigma**2 + s**2
    want = (1 / math.sqrt(m), s**2 / m, sigma * s / math.sqrt(m))
    assert [float(v) for v in c] == pytest.approx(want, rel=1e-14)


def target(p: Any, x0: Tensor, eps: Tensor, level: Level) -> Tensor:
    """F*, as minus the residual of a network that answers 0."""
    return -Preconditioned(Fn(lambda x, n: torch.zeros_like(x)), p, interval=(-50.0, 50.0)).residual(x0, eps, level)


@pytest.mark.parametrize("k", [1.0, 3.0])
def test_derived_targets_are_what_the_papers_predict(k: float) -> None:
    x0, eps = draw(1), draw(2)
    level = Level.of(k * A, k * S)
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(target(Eps(), x0, eps, level), eps, **close)
    torch.testing.assert_close(target(X0(), x0, eps, level), x0, **close)
    torch.testing.assert_close(target(V(), x0, eps, level), A * eps - S * x0, **close)
    torch.testing.assert_close(target(Flow(), x0, eps, level), eps - x0, **close)
    s = 0.5
    edm = (x0 - A * s**2 / (A**2 * s**2 + S**2) * (A * x0 + S * eps)) * math.sqrt(A**2 * s**2 + S**2) / (S * s)
    torch.testing.assert_close(target(Edm(s), x0, eps, level), edm, **close)


def test_edm_target_and_input_have_unit_variance_at_every_level() -> None:
    x0, eps = 0.7 * draw(1, 40000), draw(2, 40000)
    for sigma in (0.01, 0.7, 30.0):
        level = Level.of(1.0, sigma)
        assert float(target(Edm(0.7), x0, eps, level).var()) == pytest.approx(1, rel=0.03)
        assert float((Edm(0.7)(level).c_in * (x0 + sigma * eps)).var()) == pytest.approx(1, rel=0.03)


@pytest.mark.parametrize("p", ALL, ids=str)
def test_a_perfect_network_gives_the_data_back(p: Any) -> None:
    """x0_hat = c_skip x + c_out F* for any level with signal and noise."""
    x0, eps = draw(1), draw(2)
    for a, s in ((A, S), (0.9, 1e-3), (1.0, 30.0)):
        level = Level.of(a, s)
        f = target(p, x0, eps, level)
        model = Preconditioned(Fn(lambda x, n, f=f: f), p, interval=(-50.0, 50.0))
        torch.testing.assert_close(model(a * x0 + s * eps, level).x0, x0, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("p", [p for p in ALL if not p.needs_signal], ids=str)
def test_coefficients_are_finite_on_pure_noise_where_claimed(p: Any) -> None:
    for level in (Level.of(0.0, 1.0), Level.of(0.0, 7.0), Level.of(1.0, 0.0)):
        assert all(math.isfinite(float(c)) for c in p(level))


def test_eps_on_pure_noise_is_refused_at_construction() -> None:
    """Pitfall 4: eps with zero terminal SNR is an error, not an infinity that clipping hides."""
    net = Fn(lambda x, n: x)
    for interval in ((-math.inf, math.inf), (-math.inf, 5.0)):
        with pytest.raises(ValueError, match=r"Eps .*alpha = 0.*-inf"):
            Preconditioned(net, Eps(), interval=interval)
    with pytest.raises(ValueError, match="Eps"):
        Preconditioned(net, Eps())
    Preconditioned(net, Eps(), interval=(-12.0, 12.0))
    for p in ALL[1:]:
        Preconditioned(net, p)


def test_a_velocity_of_the_other_time_convention_samples_the_same() -> None:
    """Pitfall 11: t = 0 is data here; a field v = data - noise with data at time 1 is wrapped in one line."""
    data = Normal(0.7, 0.4)

    def velocity(x: Tensor, time: Tensor) -> Tensor:
        """E[data - noise | x], x = time data + (1 - time) noise."""
        time = time.reshape(-1, 1)
        x1 = data(x, Level(time, 1 - time)).x0
        return x1 - (x - time * x1) / (1 - time)

    def adapted(x: Tensor, angle: Tensor) -> Tensor:
        t = angle.sin() / (angle.sin() + angle.cos())
        return -velocity(x, 1 - t)

    x = draw(3)
    model = Preconditioned(Fn(adapted), Flow(), Angle())
    grid = Rectified()(torch.linspace(1, 0, 13, dtype=D))
    *_, last = sample(Euler(), Gaussian(), model, x, grid, Rng.of(range(6)))
    *_, ours = sample(Euler(), Gaussian(), data, x, grid, Rng.of(range(6)))
    y = x
    for k in range(12):
        y = y + velocity(y, torch.full((6,), k / 12, dtype=D)) / 12
    torch.testing.assert_close(last.x, y, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(last.x, ours.x, rtol=1e-12, atol=1e-13)
    assert float((last.x - 0.7).abs().max()) < 2, "and these are samples of the data, not of the noise"


def test_sigma_data_must_be_positive() -> None:
    for value in (0.0, -0.5, math.nan):
        with pytest.raises(ValueError, match=str(value)):
            Edm(value)
