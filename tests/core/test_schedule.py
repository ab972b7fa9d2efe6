"""Schedules against published tables, derived again here with numpy."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from unnoise.core.level import Level
from unnoise.core.schedule import (
    Cosine,
    Karras,
    Linear,
    Rectified,
    ScaledLinear,
    Schedule,
    Shifted,
    Sigmoid,
    Table,
    ZeroTerminal,
)

D = torch.float64
INF = math.inf
CLEAN_AT_0: list[Schedule] = [
    Linear(),
    ScaledLinear(),
    Table((0.1, 0.2, 0.3)),
    ZeroTerminal(Linear()),
    ZeroTerminal(ScaledLinear()),
    Cosine(),
    Cosine(0.0),
    Cosine(0.05),
    Sigmoid(),
    Sigmoid(0.0, 3.0, 0.7),
    Sigmoid(-3.0, 3.0, 0.3),
    Rectified(),
    Shifted(Cosine(0.0), -2.0),
    Shifted(Rectified(), 1.0, "flow"),
    Shifted(Cosine(), 1.0, "ve"),
]
NOISE_AT_1: list[Schedule] = [
    ZeroTerminal(Linear()),
    Cosine(),
    Cosine(0.0),
    Sigmoid(),
    Sigmoid(0.0, 3.0, 0.7),
    Rectified(),
    Shifted(Cosine(), -2.0),
    Shifted(Rectified(), -2.0, "flow"),
]


def alphabar(schedule: Schedule, k: NDArray[Any], steps: int = 1000) -> NDArray[np.float64]:
    level = schedule(torch.from_numpy(np.asarray(k, dtype=np.float64)) / steps)
    return (level.alpha**2).numpy()


def test_linear_is_ddpm_table() -> None:
    """alphabar_1000 = 4.0358e-05, as published checkpoints carry it."""
    betas = np.linspace(1e-4, 0.02, 1000)
    want = np.cumprod(1 - betas)
    got = alphabar(Linear(), np.arange(1, 1001))
    np.testing.assert_allclose(got, want, rtol=1e-10)
    golden = {1: 0.9999, 2: 0.999780092, 1000: 4.0358e-05}
    for k, value in golden.items():
        assert got[k - 1] == pytest.approx(value, rel=2e-5)
    assert len(Linear().alphas()) == 1001 and Linear().alphas().dtype == D


def test_scaled_linear_is_stable_diffusion_table() -> None:
    """alphabar_1000 = 0.0046601: sigma / alpha = 14.6146, the figure that its samplers start from."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    got = alphabar(ScaledLinear(), np.arange(1, 1001))
    np.testing.assert_allclose(got, np.cumprod(1 - betas), rtol=1e-11)
    assert got[-1] == pytest.approx(0.0046601, rel=1e-6) and got[0] == pytest.approx(0.99915, rel=1e-9)
    assert math.sqrt((1 - got[-1]) / got[-1]) == pytest.approx(14.6146, abs=1e-4)


def test_table_is_the_product_of_its_betas_with_alpha_linear_between() -> None:
    table = Table((0.1, 0.5, 0.25))
    want = np.sqrt([1, 0.9, 0.45, 0.3375])
    np.testing.assert_allclose(table.alphas().numpy(), want, rtol=1e-15)
    middle = table(torch.tensor([0.5, 2.5], dtype=D) / 3)
    np.testing.assert_allclose(middle.alpha.numpy(), [(want[0] + want[1]) / 2, (want[2] + want[3]) / 2], rtol=1e-14)
    np.testing.assert_allclose((middle.alpha**2 + middle.sigma**2).numpy(), 1, rtol=1e-15)


def test_cosine_equals_iddpm_table_but_for_the_clipped_last_beta() -> None:
    """Nichol & Dhariwal clip beta at .999: every entry but the last is the continuous curve."""
    f = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    betas = np.minimum(1 - f[1:] / f[:-1], 0.999)
    assert (betas == 0.999).sum() == 1
    got = alphabar(Cosine(), np.arange(1, 1001))
    np.testing.assert_allclose(got[:-1], np.cumprod(1 - betas)[:-1], rtol=1e-9)
    assert got[-1] == 0.0
    assert alphabar(Cosine(), np.array([500]))[0] == pytest.approx(0.4938, abs=1e-4)


def test_cosine_without_offset_is_the_angle() -> None:
    t = torch.linspace(0, 1, 101, dtype=D)
    level = Cosine(0.0)(t)
    np.testing.assert_allclose(torch.atan2(level.sigma, level.alpha).numpy(), t.numpy() * math.pi / 2, atol=2e-14)


@pytest.mark.parametrize("start, end, tau", [(-3.0, 3.0, 1.0), (0.0, 3.0, 0.7), (-3.0, 3.0, 0.3)])
def test_sigmoid_is_chen_2023_algorithm_1(start: float, end: float, tau: float) -> None:
    def sigmoid(u: Any) -> Any:
        return 1 / (1 + np.exp(-u / tau))

    t = np.linspace(0, 1, 1001)
    want = (sigmoid(end) - sigmoid(start + t * (end - start))) / (sigmoid(end) - sigmoid(start))
    np.testing.assert_allclose(alphabar(Sigmoid(start, end, tau), t, 1), want, rtol=1e-11, atol=1e-15)
    level = Sigmoid(start, end, tau)(torch.from_numpy(t))
    np.testing.assert_allclose((level.alpha**2 + level.sigma**2).numpy(), 1, rtol=1e-13)


@pytest.mark.parametrize("table", [Linear(), ScaledLinear(), Table((0.1, 0.2, 0.5))])
def test_zero_terminal_is_lin_2023_algorithm_1(table: Any) -> None:
    alphas = table.alphas().numpy()[1:]
    want = (alphas - alphas[-1]) * (alphas[0] / (alphas[0] - alphas[-1]))
    got = ZeroTerminal(table).alphas().numpy()
    np.testing.assert_allclose(got[1:], want, rtol=1e-13, atol=0)
    assert got[0] == 1.0 and got[-1] == 0.0
    assert got[1] == pytest.approx(alphas[0], rel=4e-16)
    last = ZeroTerminal(table)(torch.ones((), dtype=D))
    assert float(last.alpha) == 0.0 and float(last.sigma) == 1.0


def test_karras_is_edm_eq_5() -> None:
    """The table of 18 steps that EDM's CIFAR-10 figures were made with."""
    published = [80, 57.586, 40.786, 28.375, 19.352, 12.910, 8.4009, 5.3147, 3.2566, 1.9233, 1.0882, 0.5853, 0.2964]
    published += [0.13951, 0.05999, 0.02291, 0.00754, 0.002]
    i = np.arange(18)
    want = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(want, published, rtol=3e-3)
    level = Karras()(torch.linspace(1, 0, 18, dtype=D))
    np.testing.assert_allclose(level.sigma.numpy(), want, rtol=1e-12)
    assert torch.equal(level.alpha, torch.ones(18, dtype=D))


@pytest.mark.parametrize("s", [0.5, 3.0])
def test_shifted_is_stable_diffusion_3_time_shift(s: float) -> None:
    """t' = s t / (1 + (s - 1) t) on the rectified path."""
    t = torch.linspace(0, 1, 101, dtype=D)
    level = Shifted(Rectified(), -2 * math.log(s), "flow")(t)
    want = s * t / (1 + (s - 1) * t)
    torch.testing.assert_close(level.sigma, want, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(level.alpha, 1 - want, rtol=1e-12, atol=1e-15)


def test_shifted_is_simple_diffusion_log_snr_shift() -> None:
    """logsnr = -2 log tan(pi t / 2) + 2 log(64 / 256)."""
    t = torch.linspace(0.001, 0.999, 101, dtype=D)
    got = Shifted(Cosine(0.0), 2 * math.log(64 / 256))(t).logsnr
    torch.testing.assert_close(got, -2 * (math.pi * t / 2).tan().log() + 2 * math.log(64 / 256), rtol=1e-11, atol=1e-11)


def test_rectified_is_the_straight_line() -> None:
    t = torch.linspace(0, 1, 11, dtype=D)
    level = Rectified()(t)
    assert torch.equal(level.alpha, 1 - t) and torch.equal(level.sigma, t)


@pytest.mark.parametrize("dtype", [D, torch.float32])
@pytest.mark.parametrize("schedule", CLEAN_AT_0, ids=str)
def test_clean_at_0_to_the_bit_for_any_shape(schedule: Schedule, dtype: torch.dtype) -> None:
    for t in (torch.zeros((), dtype=dtype), torch.linspace(1, 0, 101, dtype=dtype), torch.zeros(3, 1, dtype=dtype)):
        level = schedule(t)
        assert level.alpha.shape == t.shape and level.alpha.dtype == dtype
        assert float(level.alpha.reshape(-1)[-1]) == 1.0 and float(level.sigma.reshape(-1)[-1]) == 0.0


@pytest.mark.parametrize("dtype", [D, torch.float32])
@pytest.mark.parametrize("schedule", NOISE_AT_1, ids=str)
def test_pure_noise_at_1_to_the_bit(schedule: Schedule, dtype: torch.dtype) -> None:
    for t in (torch.ones((), dtype=dtype), torch.linspace(0, 1, 101, dtype=dtype)):
        level = schedule(t)
        assert float(level.alpha.reshape(-1)[-1]) == 0.0 and float(level.sigma.reshape(-1)[-1]) == 1.0


@pytest.mark.parametrize("schedule", [*CLEAN_AT_0, Karras()], ids=str)
def test_log_snr_falls_strictly_in_t(schedule: Schedule) -> None:
    logsnr = schedule(torch.linspace(0, 1, 4001, dtype=D)).logsnr
    assert not bool(torch.isnan(logsnr).any())
    assert bool((logsnr[1:] < logsnr[:-1]).all())


def test_cosine_is_accurate_to_float64_near_both_ends() -> None:
    """Against sigma^2 = sin(q - p) sin(q + p) / cos^2(p), which has no cancellation."""
    for t in (1e-3, 1e-2, 0.5, 0.99, 1 - 1e-6):
        level = Cosine()(torch.tensor(t, dtype=D))
        p, q = (u / 1.008 * math.pi / 2 for u in (0.008, t + 0.008))
        assert float(level.sigma) == pytest.approx(
            math.sqrt(math.sin(q - p) * math.sin(q + p)) / math.cos(p), rel=1e-11
        )
        assert float(level.alpha) == pytest.approx(math.sin(math.pi / 2 - q) / math.cos(p), rel=1e-9)


def test_schedules_are_computed_in_the_dtype_of_t() -> None:
    for schedule in CLEAN_AT_0:
        wide = schedule(torch.tensor(0.3, dtype=D))
        narrow = schedule(torch.tensor(0.3))
        assert wide.alpha.dtype == D and narrow.alpha.dtype == torch.float32
        assert float(wide.alpha) == pytest.approx(float(narrow.alpha), rel=1e-5)


BAD: list[tuple[Any, str]] = [
    (lambda: Linear(start=0.0), "0.0"),
    (lambda: Linear(end=1.5), "1.5"),
    (lambda: Linear(start=0.03), "0.03"),
    (lambda: Linear(steps=0), "got 0"),
    (lambda: ScaledLinear(start=-0.1), "-0.1"),
    (lambda: Table((0.1, 1.0)), "1.0 at step 1"),
    (lambda: Table((0.1, math.nan)), "nan at step 1"),
    (lambda: Table(()), "none"),
    (lambda: ZeroTerminal(Table((0.5,))), "two steps"),
    (lambda: Sigmoid(start=3.0, end=-3.0), "3.0, -3.0"),
    (lambda: Sigmoid(tau=0.0), "0.0"),
    (lambda: Karras(sigma_min=0.0), "0.0"),
    (lambda: Karras(sigma_max=0.001), "0.001"),
    (lambda: Karras(rho=-7.0), "-7.0"),
]


@pytest.mark.parametrize("make, said", BAD, ids=[said for _, said in BAD])
def test_invalid_arguments_raise_with_the_value(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


def test_gradients_of_the_log_snr_exist_inside() -> None:
    """The densities differentiate schedules."""
    for schedule in (Cosine(), Sigmoid(), Rectified(), Linear(), Shifted(Cosine(), 1.0)):
        t = torch.linspace(0.05, 0.95, 19, dtype=D).requires_grad_()
        level: Level = schedule(t)
        (slope,) = torch.autograd.grad(level.logsnr.sum(), t)
        assert bool(torch.isfinite(slope).all()) and bool((slope < 0).all())
