"""A learned schedule is a density: monotone whatever its weights, normalised, its log p the slope of its quantiles."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unnoise.core.density import Density
from unnoise.core.learned import LearnedSchedule
from unnoise.spec import build, describe

D = torch.float64


def random(seed: int, spread: float = 1.0) -> LearnedSchedule:
    """One with weights of no particular kind."""
    generator = torch.Generator().manual_seed(seed)
    schedule = LearnedSchedule(low=(-8.0, -2.0), high=(5.0, 15.0), units=16)
    for p in schedule.parameters():
        nn.init.normal_(p, std=spread, generator=generator)
    with torch.no_grad():
        schedule.log_rates += 2
    return schedule


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spread", [0.3, 2.0])
def test_it_is_monotone_for_any_weights_and_goes_from_end_to_end(seed: int, spread: float) -> None:
    schedule = random(seed, spread)
    u = torch.linspace(0, 1, 1001, dtype=D)
    level, log_p = schedule(u)
    low, high = schedule.ends()
    assert bool((level.logsnr.diff() < 0).all()) and bool(log_p.isfinite().all())
    assert float((level.logsnr[0] - high).detach().abs()) < 1e-9 > float((level.logsnr[-1] - low).detach().abs())
    torch.testing.assert_close(level.alpha**2 + level.sigma**2, torch.ones_like(u))


@pytest.mark.parametrize("seed", range(4))
def test_p_integrates_to_one_and_is_the_slope_of_the_quantiles(seed: int) -> None:
    schedule = random(seed)
    u = torch.linspace(0, 1, 20001, dtype=D, requires_grad=True)
    level, log_p = schedule(u)
    assert float(torch.trapezoid(log_p.exp(), -level.logsnr).detach()) == pytest.approx(1, abs=1e-5)
    (slope,) = torch.autograd.grad(level.logsnr.sum(), u)
    torch.testing.assert_close(log_p.detach(), -(-slope).log())


def test_it_begins_nearly_straight_in_the_middle_of_its_ranges() -> None:
    schedule = LearnedSchedule(low=(-9.0, -1.0), high=(9.6, 17.0))
    assert [float(e.detach()) for e in schedule.ends()] == pytest.approx([-5.0, 13.3])
    u = torch.linspace(0, 1, 101, dtype=D)
    logsnr = schedule(u)[0].logsnr.detach()
    assert float((logsnr - (13.3 - 18.3 * u)).abs().max()) < 0.1
    again = LearnedSchedule(low=(-9.0, -1.0), high=(9.6, 17.0))
    assert all(torch.equal(a, b) for a, b in zip(schedule.parameters(), again.parameters(), strict=True))


def test_its_ends_stay_in_their_ranges() -> None:
    schedule = LearnedSchedule(low=(-8.0, -2.0), high=(5.0, 15.0))
    assert isinstance(schedule, Density) and schedule.interval == (-8, 15)
    for place in (-1e3, 1e3):
        nn.init.constant_(schedule.places, place)
        assert [float(e.detach()) for e in schedule.ends()] == ([-8, 5] if place < 0 else [-2, 15])


def test_the_interior_is_told_apart_from_the_ends() -> None:
    schedule, u = random(0), torch.rand(5, dtype=D, generator=torch.Generator().manual_seed(0))
    level, log_p = schedule.drawn(u, Tensor.detach)
    (level.logsnr.sum() + log_p.sum()).backward()
    assert {k for k, p in schedule.named_parameters() if p.grad is not None} == {"places"}
    whole = schedule(u)
    assert torch.equal(level.alpha, whole[0].alpha) and torch.equal(log_p, whole[1])
    assert all(torch.equal(a, b) for a, b in zip(whole, schedule.drawn(u), strict=True) if isinstance(a, Tensor))


def test_any_shape_and_the_dtype_of_u() -> None:
    level, log_p = random(1)(torch.rand(2, 3, 1))
    assert level.alpha.shape == log_p.shape == (2, 3, 1) and level.sigma.dtype == log_p.dtype == torch.float32


def test_it_is_rebuilt_from_its_description() -> None:
    schedule = random(2)
    again = build(describe(schedule))
    again.load_state_dict(schedule.state_dict())
    u = torch.linspace(0, 1, 7, dtype=D)
    assert torch.equal(again(u)[1], schedule(u)[1]) and math.isfinite(float(again(u)[1].sum().detach()))


@pytest.mark.parametrize(
    "arguments, match",
    [
        ({"low": (0.0, -1.0)}, "ranges, one above the other"),
        ({"low": (-9.0, 10.0)}, "ranges, one above the other"),
        ({"units": 0}, "at least one unit"),
    ],
)
def test_impossible_arguments_are_refused(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        LearnedSchedule(**arguments)
