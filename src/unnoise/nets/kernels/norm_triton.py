"""The kernels of `norm.fused`: a program works on some groups of channels of one row, at all its positions.

Sums are taken around the row's first position, so that a mean far from zero costs no digits. Nothing is reduced across
programs: what parameters and conditions need is returned as sums by row and channel, and added up by torch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from unnoise.nets.kernels.norm import threshold

_CHANNELS = 64
"""Channels that a program works on, at most, where a group is not larger."""
_TILE = 2048
"""Elements that it reads at a time."""


@triton.jit
def _by_group(v, group):  # type: ignore[no-untyped-def]
    """The sum over the group of each channel: [C] -> [C]."""
    return tl.sum(tl.where(group[:, None] == group[None, :], v[None, :], 0.0), 1)


@triton.jit  # type: ignore[untyped-decorator]
def _row(x, n, stride, channel, real, there: tl.constexpr, otherwise: tl.constexpr):  # type: ignore[no-untyped-def]
    """Row n of [B, C] at these channels, or a constant where there is no x."""
    if there:
        return tl.load(x + n * stride + channel, mask=real, other=otherwise).to(tl.float32)
    else:  # noqa: RET505 (a branch of the compiler's)
        return tl.zeros(channel.shape, tl.float32) + otherwise


@triton.jit
def _drop(place, seed, below):  # type: ignore[no-untyped-def]
    """Whether the element at a place in memory is dropped; `norm.kept` says the same in torch's words."""
    bits = place.to(tl.uint32) ^ seed.to(tl.uint32)
    bits = (bits ^ (bits >> 16)) * 0x7FEB352D
    bits = bits ^ (seed >> 32).to(tl.uint32)
    bits = (bits ^ (bits >> 15)) * 0x846CA68B
    bits = bits ^ (bits >> 16)
    return (bits >> 8) < below


@triton.jit  # type: ignore[untyped-decorator]
def _forward(  # type: ignore[no-untyped-def]
    x, y, add, scale, shift, weight, bias, seed, mean, rstd,
    add_stride, scale_stride, shift_stride, positions, channels, groups, eps, below, boost,
    has_add: tl.constexpr, modulated: tl.constexpr, silu: tl.constexpr, drops: tl.constexpr,
    wide: tl.constexpr, together: tl.constexpr, block: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    blocks = groups // together
    n, first = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks * together
    c = tl.arange(0, block)
    group, channel, real = c // wide, first * wide + c, c < wide * together
    k = _row(add, n, add_stride, channel, real, has_add, 0.0)
    start = n * positions * channels
    pivot = tl.load(x + start + channel, mask=real, other=0.0).to(tl.float32)
    total = tl.zeros((tile, block), tl.float32)
    squares = tl.zeros((tile, block), tl.float32)
    for at in range(0, positions, tile):
        p = at + tl.arange(0, tile)
        there = (p < positions)[:, None] & real[None, :]
        v = tl.load(x + start + p[:, None] * channels + channel[None, :], mask=there, other=0.0).to(tl.float32)
        v = tl.where(there, v - pivot[None, :], 0.0)
        total += v
        squares += v * v
    offset = tl.sum(total, 0) / positions
    within = tl.sum(squares, 0) - positions * offset * offset
    centre = pivot + k + offset
    m = _by_group(tl.where(real, centre, 0.0), group) / wide
    between = centre - m
    spread = tl.where(real, within + positions * between * between, 0.0)
    r = tl.rsqrt(tl.maximum(_by_group(spread, group), 0.0) / (positions * wide) + eps)
    leads = real & (c % wide == 0)
    tl.store(mean + n * groups + first + group, m, mask=leads)
    tl.store(rstd + n * groups + first + group, r, mask=leads)

    w = tl.load(weight + channel, mask=real, other=0.0).to(tl.float32)
    b = tl.load(bias + channel, mask=real, other=0.0).to(tl.float32)
    s = 1.0 + _row(scale, n, scale_stride, channel, real, modulated, 0.0)
    t = _row(shift, n, shift_stride, channel, real, modulated, 0.0)
    slope, level = r * w * s, ((k - m) * r * w + b) * s + t
    dice = tl.load(seed) if drops else 0
    for at in range(0, positions, tile):
        p = at + tl.arange(0, tile)
        there = (p < positions)[:, None] & real[None, :]
        place = start + p[:, None] * channels + channel[None, :]
        v = tl.load(x + place, mask=there, other=0.0).to(tl.float32) * slope[None, :] + level[None, :]
        if silu:
            v = v * tl.sigmoid(v)
        if drops:
            v = tl.where(_drop(place, dice, below), 0.0, v * boost)
        tl.store(y + place, v.to(y.dtype.element_ty), mask=there)


@triton.jit  # type: ignore[untyped-decorator]
def _inner(v, dy, place, m, r, k, w, b, s, t, dice, below, boost, silu: tl.constexpr, drops: tl.constexpr):  # type: ignore[no-untyped-def]
    """The normalised input, and the gradient of what went into SiLU."""
    normed = (v + k[None, :] - m[None, :]) * r[None, :]
    if drops:
        dy = tl.where(_drop(place, dice, below), 0.0, dy * boost)
    if silu:
        z = (normed * w[None, :] + b[None, :]) * s[None, :] + t[None, :]
        gate = tl.sigmoid(z)
        dy = dy * gate * (1.0 + z * (1.0 - gate))
    return normed, dy


@triton.jit  # type: ignore[untyped-decorator]
def _backward(  # type: ignore[no-untyped-def]
    dy, x, dx, add, scale, shift, weight, bias, seed, mean, rstd, sums, products, d_add,
    add_stride, scale_stride, shift_stride, positions, channels, groups, below, boost,
    has_add: tl.constexpr, modulated: tl.constexpr, silu: tl.constexpr, drops: tl.constexpr,
    wide: tl.constexpr, together: tl.constexpr, block: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    blocks = groups // together
    n, first = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks * together
    c = tl.arange(0, block)
    group, channel, real = c // wide, first * wide + c, c < wide * together
    start = n * positions * channels
    k = _row(add, n, add_stride, channel, real, has_add, 0.0)
    s = 1.0 + _row(scale, n, scale_stride, channel, real, modulated, 0.0)
    t = _row(shift, n, shift_stride, channel, real, modulated, 0.0)
    w = tl.load(weight + channel, mask=real, other=0.0).to(tl.float32)
    b = tl.load(bias + channel, mask=real, other=0.0).to(tl.float32)
    m = tl.load(mean + n * groups + first + group, mask=real, other=0.0)
    r = tl.load(rstd + n * groups + first + group, mask=real, other=0.0)
    dice = tl.load(seed) if drops else 0
    total = tl.zeros((tile, block), tl.float32)
    product = tl.zeros((tile, block), tl.float32)
    inputs = tl.zeros((tile, block), tl.float32)
    for at in range(0, positions, tile):
        p = at + tl.arange(0, tile)
        there = (p < positions)[:, None] & real[None, :]
        place = start + p[:, None] * channels + channel[None, :]
        v = tl.load(x + place, mask=there, other=0.0).to(tl.float32)
        g = tl.load(dy + place, mask=there, other=0.0).to(tl.float32)
        normed, g = _inner(v, g, place, m, r, k, w, b, s, t, dice, below, boost, silu, drops)
        total += g
        product += g * normed
        if has_add:
            inputs += tl.where(there, normed, 0.0)
    by_channel, with_input = tl.sum(total, 0), tl.sum(product, 0)
    a, count = s * w, positions * wide
    constant = _by_group(a * by_channel, group) / count
    linear = _by_group(a * with_input, group) / count
    tl.store(sums + n * channels + channel, by_channel, mask=real)
    tl.store(products + n * channels + channel, with_input, mask=real)
    if has_add:
        whole = r * (a * by_channel - positions * constant - linear * tl.sum(inputs, 0))
        tl.store(d_add + n * channels + channel, whole, mask=real)
    for at in range(0, positions, tile):
        p = at + tl.arange(0, tile)
        there = (p < positions)[:, None] & real[None, :]
        place = start + p[:, None] * channels + channel[None, :]
        v = tl.load(x + place, mask=there, other=0.0).to(tl.float32)
        g = tl.load(dy + place, mask=there, other=0.0).to(tl.float32)
        normed, g = _inner(v, g, place, m, r, k, w, b, s, t, dice, below, boost, silu, drops)
        d = r[None, :] * (a[None, :] * g - constant[None, :] - linear[None, :] * normed)
        tl.store(dx + place, d.to(dx.dtype.element_ty), mask=there)


def _shape(channels: int, groups: int, positions: int) -> dict[str, int]:
    """Which part of the work a program does."""
    wide = channels // groups
    together = max(d for d in range(1, groups + 1) if groups % d == 0 and (d * wide <= _CHANNELS or d == 1))
    block = triton.next_power_of_2(wide * together)
    tile = max(1, min(_TILE // block, triton.next_power_of_2(positions)))
    return {
        "wide": wide,
        "together": together,
        "block": block,
        "tile": tile,
        "num_warps": 8 if tile * block >= 2048 else 4,
    }


def _rows(*rows: Tensor | None) -> tuple[list[Tensor | None], list[int]]:
    """[B, C] with channels next to each other, and how far apart rows are."""
    own = [r if r is None or r.stride(1) == 1 else r.contiguous() for r in rows]
    return own, [0 if r is None else r.stride(0) for r in own]


def forward(
    x: Tensor,
    add: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    seed: Tensor | None,
    groups: int,
    eps: float,
    silu: bool,
    dropout: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """y like x, and mean and 1 / std float32 [B, groups]."""
    b, c, h, w = x.shape
    y = torch.empty_like(x)
    mean = torch.empty(b, groups, dtype=torch.float32, device=x.device)
    rstd = torch.empty_like(mean)
    rows, strides = _rows(add, scale, shift)
    shape = _shape(c, groups, h * w)
    _forward[(b * groups // shape["together"],)](
        x, y, *rows, weight, bias, seed, mean, rstd, *strides, h * w, c, groups, eps, threshold(dropout),
        1 / (1 - dropout), add is not None, scale is not None, silu, seed is not None, **shape,
    )  # fmt: skip
    return y, mean, rstd


def backward(
    dy: Tensor,
    x: Tensor,
    add: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    seed: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    groups: int,
    silu: bool,
    dropout: float,
) -> list[Tensor | None]:
    """The gradients of x, add, scale, shift, weight and bias."""
    b, c, h, w = x.shape
    dy = dy.contiguous(memory_format=torch.channels_last)
    dx = torch.empty_like(x)
    sums = torch.empty(b, c, dtype=torch.float32, device=x.device)
    products, d_add = torch.empty_like(sums), None if add is None else torch.empty_like(sums)
    rows, strides = _rows(add, scale, shift)
    shape = _shape(c, groups, h * w)
    _backward[(b * groups // shape["together"],)](
        dy, x, dx, *rows, weight, bias, seed, mean, rstd, sums, products, d_add, *strides, h * w, c, groups,
        threshold(dropout), 1 / (1 - dropout), add is not None, scale is not None, silu, seed is not None, **shape,
    )  # fmt: skip
    slope = 1.0 if scale is None else 1 + scale.float()
    return [
        dx,
        None if add is None or d_add is None else d_add.to(add.dtype),
        None if scale is None else (weight * products + bias * sums).to(scale.dtype),
        None if shift is None else sums.to(shift.dtype),
        (slope * products).sum(0).to(weight.dtype),
        (slope * sums).sum(0).to(bias.dtype),
    ]
