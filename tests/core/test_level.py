"""Levels: the broadcasting rules, both infinities, the three frames."""

import math
from typing import Any

import pytest
import torch

from unnoise.core.level import CLEAN, Level, expand, leaves, over, ratio

D = torch.float64
INF = math.inf
FRAMES: tuple[Any, ...] = ("vp", "flow", "ve")


def test_expand_accepts_a_scalar_a_value_a_row_and_a_value_a_frame() -> None:
    x = torch.zeros(2, 3, 5, 4, 4)
    assert expand(torch.tensor(0.5), x).shape == ()
    assert expand(torch.ones(2), x).shape == (2, 1, 1, 1, 1)
    frames = torch.arange(10.0).reshape(2, 1, 5, 1, 1)
    assert torch.equal(expand(frames, x), frames)
    assert expand(torch.ones(1, 1, 5, 1, 1), x).shape == (1, 1, 5, 1, 1)
    one_axis = torch.arange(3.0)
    assert torch.equal(expand(one_axis, torch.zeros(3)), one_axis)


@pytest.mark.parametrize("shape", [(3,), (2, 1), (2, 3), (5, 1, 1, 1, 1), (2, 1, 4, 1, 1), (1,), (2, 1, 5, 1)])
def test_expand_refuses_every_other_shape_naming_both(shape: tuple[int, ...]) -> None:
    x = torch.zeros(2, 3, 5, 4, 4)
    with pytest.raises(ValueError) as error:
        expand(torch.ones(shape), x)
    assert str(shape) in str(error.value) and str(tuple(x.shape)) in str(error.value)


def test_expand_where_batch_channels_and_frames_are_equal() -> None:
    """B == C == T: one axis always means rows, and frames have to be said with all axes."""
    x, values = torch.ones(3, 3, 3), torch.tensor([1.0, 2.0, 3.0])
    assert torch.equal((expand(values, x) * x)[:, 0, 0], values)
    assert torch.equal((expand(values.reshape(1, 1, 3), x) * x)[0, 0], values)
    assert torch.equal((expand(values, x) * x)[0], torch.ones(3, 3))


def test_like_keeps_the_host_floats() -> None:
    level = Level.of(0.6, 0.8).like(torch.zeros(4, 2))
    assert level.host == (0.6, 0.8)
    with pytest.raises(ValueError, match="does not fit"):
        Level(torch.ones(3), torch.ones(3)).like(torch.zeros(4, 2))


def test_logsnr_at_both_ends_and_between() -> None:
    level = Level(torch.tensor([1.0, 0.0, 0.6, 3.0], dtype=D), torch.tensor([0.0, 1.0, 0.8, 4.0], dtype=D))
    middle = 2 * math.log(0.75)
    torch.testing.assert_close(level.logsnr, torch.tensor([INF, -INF, middle, middle], dtype=D), rtol=1e-14, atol=0)
    assert float(CLEAN.logsnr) == INF and CLEAN.host == (1.0, 0.0)


def test_lerp_is_straight_in_the_plane_for_tensors_and_host_alike() -> None:
    a, b = Level.of(1.0, 0.0), Level.of(0.2, 0.9)
    for weight in (0.0, 0.25, 1.0):
        c = a.lerp(b, weight)
        assert c.host is not None
        assert c.host == pytest.approx((1 - 0.8 * weight, 0.9 * weight), abs=1e-15)
        assert (float(c.alpha), float(c.sigma)) == c.host
    assert a.lerp(Level(b.alpha, b.sigma), 0.5).host is None


def test_of_is_float64_and_refuses_what_is_no_level() -> None:
    assert Level.of(1, 0).alpha.dtype == D
    for alpha, sigma in ((-1.0, 1.0), (1.0, -1.0), (0.0, 0.0), (math.nan, 1.0)):
        with pytest.raises(ValueError, match=f"alpha={alpha}, sigma={sigma}"):
            Level.of(alpha, sigma)


@pytest.mark.parametrize("frame", FRAMES)
def test_of_logsnr_inverts_logsnr_in_every_frame(frame: Any) -> None:
    logsnr = torch.linspace(-60, 60, 241, dtype=D)
    level = Level.of_logsnr(logsnr, frame)
    torch.testing.assert_close(level.logsnr, logsnr, rtol=1e-13, atol=1e-13)
    held = {
        "vp": level.alpha**2 + level.sigma**2,
        "flow": level.alpha + level.sigma,
        "ve": level.alpha,
    }[frame]
    torch.testing.assert_close(held, torch.ones_like(held), rtol=1e-14, atol=0)


@pytest.mark.parametrize("frame", ["vp", "flow"])
def test_of_logsnr_is_exact_at_the_infinities(frame: Any) -> None:
    level = Level.of_logsnr(torch.tensor([-INF, INF]), frame)
    assert level.alpha.tolist() == [0.0, 1.0] and level.sigma.tolist() == [1.0, 0.0]


def test_of_logsnr_ve_is_exact_on_data() -> None:
    assert float(Level.of_logsnr(torch.tensor(INF), "ve").sigma) == 0.0


def test_unknown_frames_are_refused(unchecked: None) -> None:
    bad: Any = "sub-vp"
    with pytest.raises(ValueError, match="sub-vp"):
        Level.of_logsnr(torch.zeros(()), bad)


def test_frames_are_rescalings_of_each_other() -> None:
    logsnr = torch.linspace(-20, 20, 41, dtype=D)
    levels = [Level.of_logsnr(logsnr, frame) for frame in FRAMES]
    for level in levels[1:]:
        torch.testing.assert_close(
            torch.atan2(level.sigma, level.alpha), torch.atan2(levels[0].sigma, levels[0].alpha), rtol=1e-13, atol=0
        )


def test_at_and_to() -> None:
    grid = Level(torch.tensor([0.0, 0.6, 1.0], dtype=D), torch.tensor([1.0, 0.8, 0.0], dtype=D))
    assert (float(grid.at(1).alpha), float(grid.at(1).sigma)) == (0.6, 0.8)
    assert grid.at(slice(1, 3)).sigma.tolist() == [0.8, 0.0]
    assert Level.of(0.6, 0.8).to(dtype=torch.float32).alpha.dtype == torch.float32
    assert Level.of(0.6, 0.8).to(dtype=torch.float32).host == (0.6, 0.8)


def test_over_and_leaves_treat_one_level_and_parts_alike() -> None:
    a, b = Level.of(1.0, 2.0), Level.of(3.0, 4.0)
    assert over(lambda u, v: float(u.alpha + v.sigma), a, b) == 5.0
    assert over(lambda u: float(u.sigma), {"p": a, "q": b}) == {"p": 2.0, "q": 4.0}
    assert leaves(a) == [a] and leaves({"p": a, "q": b}) == [a, b]


def test_ratio_is_zero_where_no_signal_is_left() -> None:
    a, b = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([2.0, 0.0, 0.0])
    assert ratio(a, b).tolist() == [0.5, 0.0, 0.0]
