"""What networks are told of the level: bounded, frame-free, and table indices where tables are meant."""

import math
from typing import Any

import pytest
import torch

from unnoise.core.level import Level
from unnoise.core.noise import Angle, ClippedLogSnr, TableIndex
from unnoise.core.schedule import Linear, ScaledLinear, Table, ZeroTerminal

D = torch.float64
TABLES: list[Any] = [Linear(), ScaledLinear(), ZeroTerminal(ScaledLinear()), Table((0.1, 0.3, 0.2))]
ALL: list[tuple[Any, float, float]] = [
    (Angle(), 0.0, math.pi / 2),
    (ClippedLogSnr(), -2.5, 2.5),
    (ClippedLogSnr(-8.0, 16.0), -2.0, 1.0),
    *((TableIndex(t), 0.0, len(t.alphas()) - 2.0) for t in TABLES),
]


@pytest.mark.parametrize("noise, low, high", ALL, ids=str)
def test_bounded_by_its_values_at_both_ends_and_monotone(noise: Any, low: float, high: float) -> None:
    t = torch.linspace(0, math.pi / 2, 3001, dtype=D)
    alpha, sigma = t.cos(), t.sin()
    alpha[-1] = 0.0
    told = noise(Level(alpha, sigma))
    assert float(told[0]) == pytest.approx(low, abs=1e-9) and float(told[-1]) == pytest.approx(high, rel=1e-9)
    assert bool((told[1:] >= told[:-1]).all())
    for shape in ((), (1,), (2, 1, 1)):
        for a, s, want in ((0.0, 1.0, high), (1.0, 0.0, low), (0.0, 80.0, high)):
            got = noise(Level(torch.full(shape, a, dtype=D), torch.full(shape, s, dtype=D)))
            assert got.shape == shape and bool(torch.isclose(got, torch.tensor(want, dtype=D), atol=1e-9).all())


@pytest.mark.parametrize("noise, low, high", ALL, ids=str)
def test_invariant_under_a_change_of_frame(noise: Any, low: float, high: float) -> None:
    level = Level.of_logsnr(torch.linspace(-15, 15, 61, dtype=D))
    for k in (1e-3, 41.0):
        torch.testing.assert_close(
            noise(Level(k * level.alpha, k * level.sigma)), noise(level), rtol=1e-9, atol=1e-9 * high
        )


def test_clipped_log_snr_is_edm_c_noise() -> None:
    sigma = torch.tensor([0.002, 0.5, 80.0], dtype=D)
    torch.testing.assert_close(
        ClippedLogSnr()(Level(torch.ones(3, dtype=D), sigma)), sigma.log() / 4, rtol=1e-13, atol=0
    )


@pytest.mark.parametrize("table", TABLES, ids=str)
def test_table_index_is_the_integer_at_every_entry(table: Any) -> None:
    steps = len(table.alphas()) - 1
    level = table(torch.arange(1, steps + 1, dtype=D) / steps)
    torch.testing.assert_close(TableIndex(table)(level), torch.arange(steps, dtype=D), rtol=0, atol=1e-8)
    narrow = TableIndex(table)(level.to(dtype=torch.float32))
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow, torch.arange(float(steps)), rtol=0, atol=5e-3)
    ve = Level(torch.ones_like(level.alpha[:-1]), level.sigma[:-1] / level.alpha[:-1])
    torch.testing.assert_close(TableIndex(table)(ve), torch.arange(steps - 1, dtype=D), rtol=0, atol=1e-8)


def test_table_index_between_entries_is_the_share_of_the_angle() -> None:
    table = Table((0.1, 0.3, 0.2))
    knots = table.alphas().arccos()
    angle = 0.25 * knots[1] + 0.75 * knots[2]
    assert float(TableIndex(table)(Level(angle.cos(), angle.sin()))) == pytest.approx(0.75, rel=1e-12)


def test_a_table_of_one_step_has_no_indices() -> None:
    with pytest.raises(ValueError, match="two steps"):
        TableIndex(Table((0.5,)))
