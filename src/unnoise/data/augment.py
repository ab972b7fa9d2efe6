"""Augmentation of pictures in training: mirroring, and geometry that the network is told of, so that it does not leak.

A transformation is a function of a batch of raw data and of the randomness of its rows, so that it depends neither on
how a batch is cut nor on who computes it. Held-out data, statistics and judges see the data as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Float32, Int64, Shaped
from torch import Tensor

from unnoise.core.level import exact
from unnoise.core.rng import Rng
from unnoise.errors import UserError

Rows = Mapping[str, Shaped[Tensor, "b ..."]]
"""A batch of raw data by name."""
WIDTH = 9
"""Numbers by which a network is told what `Augment` did."""


@runtime_checkable
class Augmentation(Protocol):
    """A random change of a batch of raw data before the codec sees it; a frozen value."""

    @property
    def adds(self) -> tuple[str, ...]:
        """The columns that it adds, which say what was done: a conditioner must pass them on."""
        ...

    def __call__(self, batch: Rows, rng: Rng) -> dict[str, Shaped[Tensor, "b ..."]]:
        """The batch, changed; `rng` is of its rows. Raises UserError for columns that it cannot change alike."""
        ...


@dataclass(frozen=True)
class Mirror:
    """Some pictures are mirrored left to right, which the network is not told: samples may be mirrored too.

    Args:
        p: share of the pictures that are mirrored.
    """

    p: float = 0.5

    adds = ()

    def __post_init__(self) -> None:
        _require_shares(p=self.p)

    def __call__(self, batch: Rows, rng: Rng) -> dict[str, Shaped[Tensor, "b ..."]]:
        """The batch with its column x [B, C, H, W] mirrored in some rows, to the bit."""
        x = _pictures(batch, self)
        mirrored: Bool[Tensor, " b"] = rng.uniform(torch.zeros(len(x), device=x.device)) < self.p
        return {**batch, "x": torch.where(mirrored[:, None, None, None], x.flip(-1), x)}


@dataclass(frozen=True)
class Augment:
    """Pictures flipped, scaled, turned, stretched and moved, with what was done as the column "augment" [B, 9].

    A picture goes through, in this order, with numbers a0 .. a7 that are 0 where its transformation is not drawn:

        x-flip, y-flip   a0, a1 in {0, 1}                                told: a0, a1
        scaling          by 2^(scale a2), a2 ~ N(0, 1)                   a2
        rotation         by a3 ~ U(-rotate pi, rotate pi)                cos a3 - 1, sin a3
        stretching       by 2^(stretch a5) along the direction a4,       a5 cos a4, a5 sin a4
                         by its inverse across; a5 ~ N(0, 1), a4 ~ U(-pi, pi)
        translation      by (translate W a6, translate H a7) pixels,     a6, a7
                         a6, a7 ~ N(0, 1)

    A network that is told this learns what the changed pictures look like apart from the others; at sampling it is told
    zeros and makes pictures as they were. Positive numbers turn counter-clockwise as seen, move right and down.

    All of it is one affine resampling by `warp`. There is no low-pass where pictures get smaller, typically by less
    than a third: what aliases is seen in the changed pictures only.

    Source: Karras et al. 2022, arXiv:2206.00364, appendix F.2, table 6: p is 0.12 for CIFAR-10 and 0.15 for FFHQ. Half
    of the pictures are x-flipped whatever p is, as they train CIFAR-10. Deviations: no y-flip unless asked for; cubic
    interpolation in the place of wavelets at twice the resolution.

    Args:
        p: probability of each transformation but the flips; at 0 all are off, flips too.
        xflip: share of the pictures mirrored left to right.
        yflip: share of the pictures mirrored top to bottom.
        scale: standard deviation of log2 of the factor; 0 is off.
        rotate: largest angle as a share of half a turn; 0 is off.
        stretch: standard deviation of log2 of the factor; 0 is off.
        translate: standard deviation as a share of the picture's size; 0 is off.
        whole: translate by whole pixels only.
    """

    p: float = 0.12
    xflip: float = 0.5
    yflip: float = 0.0
    scale: float = 0.2
    rotate: float = 1.0
    stretch: float = 0.2
    translate: float = 0.125
    whole: bool = False

    adds = ("augment",)

    def __post_init__(self) -> None:
        _require_shares(p=self.p, xflip=self.xflip, yflip=self.yflip, rotate=self.rotate)
        for name in ("scale", "stretch", "translate"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is a standard deviation >= 0, got {getattr(self, name)}")

    def __call__(self, batch: Rows, rng: Rng) -> dict[str, Shaped[Tensor, "b ..."]]:
        """The batch with its column x [B, C, H, W] changed, of the same dtype, and "augment" float32 [B, 9].

        Flips and translations by whole pixels alone are exact to the bit.
        """
        x = _pictures(batch, self)
        if self.p == 0:
            return {**batch, "augment": torch.zeros(len(x), WIDTH, device=x.device)}
        a = self.draw(rng, (x.shape[2], x.shape[3]))
        return {**batch, "x": warp(x, self.matrix(a, (x.shape[2], x.shape[3]))), "augment": self.told(a)}

    def draw(self, rng: Rng, size: tuple[int, int]) -> Float[Tensor, "b 8"]:
        """a0 .. a7 of each row, in float64 where the device has it; `size` (H, W) says what a whole pixel is."""
        like = torch.zeros(len(rng), 8, dtype=exact(rng.key.device), device=rng.key.device)
        strengths = (self.scale, self.rotate, self.stretch, self.translate)
        shares = [self.xflip, self.yflip, *(self.p if s else 0.0 for s in strengths)]
        gate = rng.fold(0).uniform(like).unbind(1)
        flipx, flipy, scaled, turned, stretched, moved = (gate[i] < share for i, share in enumerate(shares))
        turn, direction = ((2 * rng.fold(1).uniform(like[:, :2]) - 1) * math.pi).unbind(1)
        scale, stretch, right, down = rng.fold(2).normal(like[:, :4]).unbind(1)
        if self.whole and self.translate:
            right, down = (
                (z * self.translate * n).round() / (self.translate * n)
                for z, n in zip((right, down), reversed(size), strict=True)
            )
        return torch.stack(
            [
                flipx.to(like),
                flipy.to(like),
                torch.where(scaled, scale, 0.0),
                torch.where(turned, turn * self.rotate, 0.0),
                torch.where(stretched, direction, 0.0),
                torch.where(stretched, stretch, 0.0),
                torch.where(moved, right, 0.0),
                torch.where(moved, down, 0.0),
            ],
            1,
        )

    def told(self, a: Float[Tensor, "b 8"]) -> Float32[Tensor, "b 9"]:
        """The column "augment": a0 .. a7 as the network is told them, 0 where nothing was done."""
        flipx, flipy, scale, turn, direction, stretch, right, down = a.unbind(1)
        along = [stretch * direction.cos(), stretch * direction.sin()]
        return torch.stack([flipx, flipy, scale, turn.cos() - 1, turn.sin(), *along, right, down], 1).float()

    def matrix(self, a: Float[Tensor, "b 8"], size: tuple[int, int]) -> Float[Tensor, "b 2 3"]:
        """Where each pixel of the changed picture comes from, as `warp` takes it: the inverse of the transformations.

        Args:
            a: a0 .. a7.
            size: (H, W).
        """
        flipx, flipy, scale, turn, direction, stretch, right, down = a.unbind(1)
        shift_x, shift_y = right * self.translate * size[1], down * self.translate * size[0]
        c, s, along = direction.cos(), direction.sin(), torch.exp2(-self.stretch * stretch)
        xx, xy, yy = c * c * along + s * s / along, c * s * (along - 1 / along), s * s * along + c * c / along
        still = stretch == 0  # or c^2 + s^2 would miss 1 by a rounding
        xx, yy = torch.where(still, 1.0, xx), torch.where(still, 1.0, yy)
        c, s, shrink = turn.cos(), turn.sin(), torch.exp2(-self.scale * scale)
        row_x, row_y = shrink * (1 - 2 * flipx), shrink * (1 - 2 * flipy)
        top = [row_x * (c * xx - s * xy), row_x * (c * xy - s * yy)]
        low = [row_y * (s * xx + c * xy), row_y * (s * xy + c * yy)]
        rows = [torch.stack([*row, -(row[0] * shift_x + row[1] * shift_y)], 1) for row in (top, low)]
        return torch.stack(rows, 1)


def warp(x: Shaped[Tensor, "b c h w"], matrix: Float[Tensor, "b 2 3"]) -> Shaped[Tensor, "b c h w"]:
    """Pictures resampled through an affine map, beyond their borders reflected, in their own dtype and range.

        y(p) = x(M p + m),   p, m in pixels from the middle of the picture, x to the right and y down

    Cubic convolution (Keys 1981, "Cubic convolution interpolation for digital image processing", a = -1/2) in float32,
    or in float64 where the data are integers of 32 bits and more or float64; clamped to what each channel of a picture
    holds already, rounded for integers. Where a pixel comes from a pixel it is that pixel to the bit.

    Args:
        x: pictures of any channels, sizes, range and dtype.
        matrix: (M, m) of each.
    """
    h, w = x.shape[2:]
    wide = x.dtype in (torch.int32, torch.int64, torch.float64)
    pixels = x.to(torch.float64 if wide else torch.float32).flatten(2)
    rows, columns = (torch.arange(n, dtype=matrix.dtype, device=x.device) - (n - 1) / 2 for n in (h, w))
    along_x, along_y, shift = matrix[:, :, :, None, None].unbind(2)
    source = along_x * columns + along_y * rows[:, None] + shift
    (column, across), (row, down) = (_taps(source[:, i] + (n - 1) / 2, n, pixels.dtype) for i, n in enumerate((w, h)))
    out = torch.zeros_like(pixels)
    for j in range(4):
        for i in range(4):
            index = (row[j] * w + column[i]).flatten(1)[:, None].expand(pixels.shape)
            out += (down[j] * across[i]).flatten(1)[:, None] * pixels.gather(2, index)
    out = out.clamp(pixels.amin(2, keepdim=True), pixels.amax(2, keepdim=True)).reshape(x.shape)
    return (out if x.is_floating_point() else out.round()).to(x.dtype)


def _taps(
    at: Float[Tensor, "b h w"], n: int, dtype: torch.dtype
) -> tuple[Int64[Tensor, "4 b h w"], Float[Tensor, "4 b h w"]]:
    """The four of n places around each, reflected about the first and the last, and their weights."""
    low = at.floor()
    t = (at - low).to(dtype)
    period = max(1, 2 * (n - 1))
    index = torch.stack([low.long() + k for k in (-1, 0, 1, 2)]) % period
    weights = [
        ((-0.5 * t + 1) * t - 0.5) * t,
        (1.5 * t - 2.5) * t * t + 1,
        ((-1.5 * t + 2) * t + 0.5) * t,
        (0.5 * t - 0.5) * t * t,
    ]
    return torch.minimum(index, period - index), torch.stack(weights)


def _pictures(batch: Rows, what: Augmentation) -> Shaped[Tensor, "b c h w"]:
    """The column x, where it is of pictures and no other column belongs to their pixels."""
    name, x = type(what).__name__, batch["x"]
    if x.ndim != 4:
        raise UserError(f"{name} changes pictures [C, H, W], the data are of shape {tuple(x.shape[1:])}: augment=none")
    for k, column in batch.items():
        if k in what.adds:
            raise UserError(f"{name} adds the column {k!r}, which the data have already: rename theirs")
        if k != "x" and (k == "mask" or column.ndim > 2):
            raise UserError(
                f"{name} would change x and leave the column {k!r} of shape {tuple(column.shape[1:])}, which belongs "
                "to its pixels, as it is: leave that column out, or train with augment=none"
            )
    return x


def _require_shares(**shares: float) -> None:
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name} is a share in [0, 1], got {share}")
