"""The power-function EMA: widths and exponents, the telescoping of its weights, exactness on constants."""

import itertools
import math

import pytest
import torch

from unnoise.optim import Ema, gamma_of_width, snapshot_due, width_of_gamma
from unnoise.optim.ema import WIDEST

torch.set_num_threads(1)


@pytest.mark.parametrize("width", [0.01, 0.05, 0.075, 0.10, 0.15, 0.25, WIDEST])
def test_width_and_gamma_are_inverse(width):
    assert width_of_gamma(gamma_of_width(width)) == pytest.approx(width, rel=1e-9)


def test_width_is_the_standard_deviation_of_the_profile():
    gamma = gamma_of_width(0.10)
    t = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    p = (gamma + 1) * t**gamma / 200_000
    mean = (p * t).sum()
    assert (p * (t - mean) ** 2).sum().sqrt().item() == pytest.approx(0.10, rel=1e-6)


def test_published_pairs():
    # EDM2, section 3.1: gamma = 6.94 and 16.97 belong to 10 % and 5 %
    assert gamma_of_width(0.10) == pytest.approx(6.94, abs=5e-3)
    assert gamma_of_width(0.05) == pytest.approx(16.97, abs=5e-3)


@pytest.mark.parametrize("width", [0.0, -0.1, 0.3, float("nan")])
def test_impossible_widths_are_refused(width):
    with pytest.raises(ValueError, match="share of the run"):
        gamma_of_width(width)


def test_average_is_the_integral_over_piecewise_constant_weights():
    steps, batch = 40, 8
    values = torch.arange(1.0, steps + 1)
    ema = Ema({"w": torch.zeros(1)}, widths=(0.2,))
    for k in range(steps):
        ema.update({"w": values[k : k + 1]}, seen=(k + 1) * batch, batch=batch)
    edges = (torch.arange(steps + 1, dtype=torch.float64) / steps) ** (gamma_of_width(0.2) + 1)
    expected = (edges.diff() * values).sum()
    assert ema.state(0.2)["w"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_uneven_batches_weigh_as_their_samples():
    fine, coarse = Ema({"w": torch.zeros(1)}), Ema({"w": torch.zeros(1)})
    seen = 0
    for value, batch in ((1.0, 4), (3.0, 8), (-2.0, 4)):
        for _ in range(batch // 2):
            seen += 2
            fine.update({"w": torch.tensor([value])}, seen, 2)
        coarse.update({"w": torch.tensor([value])}, seen, batch)
    torch.testing.assert_close(fine.state(0.05)["w"], coarse.state(0.05)["w"])


def test_first_update_is_the_weights_and_constants_stay_exact():
    named = {"w": torch.linspace(-3, 7, 101) ** 3}
    ema = Ema({"w": torch.full((101,), 1e9)})
    for k in range(1, 300):
        ema.update(named, seen=k * 32, batch=32)
        assert torch.equal(ema.state(0.05)["w"], named["w"])
        assert torch.equal(ema.state(0.10)["w"], named["w"])


def test_low_precision_weights_are_averaged_in_float32_and_counters_copied():
    torch.manual_seed(0)
    named = {"w": torch.randn(50).bfloat16(), "count": torch.tensor(0), "wide": torch.zeros(2).double()}
    ema = Ema(named)
    total = 0.0
    for k in range(1, 50):
        w = torch.randn(50).bfloat16()
        beta = (1 - 1 / k) ** (gamma_of_width(0.05) + 1)
        total = beta * total + (1 - beta) * w.double()
        ema.update({"w": w, "count": torch.tensor(k), "wide": torch.ones(2).double() * k}, seen=16 * k, batch=16)
    state = ema.state(0.05)
    assert state["w"].dtype == torch.float32
    assert state["wide"].dtype == torch.float64
    assert state["count"].item() == 49
    torch.testing.assert_close(state["w"].double(), total, rtol=1e-5, atol=1e-6)


def test_the_average_is_a_copy_and_modules_load_it():
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    ema = Ema(net.state_dict())
    old = net[0].weight.detach().clone()
    with torch.no_grad():
        net[0].weight += 1
    assert torch.equal(ema.state(0.10)["0.weight"], old)
    ema.update(net.state_dict(), seen=4, batch=4)
    net.load_state_dict(ema.state(0.10), strict=True)


def test_state_round_trip_continues_bit_for_bit():
    torch.manual_seed(0)
    a = Ema({"w": torch.randn(20)})
    a.update({"w": torch.randn(20)}, 10, 10)
    b = Ema({"w": torch.zeros(20)})
    for width in b.widths:
        b.load(width, {name: x.clone() for name, x in a.state(width).items()})
    w = torch.randn(20)
    for ema in (a, b):
        ema.update({"w": w}, 20, 10)
    assert all(torch.equal(a.state(width)["w"], b.state(width)["w"]) for width in a.widths)


def test_mistakes_are_named():
    ema = Ema({"w": torch.zeros(1)})
    with pytest.raises(KeyError, match=r"missing \['w'\], new \['v'\]"):
        ema.update({"v": torch.zeros(1)}, 8, 8)
    with pytest.raises(ValueError, match="batch must lie"):
        ema.update({"w": torch.zeros(1)}, 8, 16)
    with pytest.raises(KeyError, match="not tracked"):
        ema.state(0.2)


@pytest.mark.parametrize("batch", [1, 48, 256])
def test_snapshots_are_spaced_in_log_samples(batch):
    steps = [k for k in range(1, 10_001) if snapshot_due(k * batch, batch)]
    assert steps[0] >= 4
    assert sum(k <= 1_000 for k in steps) in (23, 24, 25)
    assert sum(k > 1_000 for k in steps) in (9, 10)
    late = [b / a for a, b in itertools.pairwise(steps) if a > 100]
    assert all(math.isclose(ratio, 1.26, rel_tol=0.02) for ratio in late)
