"""Plans: what is refused before the first evaluation, and what the rows say."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from unnoise.core.level import Level
from unnoise.core.sampler import Row
from unnoise.core.schedule import Cosine
from unnoise.sample.ancestral import Ancestral
from unnoise.sample.dpmpp import DPMpp2M
from unnoise.sample.ode import Euler, Heun
from unnoise.sample.plan import check_interval, held, plan

D = torch.float64
INF = math.inf


def grid(n: int) -> Level:
    return Cosine(0.0)(torch.linspace(1, 0, n + 1, dtype=D))


def levels(alpha: Any, sigma: Any) -> Level:
    return Level(torch.tensor(alpha, dtype=D), torch.tensor(sigma, dtype=D))


def test_rows_walk_the_grid_with_host_floats() -> None:
    g = grid(5)
    rows = plan(Euler(), g)
    assert [r.number for r in rows] == [0, 1, 2, 3, 4]
    assert [r.last for r in rows] == [False] * 4 + [True]
    assert not any(r.up or r.idle for r in rows)
    for i, row in enumerate(rows):
        assert isinstance(row.src, Level) and isinstance(row.dst, Level)
        assert row.src.host == (float(g.alpha[i]), float(g.sigma[i]))
        assert row.dst.host == (float(g.alpha[i + 1]), float(g.sigma[i + 1]))
        assert row.src.alpha.dtype == torch.float32 and row.src.alpha.ndim == 0
    assert isinstance(rows[0].src, Level) and rows[0].src.host == (0.0, 1.0)
    assert rows[-1].dst.host == (1.0, 0.0)  # type: ignore[union-attr]


def test_coefficients_are_made_in_float64_whatever_the_state() -> None:
    g = grid(9)
    wide, narrow = (plan(DPMpp2M(), g, dtype=d) for d in (D, torch.float32))
    for a, b in zip(wide, narrow, strict=True):
        assert a.coef.dtype == D and b.coef.dtype == torch.float32
        assert torch.equal(a.coef.float(), b.coef)
    narrow_grid = plan(DPMpp2M(), g.to(dtype=torch.float32))
    assert narrow_grid[0].coef.dtype == torch.float32


def test_levels_by_row_have_no_host_floats() -> None:
    g = grid(3)
    rows = plan(Euler(), Level(g.alpha[:, None].repeat(1, 2), g.sigma[:, None].repeat(1, 2)))
    assert isinstance(rows[0].src, Level) and rows[0].src.host is None and rows[0].src.alpha.shape == (2,)


def test_a_grid_that_leaves_noise_is_refused_unless_asked_for() -> None:
    """Pitfall 8: every plan ends at sigma = 0."""
    g = grid(5).at(slice(0, 5))
    with pytest.raises(ValueError, match=r"ends at sigma = 0\.309.*open_end"):
        plan(Euler(), g)
    rows = plan(Euler(), g, open_end=True)
    assert len(rows) == 4 and not rows[-1].last


@pytest.mark.parametrize("bad", [math.nan, INF, -0.5])
def test_levels_that_are_no_levels_are_refused_by_number(bad: float) -> None:
    for spot in (0, 2):
        sigma = [1.0, 0.6, 0.4, 0.0]
        sigma[spot] = bad
        with pytest.raises(ValueError, match=rf"level {spot} of the grid.*{bad}"):
            plan(Euler(), levels([0.1, 0.8, 0.9, 1.0], sigma))
    by_row = levels([[0.1, 0.1], [0.8, 0.8], [1.0, 1.0]], [[1.0, 1.0], [0.6, bad], [0.0, 0.0]])
    with pytest.raises(ValueError, match="level 1 of the grid"):
        plan(Euler(), by_row)
    with pytest.raises(ValueError, match="level 1"):
        plan(Euler(), levels([1.0, 0.0, 1.0], [1.0, 0.0, 0.0]))


def test_short_and_unequal_grids_are_refused() -> None:
    for g in (grid(3).at(slice(3, 4)), {"a": grid(3), "b": grid(4)}):
        with pytest.raises(ValueError, match="at least two levels, the same number for each part"):
            plan(Ancestral(), g)


def test_up_and_down_in_one_step_is_refused() -> None:
    g = levels([[0.5, 0.5], [0.8, 0.3], [1.0, 1.0]], [[0.9, 0.9], [0.6, 0.95], [0.0, 0.0]])
    with pytest.raises(ValueError, match="step 0 of the grid goes up for some elements and down for others"):
        plan(Ancestral(), g)
    up: Any = {"a": levels([0.5, 0.8, 1.0], [0.9, 0.6, 0.0]), "b": levels([0.5, 0.3, 1.0], [0.9, 0.95, 0.0])}
    with pytest.raises(ValueError, match="step 0"):
        plan(Ancestral(), up)


def test_up_idle_and_last_are_told() -> None:
    g = levels(
        [[0.3, 0.3], [0.8, 0.3], [0.3, 0.3], [0.8, 0.9], [1.0, 1.0]],
        [[0.95, 0.95], [0.6, 0.95], [0.95, 0.95], [0.6, 0.4], [0.0, 0.0]],
    )
    rows = plan(DPMpp2M(), g)
    assert [r.up for r in rows] == [False, True, False, False]
    assert [r.idle for r in rows] == [True, True, False, False]
    assert [r.last for r in rows] == [False, False, False, True]
    assert rows[1].coef.numel() == 0, "a step up has no coefficients"
    assert not bool(rows[2].coef[2].any()), "and what comes after it remembers nothing"


def test_a_level_that_is_only_rescaled_is_a_step_and_not_idle() -> None:
    rows = plan(Euler(), levels([0.3, 0.6, 1.0], [0.4, 0.8, 0.0]))
    assert not rows[0].up and not rows[0].idle


def test_several_evaluations_need_a_common_arrival() -> None:
    g = levels([[0.3, 0.3], [0.8, 1.0], [1.0, 1.0]], [[0.95, 0.95], [0.6, 0.0], [0.0, 0.0]])
    with pytest.raises(ValueError, match=r"Heun evaluates .* step 0 of 2"):
        plan(Heun(), g)
    assert plan(Ancestral(), g)[1].idle


def test_infinite_coefficients_are_refused() -> None:
    class Bad(Euler):
        def coefficients(self, levels: Any) -> Any:
            return torch.full((2, 1), math.nan, dtype=D)

    with pytest.raises(ValueError, match="Bad has no finite coefficients"):
        plan(Bad(), grid(2))


def test_leaving_the_trained_interval_is_refused_naming_both() -> None:
    """Pitfall 6: a sampler cannot look where the network was never trained."""
    g = Level.of_logsnr(torch.tensor([-9.0, 0.0, INF], dtype=D))
    check_interval(g, (-9.0, 0.0))
    check_interval(g, (-9.00005, 8.0))
    with pytest.raises(ValueError, match=r"log-SNR -9 \(sigma / alpha 90\.0\d\).*\[-8, 10\]"):
        check_interval(g, (-8.0, 10.0))
    with pytest.raises(ValueError, match=r"log-SNR 0 .*\[-10, -1\]"):
        check_interval(g, (-10.0, -1.0))
    with pytest.raises(ValueError, match=r"-inf \(sigma / alpha inf\)"):
        check_interval(grid(4), (-20.0, 20.0))
    with pytest.raises(ValueError, match="-9"):
        check_interval({"a": Level.of_logsnr(torch.tensor([0.0, INF], dtype=D)), "b": g}, (-8.0, 8.0))
    check_interval(grid(4), (-INF, INF))


def test_held_keeps_still_elements_to_the_bit_for_every_shape_of_level() -> None:
    old, new = torch.zeros(2, 3, 4), torch.ones(2, 3, 4)

    def row(src: Any, dst: Any) -> Row:
        return Row(src, dst, torch.zeros(0), 0, False, False, True)

    a, b = levels(0.6, 0.8), levels(0.8, 0.6)
    assert torch.equal(held(row(a, a), new, old), old)
    by_row = held(row(levels([0.6, 0.6], [0.8, 0.8]), levels([0.6, 0.8], [0.8, 0.6])), new, old)
    assert by_row[:, 0, 0].tolist() == [0.0, 1.0]
    frames = held(
        row(
            levels([[[0.6], [0.6], [0.6]]], [[[0.8], [0.8], [0.8]]]),
            levels([[[0.6], [0.8], [0.6]]], [[[0.8], [0.6], [0.8]]]),
        ),
        new,
        old,
    )
    assert frames[1, :, 2].tolist() == [0.0, 1.0, 0.0]
    nan: Tensor = torch.full_like(new, math.nan)
    parts = held(row({"p": a, "q": a}, {"p": b, "q": a}), {"p": new, "q": nan}, {"p": old, "q": old})
    assert torch.equal(parts["p"], new) and torch.equal(parts["q"], old)
    assert held(row(a, a)._replace(idle=False), new, old) is new
