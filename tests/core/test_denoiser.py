"""Preconditioned: the one place where dtypes change, and what the network is handed."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unnoise.core.denoiser import Preconditioned
from unnoise.core.level import Level
from unnoise.core.noise import Angle, ClippedLogSnr
from unnoise.core.parameterization import X0, Edm, Flow, V
from unnoise.core.process import Gaussian
from unnoise.core.rng import Rng

D = torch.float64


class Spy(nn.Module):
    """A linear layer that remembers what it was given."""

    def __init__(self, dtype: torch.dtype = torch.float32, width: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.f = nn.Linear(4, width, dtype=dtype)
        self.seen: dict[str, Any] = {}

    def forward(self, x: Tensor, noise: Tensor, **cond: Tensor) -> Tensor:
        out = self.f(x)
        self.seen = {"x": x, "noise": noise, "out": out, **cond}
        return out


def test_float64_state_with_a_float32_network() -> None:
    """Into the network's dtype and back, once; the arithmetic around it stays float64."""
    net = Spy()
    x, level = Rng.of(range(3)).normal(torch.zeros(3, 4, dtype=D)), Level.of(0.28, 0.96)
    est = Preconditioned(net, V())(x, level, {"label": torch.tensor([1, 2, 3]), "text": torch.ones(3, 2, dtype=D)})
    assert est.x0.dtype == D and est.var is None
    assert net.seen["x"].dtype == net.seen["noise"].dtype == net.seen["text"].dtype == torch.float32
    assert net.seen["label"].dtype == torch.int64
    want = 0.28 * x - 0.96 * net.f(x.float()).double()
    torch.testing.assert_close(est.x0, want, rtol=1e-6, atol=1e-7)
    exact = est.x0 + 0.96 * net.seen["out"].double()
    torch.testing.assert_close(exact, 0.28 * x, rtol=1e-14, atol=1e-15)


def test_bfloat16_autocast_gives_float32_back() -> None:
    net = Spy()
    model = Preconditioned(net, Edm())
    x, level = torch.ones(2, 4), Level.of(1.0, 2.0)
    full = model(x, level).x0
    model.precision = torch.bfloat16
    half = model(x, level).x0
    assert net.seen["out"].dtype == torch.bfloat16 and net.f.weight.dtype == torch.float32
    assert full.dtype == half.dtype == torch.float32
    assert not torch.equal(full, half)
    torch.testing.assert_close(half, full, rtol=2e-2, atol=2e-2)


def test_a_float64_network_under_a_float32_state() -> None:
    net = Spy(D)
    assert Preconditioned(net, X0())(torch.ones(2, 4), Level.of(1.0, 1.0)).x0.dtype == torch.float32
    assert net.seen["x"].dtype == D


def test_a_float64_level_does_not_widen_a_float32_state() -> None:
    rows = Level(torch.tensor([0.6, 0.8], dtype=D), torch.tensor([0.8, 0.6], dtype=D))
    for p in (V(), X0(), Flow(), Edm()):
        assert Preconditioned(Spy(), p)(torch.ones(2, 4), rows).x0.dtype == torch.float32


def test_a_wrong_output_shape_names_both() -> None:
    with pytest.raises(ValueError, match=r"\(2, 5\).*\(2, 4\)"):
        Preconditioned(Spy(width=5), V())(torch.ones(2, 4), Level.of(0.6, 0.8))


def test_the_network_is_told_the_level_a_row() -> None:
    """A scalar is spread over the batch, [B] and [B, 1, ..] are told as [B], frames keep their axes."""
    net = Spy()
    model = Preconditioned(net, V(), Angle())
    x = torch.ones(3, 5, 4)
    angles = torch.tensor([0.1, 0.7, 1.5])
    for shape in ((3,), (3, 1, 1)):
        model(x, Level(angles.cos().reshape(shape), angles.sin().reshape(shape)))
        torch.testing.assert_close(net.seen["noise"], angles)
    for one in (torch.tensor(0.7), torch.tensor(0.7).reshape(1, 1, 1)):
        model(x, Level(one.cos(), one.sin()))
        torch.testing.assert_close(net.seen["noise"], torch.full((3,), 0.7))
    frames = torch.linspace(0.1, 1.5, 15).reshape(3, 5, 1)
    est = model(x, Level(frames.cos(), frames.sin()))
    torch.testing.assert_close(net.seen["noise"], frames)
    torch.testing.assert_close(net.seen["x"], x)
    torch.testing.assert_close(est.x0, frames.cos() * x - frames.sin() * net.seen["out"])


def test_scaling_and_conditions_reach_the_network() -> None:
    net = Spy()
    cond = {"label": torch.tensor([1, 0])}
    Preconditioned(net, Edm(0.5), ClippedLogSnr())(torch.ones(2, 4), Level.of(1.0, 2.0), cond)
    torch.testing.assert_close(net.seen["x"], torch.full((2, 4), 1 / math.sqrt(4.25)))
    torch.testing.assert_close(net.seen["noise"], torch.full((2,), math.log(2) / 4))
    assert torch.equal(net.seen["label"], cond["label"])


def test_residual_and_estimate_are_one_formula() -> None:
    """c_out (F - F*) = x0_hat - x0, through the same call of the network and with the same conditions."""
    net = Spy(D)
    x0, eps = (Rng.of(range(3)).fold(i).normal(torch.zeros(3, 4, dtype=D)) for i in (0, 1))
    rows = Level(torch.tensor([0.6, 0.9, 0.1], dtype=D), torch.tensor([0.8, 0.1, 5.0], dtype=D))
    for p in (V(), X0(), Flow(), Edm()):
        model = Preconditioned(net, p)
        x = Gaussian().forward(x0, Level.of(1.0, 0.0), rows, Rng.of(range(3)).fold(9))
        x = rows.like(x0).alpha * x0 + rows.like(x0).sigma * eps
        residual = model.residual(x0, eps, rows, {"a": x0})
        assert torch.equal(net.seen["a"], x0)
        got = p(rows.like(x0)).c_out * residual
        torch.testing.assert_close(got, model(x, rows, {"a": x0}).x0 - x0, rtol=1e-10, atol=1e-12)


def test_gradients_reach_parameters_through_both_entries() -> None:
    net = Spy()
    model = Preconditioned(net, V())
    x = torch.ones(2, 4)
    for out in (model(x, Level.of(0.6, 0.8)).x0, model.residual(x, x, Level.of(0.6, 0.8))):
        (grad,) = torch.autograd.grad(out.square().sum(), [net.f.weight])
        assert float(grad.abs().sum()) > 0


@pytest.mark.parametrize("interval", [(1.0, -1.0), (2.0, 2.0), (math.nan, 1.0)])
def test_an_empty_interval_is_refused_with_its_values(interval: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="low < high"):
        Preconditioned(Spy(), V(), interval=interval)


def test_levels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        Preconditioned(Spy(), V())(torch.ones(3, 4), Level(torch.ones(4), torch.ones(4)))
