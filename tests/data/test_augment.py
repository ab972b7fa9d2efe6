"""Augmentation: the transformations are those of the paper, exact where they can be, and functions of each row."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unnoise.core.rng import Rng
from unnoise.data import Augment, Mirror
from unnoise.data.augment import warp
from unnoise.errors import UserError

OFF = {"xflip": 0.0, "scale": 0.0, "rotate": 0.0, "stretch": 0.0, "translate": 0.0}
DTYPES = [torch.uint8, torch.int16, torch.int64, torch.float32, torch.float64]


def pictures(b: int, c: int, h: int, w: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Noise, in 0..255 or in [-3, 7)."""
    u = Rng.of(range(b)).uniform(torch.zeros(b, c, h, w, dtype=torch.float64))
    return (10 * u - 3).to(dtype) if dtype.is_floating_point else (256 * u).long().to(dtype)


def numbers(**given: float) -> Tensor:
    """a0 .. a7 of one picture, by name; the rest as if not drawn."""
    names = ["flipx", "flipy", "scale", "turn", "direction", "stretch", "right", "down"]
    assert given.keys() <= set(names)
    return torch.tensor([[given.get(k, 0.0) for k in names]], dtype=torch.float64)


# Exact --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_happens_at_p_0(dtype: torch.dtype) -> None:
    x = pictures(4, 3, 6, 5, dtype)
    out = Augment(p=0)({"x": x, "label": torch.arange(4)}, Rng.of(range(4)))
    assert torch.equal(out["x"], x) and out["x"].dtype == dtype
    assert torch.equal(out["augment"], torch.zeros(4, 9))
    still = Augment(p=1, **OFF)({"x": x}, Rng.of(range(4)))  # and through the resampling
    assert torch.equal(still["x"], x) and not still["augment"].any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 6, 6), (5, 4, 7), (2, 7, 4)])
def test_flips_are_exact(dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    x = pictures(3, *shape, dtype)
    for share, axes in [((1, 0), [3]), ((0, 1), [2]), ((1, 1), [2, 3])]:
        out = Augment(**OFF | {"p": 1, "xflip": share[0], "yflip": share[1]})({"x": x}, Rng.of(range(3)))
        assert torch.equal(out["x"], x.flip(axes))
        assert torch.equal(out["augment"], torch.tensor([[*share, *[0] * 7]] * 3).float())


@pytest.mark.parametrize("dtype", DTYPES)
def test_moves_by_whole_pixels_are_exact_and_told_as_done(dtype: torch.dtype) -> None:
    """Beyond a border comes its mirror image, the border itself once, as often as it takes."""
    x, augment = pictures(64, 2, 5, 8, dtype), Augment(**OFF | {"p": 1, "translate": 0.5, "whole": True})
    out = augment({"x": x}, Rng.of(range(64)))
    shift = out["augment"][:, 7:] * torch.tensor([0.5 * 8, 0.5 * 5])
    assert not out["augment"][:, :7].any()
    torch.testing.assert_close(shift, shift.round(), rtol=0, atol=1e-6)
    assert shift.round().unique(dim=0).shape[0] > 20
    wide = np.pad(x.numpy(), ((0, 0), (0, 0), (15, 15), (24, 24)), mode="reflect")
    for i, (right, down) in enumerate(shift.round().long().tolist()):
        expected = wide[i, :, 15 - down : 20 - down, 24 - right : 32 - right]
        assert torch.equal(out["x"][i], torch.from_numpy(expected.copy())), (right, down)


def test_mirrored_pictures_are_exact_and_half_of_them() -> None:
    x = pictures(2000, 1, 2, 3, torch.uint8)
    batch = {"x": x, "label": torch.arange(2000), "position": torch.arange(2000)}
    out = Mirror()(batch, Rng.of(range(2000)))
    mirrored = (out["x"] == x.flip(-1)).flatten(1).all(1)
    assert torch.equal(out["x"][~mirrored], x[~mirrored])
    assert abs(float(mirrored.float().mean()) - 0.5) < 4 * math.sqrt(0.25 / 2000)
    assert out.keys() == batch.keys() and torch.equal(out["label"], batch["label"])
    assert torch.equal(Mirror(p=0)(batch, Rng.of(range(2000)))["x"], x)
    assert torch.equal(x, pictures(2000, 1, 2, 3, torch.uint8))  # what was given is not changed


# The paper's transformations ----------------------------------------------------------------------------------------


def test_the_matrix_is_the_inverse_of_the_papers() -> None:
    """Karras et al. 2022, table 6, as 3 x 3 matrices of pixels from the middle: T A R S F, inverted by a solver."""
    h, w, augment = 48, 64, Augment(p=1, scale=0.3, stretch=0.4, translate=0.2, yflip=0.5)
    a = augment.draw(Rng.of(range(50)), (h, w))

    def rotate(t: float) -> Tensor:
        rows = [[math.cos(t), -math.sin(t), 0], [math.sin(t), math.cos(t), 0], [0, 0, 1]]
        return torch.tensor(rows, dtype=torch.float64)

    def diagonal(x: float, y: float) -> Tensor:
        return torch.tensor([x, y, 1], dtype=torch.float64).diag()

    for row, found in zip(a.tolist(), augment.matrix(a, (h, w)), strict=True):
        a0, a1, a2, a3, a4, a5, a6, a7 = row
        move = torch.eye(3, dtype=torch.float64)
        move[:2, 2] = torch.tensor([0.2 * w * a6, 0.2 * h * a7], dtype=torch.float64)
        longer = 2 ** (0.4 * a5)
        stretch = rotate(a4) @ diagonal(longer, 1 / longer) @ rotate(-a4)
        whole = move @ stretch @ rotate(-a3) @ diagonal(2 ** (0.3 * a2), 2 ** (0.3 * a2))
        whole = whole @ diagonal(1 - 2 * a0, 1) @ diagonal(1, 1 - 2 * a1)
        torch.testing.assert_close(found, torch.linalg.inv(whole)[:2], rtol=1e-9, atol=1e-9)


def test_the_network_is_told_the_papers_nine_numbers() -> None:
    a = numbers(flipx=1, flipy=1, scale=-0.7, turn=2.0, direction=0.5, stretch=1.5, right=0.3, down=-0.2)
    expected = [1, 1, -0.7, math.cos(2) - 1, math.sin(2), 1.5 * math.cos(0.5), 1.5 * math.sin(0.5), 0.3, -0.2]
    torch.testing.assert_close(Augment().told(a), torch.tensor([expected]))
    assert not Augment().told(numbers()).any()


def test_directions_as_seen() -> None:
    augment, x = Augment(translate=0.25, scale=1.0, stretch=1.0), pictures(1, 2, 8, 8)
    turned = warp(x, augment.matrix(numbers(turn=math.pi / 2), (8, 8)))
    torch.testing.assert_close(turned, torch.rot90(x, 1, (2, 3)))  # counter-clockwise
    moved = warp(x, augment.matrix(numbers(right=1, down=-0.5), (8, 8)))
    assert torch.equal(moved[:, :, :7, 2:], x[:, :, 1:, :6])  # two to the right, one up
    dot = torch.zeros(1, 1, 9, 9)
    dot[:, :, 4, 3:6] = 1
    assert warp(dot, augment.matrix(numbers(scale=1), (9, 9))).sum() > 3 * dot.sum()  # twice as large
    longer = warp(dot, augment.matrix(numbers(stretch=1), (9, 9)))[0, 0]
    assert (longer[4] > 0.4).sum() > 4 and longer[3].abs().max() < 0.2  # along x, and thinner
    steep = warp(dot, augment.matrix(numbers(stretch=1, direction=math.pi / 2), (9, 9)))[0, 0]
    assert (steep[:, 4] > 0.4).sum() > 2  # along y: short, and thick


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_parabola_is_resampled_without_error(dtype: torch.dtype) -> None:
    """Cubic convolution is exact for polynomials of the second degree (Keys 1981), whatever the map."""
    h, w, augment = 33, 41, Augment(p=1, scale=0.2, stretch=0.2, translate=0.02, yflip=0.5)

    def parabola(x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([0.3 + 0.02 * x - 0.03 * y, 0.01 * x * x - 0.004 * x * y + 0.006 * y * y], -3)

    y, x = torch.meshgrid(torch.arange(h) - (h - 1) / 2, torch.arange(w) - (w - 1) / 2, indexing="ij")
    y, x = y.double(), x.double()
    matrix = augment.matrix(augment.draw(Rng.of(range(40)), (h, w)), (h, w))
    found = warp(parabola(x, y).to(dtype).expand(40, -1, -1, -1), matrix)
    m = matrix[..., None, None]
    from_x, from_y = (m[:, i, 0] * x + m[:, i, 1] * y + m[:, i, 2] for i in range(2))
    inside = (from_x.abs() < (w - 1) / 2 - 2) & (from_y.abs() < (h - 1) / 2 - 2)
    assert inside.flatten(1).sum(1).min() > 200
    error = ((found - parabola(from_x, from_y)).abs() * inside[:, None]).max()
    assert error < (1e-5 if dtype == torch.float32 else 1e-12)


def test_there_and_back_is_the_picture() -> None:
    h, w = 40, 56
    y, x = torch.meshgrid(torch.arange(h) / 6, torch.arange(w) / 7, indexing="ij")
    smooth = torch.stack([(x + 0.3 * y).sin(), (0.5 * x - y).cos(), (x * 0.9).cos() * y.sin()]).expand(30, -1, -1, -1)
    augment = Augment(p=1, yflip=0.5, translate=0.05)
    there = augment.matrix(augment.draw(Rng.of(range(30)), (h, w)), (h, w))
    square = torch.cat([there, torch.tensor([[[0.0, 0.0, 1.0]]]).double().expand(30, -1, -1)], 1)
    back = torch.linalg.inv(square)[:, :2]
    again = warp(warp(smooth, there), back)
    middle = (..., slice(h // 2 - 4, h // 2 + 4), slice(w // 2 - 4, w // 2 + 4))
    assert (warp(smooth, there)[middle] - smooth[middle]).abs().amax((1, 2, 3)).min() > 0.05
    assert (again[middle] - smooth[middle]).abs().max() < 0.02


@pytest.mark.parametrize("dtype", DTYPES)
def test_range_and_dtype_are_the_pictures_own(dtype: torch.dtype) -> None:
    """Cubic interpolation overshoots; no channel may leave what it held, whatever its range is."""
    x = pictures(20, 3, 9, 6, dtype)
    out = Augment(p=1)({"x": x}, Rng.of(range(20)))["x"]
    assert out.dtype == dtype and out.shape == x.shape and not torch.equal(out, x)
    assert (out.amax((2, 3)) <= x.amax((2, 3))).all() and (out.amin((2, 3)) >= x.amin((2, 3))).all()
    line = Augment(p=1)({"x": x[:, :, :1]}, Rng.of(range(20)))["x"]  # a single row of pixels
    assert line.shape == x[:, :, :1].shape
    one = Augment(p=1)({"x": x[:, :, :1, :1]}, Rng.of(range(20)))["x"]
    assert torch.equal(one, x[:, :, :1, :1])


# Randomness ---------------------------------------------------------------------------------------------------------


def test_each_is_drawn_as_often_and_as_far_as_stated() -> None:
    n, p = 40_000, 0.3
    augment = Augment(p=p, yflip=0.1, rotate=0.5)
    a = augment.draw(Rng.of(range(n)), (32, 32))
    done = torch.stack([a[:, 0] != 0, a[:, 1] != 0, *(a[:, i] != 0 for i in (2, 3, 5, 6))]).double()
    for share, expected in zip(done.mean(1).tolist(), [0.5, 0.1, p, p, p, p], strict=True):
        assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / n)
    off = torch.corrcoef(done) - torch.eye(6)
    assert off.abs().max() < 4 / math.sqrt(n)  # each by itself
    assert torch.equal(a[:, 6] != 0, a[:, 7] != 0) and torch.equal(a[:, 4] != 0, a[:, 5] != 0)
    for column in (2, 5, 6, 7):
        drawn = a[:, column][a[:, column] != 0]
        assert abs(float(drawn.mean())) < 4 / math.sqrt(len(drawn))
        assert abs(float(drawn.var()) - 1) < 4 * math.sqrt(2 / len(drawn))
    for column, reach in ((3, math.pi / 2), (4, math.pi)):
        drawn = a[:, column][a[:, column] != 0]
        assert drawn.abs().max() < reach
        assert abs(float(drawn.var()) - reach**2 / 3) < 4 * reach**2 * math.sqrt(4 / 45 / len(drawn))


def test_draws_are_fixed() -> None:
    """Literals: other draws would make every run that goes on another run."""
    augment = Augment(p=0.5)
    expected = [
        [0.0, 0.0, 0.0, -0.2499, 0.6613, 0.0, 0.0, 0.0, 0.0],
        [1.0, 0.0, 0.0, -1.4238, 0.9058, 0.0229, 0.1577, -0.3834, 0.6207],
        [0.0, 0.0, 0.2412, -0.0644, 0.3531, 0.3357, -0.8554, -1.1970, -0.4289],
    ]
    told = augment.told(augment.draw(Rng.of(range(3)), (8, 8)))
    torch.testing.assert_close(told, torch.tensor(expected), rtol=0, atol=1e-4)


@pytest.mark.parametrize("augment", [Augment(p=0.5), Augment(p=1, whole=True), Mirror()])
def test_a_row_depends_on_its_own_randomness_only(augment: Any) -> None:
    x, rng = pictures(13, 3, 10, 12, torch.uint8), Rng.of(range(100, 113))
    whole = augment({"x": x}, rng)
    for rows in (slice(0, 1), slice(3, 8), torch.tensor([12, 0, 5])):
        part = augment({"x": x[rows]}, rng[rows])
        for k in whole:
            assert torch.equal(part[k], whole[k][rows])
    assert not torch.equal(augment({"x": x}, Rng.of(range(13)))["x"], whole["x"])


# Refused ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("augment", [Augment(), Mirror()])
def test_columns_that_belong_to_the_pixels_are_refused(augment: Any) -> None:
    x, rng = pictures(2, 1, 4, 4), Rng.of(range(2))
    for name, column in [("low", pictures(2, 1, 2, 2)), ("mask", torch.ones(2, 4, dtype=torch.bool))]:
        with pytest.raises(UserError, match=rf"leave the column '{name}' of shape .* augment=none"):
            augment({"x": x, name: column}, rng)
    with pytest.raises(UserError, match=r"changes pictures \[C, H, W\], the data are of shape \(16,\): augment=none"):
        augment({"x": x.flatten(1)}, rng)
    kept = augment({"x": x, "label": torch.arange(2), "energy": torch.ones(2), "text": torch.ones(2, 7)}, rng)
    assert {"label", "energy", "text"} <= kept.keys()


def test_a_second_column_of_the_same_name_is_refused() -> None:
    with pytest.raises(UserError, match="adds the column 'augment', which the data have already"):
        Augment()({"x": pictures(2, 1, 4, 4), "augment": torch.zeros(2, 9)}, Rng.of(range(2)))


@pytest.mark.parametrize(
    "cls, change, match",
    [
        (Augment, {"p": 1.5}, r"p is a share in \[0, 1\], got 1.5"),
        (Augment, {"yflip": -0.1}, r"yflip is a share in \[0, 1\], got -0.1"),
        (Augment, {"rotate": 2}, r"rotate is a share"),
        (Augment, {"scale": -1}, r"scale is a standard deviation >= 0, got -1"),
        (Augment, {"translate": math.inf}, r"translate is a standard deviation >= 0, got inf"),
        (Mirror, {"p": 2}, r"p is a share in \[0, 1\], got 2"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_made(cls: Any, change: dict[str, float], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        cls(**change)
