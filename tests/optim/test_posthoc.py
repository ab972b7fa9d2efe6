"""Reconstruction of averages at other widths: closed-form inner products, and the error against averages tracked."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from unnoise.optim import Ema, gamma_of_width, reconstruct, snapshot_due
from unnoise.optim.posthoc import coefficients, inner

torch.set_num_threads(1)
STEPS, BATCH, TRACKED = 800, 32, (0.05, 0.10)


def walk(w: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return w + 0.01 * torch.randn(w.shape, generator=generator)


def noisy_training(w: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    optimum = torch.linspace(-2, 2, len(w))
    return w - 0.01 * (w - optimum) + 0.05 * torch.randn(w.shape, generator=generator)


def smooth_training(w: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return w - 0.003 * (w - torch.linspace(-2, 2, len(w)))


def linear_model(w: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A step of SGD on noisy linear regression, the inputs of unequal variances."""
    scales = torch.linspace(0.1, 1.0, len(w))
    x = torch.randn(BATCH, len(w), generator=generator) * scales
    error = x @ (w - torch.linspace(-2, 2, len(w))) + torch.randn(BATCH, generator=generator)
    return w - 0.01 * x.T @ error / BATCH


def simulate(step: Callable, widths: tuple[float, ...], tracked: tuple[float, ...] = TRACKED, dim: int = 500):
    """Averages of every width at the end of a run, and bf16 snapshots of the tracked ones."""
    generator = torch.Generator().manual_seed(0)
    w = 0.5 * torch.randn(dim, generator=generator)
    ema = Ema({"w": w}, (*tracked, *widths))
    snapshots = []
    for seen in range(BATCH, STEPS * BATCH + 1, BATCH):
        w = step(w, generator)
        ema.update({"w": w}, seen, BATCH)
        if snapshot_due(seen, BATCH) or seen == STEPS * BATCH:
            snapshots += [(seen, width, {"w": ema.state(width)["w"].bfloat16()}) for width in tracked]
    return ema, snapshots


@pytest.mark.parametrize("step", [walk, noisy_training, smooth_training, linear_model])
def test_untracked_widths_are_reconstructed_from_bf16_snapshots(step):
    bounds = {0.02: 0.06, 0.03: 0.03, 0.04: 0.01, 0.075: 0.005, 0.15: 0.008, 0.2: 0.01, 0.25: 0.01}
    ema, snapshots = simulate(step, tuple(bounds))
    gap = (ema.state(0.05)["w"] - ema.state(0.10)["w"]).norm()
    for width, bound in bounds.items():
        direct = ema.state(width)["w"]
        error = (reconstruct(snapshots, width, STEPS * BATCH)["w"] - direct).norm()
        print(
            f"{step.__name__:16} {width:5} {error / direct.norm():.1e} of the norm, {error / gap:.2f} of 0.05 to 0.10"
        )
        assert error <= bound * direct.norm()


def test_a_third_tracked_width_reaches_narrow_ones():
    ema, snapshots = simulate(noisy_training, (0.03,), tracked=(0.02, 0.05, 0.10))
    direct = ema.state(0.03)["w"]
    assert (reconstruct(snapshots, 0.03, STEPS * BATCH)["w"] - direct).norm() <= 5e-3 * direct.norm()


def test_tracked_widths_come_back_within_bf16():
    ema, snapshots = simulate(noisy_training, ())
    for width in TRACKED:
        direct = ema.state(width)["w"]
        assert (reconstruct(snapshots, width, STEPS * BATCH)["w"] - direct).norm() <= 2e-3 * direct.norm()


def test_constant_weights_are_exact_whatever_the_width():
    w = torch.linspace(-3, 5, 64).bfloat16()
    snapshots = [(seen, width, {"w": w}) for seen in (320, 640, 1_000) for width in TRACKED]
    for width in (0.03, 0.15, 0.25):
        torch.testing.assert_close(reconstruct(snapshots, width, 1_000)["w"], w.float(), rtol=1e-6, atol=0)


def test_coefficients_sum_to_one_and_do_not_blow_up():
    profiles = [(k, width) for k in range(1, 3_000) if snapshot_due(k, 1) for width in TRACKED]
    for width in (0.02, 0.05, 0.075, 0.15, 0.28):
        c = coefficients(profiles, width, profiles[-1][0])
        assert c.sum() == pytest.approx(1, abs=1e-9)
        assert np.abs(c).max() < 5


def test_a_snapshot_given_twice_is_no_trouble():
    profiles = [(500, 0.05), (1_000, 0.05), (1_000, 0.05), (1_000, 0.10), (500, 0.10)]
    c = coefficients(profiles, 0.05, 1_000)
    assert c == pytest.approx([0, 0.5, 0.5, 0, 0], abs=1e-3)


@pytest.mark.parametrize(("a", "b"), [((0.05, 1.0), (0.10, 0.5)), ((0.2, 0.3), (0.1, 0.3)), ((0.25, 0.2), (0.02, 1.0))])
def test_inner_product_is_the_integral(a, b):
    t = (np.arange(400_000) + 0.5) / 400_000

    def tail(width: float, end: float) -> np.ndarray:
        return np.where(t < end, 1 - (t / end) ** (gamma_of_width(width) + 1), 0.0)

    arguments = [np.array(x) for width, end in (a, b) for x in (gamma_of_width(width), end)]
    assert inner(*arguments) == pytest.approx(np.mean(tail(*a) * tail(*b)), rel=1e-6)


def test_counters_come_from_the_last_snapshot_in_time():
    snapshots = [
        (100, 0.05, {"w": torch.ones(2, dtype=torch.bfloat16), "n": torch.tensor(1)}),
        (300, 0.05, {"w": torch.ones(2, dtype=torch.bfloat16), "n": torch.tensor(3)}),
        (200, 0.05, {"w": torch.ones(2, dtype=torch.bfloat16), "n": torch.tensor(2)}),
    ]
    assert reconstruct(snapshots, 0.05, 300)["n"].item() == 3
    assert reconstruct(snapshots, 0.05, 250)["n"].item() == 2
    assert reconstruct(snapshots, 0.05, 300)["w"].dtype == torch.float32


def test_mistakes_are_named():
    snapshots = [(100, 0.05, {"w": torch.ones(1)}), (200, 0.05, {"v": torch.ones(1)})]
    with pytest.raises(KeyError, match="snapshot at 200 differs"):
        reconstruct(snapshots, 0.05, 200)
    with pytest.raises(ValueError, match="know nothing about 201"):
        reconstruct(snapshots, 0.05, 201)
    with pytest.raises(ValueError, match="there are none"):
        reconstruct([], 0.05, 1)
