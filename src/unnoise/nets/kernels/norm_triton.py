"""The kernels of `norm.fused`: a program works on some groups of channels of one row, at all its positions.

Where these fit into the registers of a program they are read once; larger ones in tiles, and again for the second pass,
which mostly finds them in the cache. Nothing is reduced across programs: what parameters and conditions need is
returned as sums by row and channel, and added up by torch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from unnoise.nets.kernels.norm import threshold

_HELD = 4096
"""Elements of a program, at most, that are read once. More of them leave too few programs to a multiprocessor."""
_HELD_CHANNELS = 32
"""Channels of such a program, at most, where a group is not larger."""
_CHANNELS = 64
"""Channels of a program that reads tiles, at most, where a group is not larger."""
_TILE = 2048
"""Elements that it reads at a time."""
_STAGES = 3
"""Of the pipeline of its loads."""


@triton.jit
def _by_group(v, group):  # type: ignore[no-untyped-def]
    """The sum over the group of each channel: [C] -> [C]."""
    return tl.sum(tl.where(group[:, None] == group[None, :], v[None, :], 0.0), 1)


@triton.jit  # type: ignore[untyped-decorator]
def _row(x, n, stride, channel, real, there: tl.constexpr):  # type: ignore[no-untyped-def]
    """Row n of [B, C] at these channels, or 0 where there is no x."""
    if there:
        return tl.load(x + n * stride + channel, mask=real, other=0.0).to(tl.float32)
    else:  # noqa: RET505 (a branch of the compiler's)
        return tl.zeros(channel.shape, tl.float32)


@triton.jit
def _mixed(bits):  # type: ignore[no-untyped-def]
    """Wellons' lowbias32."""
    bits = (bits ^ (bits >> 16)) * 0x7FEB352D
    bits = (bits ^ (bits >> 15)) * 0x846CA68B
    return bits ^ (bits >> 16)


@triton.jit
def _dropped(position, channel, seed, below):  # type: ignore[no-untyped-def]
    """[T, C]: whether the element at a position of the batch [T] and a channel [C] is dropped, see `norm.kept`."""
    of_position = _mixed(position.to(tl.uint32) ^ seed.to(tl.uint32))
    of_channel = _mixed(channel.to(tl.uint32) ^ (seed >> 32).to(tl.uint32))
    bits = (of_position[:, None] ^ of_channel[None, :]) * 0x7FEB352D
    bits = (bits ^ (bits >> 15)) * 0x846CA68B
    return (bits >> 8) < below


@triton.jit
def _tile(x, p, channel, positions, channels, real):  # type: ignore[no-untyped-def]
    """[T, C] float32 of a row that begins at x, 0 beyond its ends."""
    there = (p < positions)[:, None] & real[None, :]
    return tl.load(x + (p[:, None] * channels + channel[None, :]), mask=there, other=0.0).to(tl.float32)


@triton.jit  # type: ignore[untyped-decorator]
def _out(  # type: ignore[no-untyped-def]
    v, y, n, p, channel, positions, channels, real, slope, level, dice, below: tl.constexpr, boost: tl.constexpr,
    silu: tl.constexpr,
):  # fmt: skip
    """Write slope v + level, through SiLU and dropout."""
    v = v * slope[None, :] + level[None, :]
    if silu:
        v = v * tl.sigmoid(v)
    if below > 0:
        v = tl.where(_dropped(n * positions + p, channel, dice, below), 0.0, v * boost)
    there = (p < positions)[:, None] & real[None, :]
    tl.store(y + (p[:, None] * channels + channel[None, :]), v.to(y.dtype.element_ty), mask=there)


@triton.jit  # type: ignore[untyped-decorator]
def _forward(  # type: ignore[no-untyped-def]
    x, y, add, scale, shift, weight, bias, seed, mean, rstd,
    add_stride, scale_stride, shift_stride, positions, channels, groups,
    eps: tl.constexpr, below: tl.constexpr, boost: tl.constexpr,
    has_add: tl.constexpr, modulated: tl.constexpr, silu: tl.constexpr,
    wide: tl.constexpr, together: tl.constexpr, block: tl.constexpr, tile: tl.constexpr, held: tl.constexpr,
    stages: tl.constexpr,
):  # fmt: skip
    blocks = groups // together
    n, first = tl.program_id(0) // blocks, tl.program_id(0) % blocks * together
    c = tl.arange(0, block)
    group, channel, real = c // wide, first * wide + c, c < wide * together
    start = n.to(tl.int64) * positions * channels
    x += start
    y += start
    p = tl.arange(0, tile)
    k = _row(add, n, add_stride, channel, real, has_add)
    if held:
        v = _tile(x, p, channel, positions, channels, real)
        offset = tl.sum(v, 0) / positions
        centre = offset + k
        m = _by_group(tl.where(real, centre, 0.0), group) / wide
        away = tl.where((p < positions)[:, None] & real[None, :], v + (k - m)[None, :], 0.0)
        spread = tl.sum(away * away, 0)
    else:  # around the first position, so that a mean far from zero costs no digits
        pivot = tl.load(x + channel, mask=real, other=0.0).to(tl.float32)
        total = tl.zeros((tile, block), tl.float32)
        squares = tl.zeros((tile, block), tl.float32)
        for at in tl.range(0, positions, tile, num_stages=stages):
            away = _tile(x, at + p, channel, positions, channels, real) - pivot[None, :]
            away = tl.where((at + p < positions)[:, None], away, 0.0)
            total += away
            squares += away * away
        offset = tl.sum(total, 0) / positions
        centre = pivot + k + offset
        m = _by_group(tl.where(real, centre, 0.0), group) / wide
        between = tl.where(real, centre - m, 0.0)
        spread = tl.sum(squares, 0) - positions * offset * offset + positions * between * between
    r = tl.rsqrt(tl.maximum(_by_group(spread, group), 0.0) / (positions * wide) + eps)
    leads = real & (c % wide == 0)
    tl.store(mean + n * groups + first + group, m, mask=leads)
    tl.store(rstd + n * groups + first + group, r, mask=leads)

    w = tl.load(weight + channel, mask=real, other=0.0).to(tl.float32)
    b = tl.load(bias + channel, mask=real, other=0.0).to(tl.float32)
    s = 1.0 + _row(scale, n, scale_stride, channel, real, modulated)
    t = _row(shift, n, shift_stride, channel, real, modulated)
    slope, level = r * w * s, ((k - m) * r * w + b) * s + t
    dice = tl.load(seed) if below > 0 else 0
    if held:
        _out(v, y, n, p, channel, positions, channels, real, slope, level, dice, below, boost, silu)
    else:
        for done in tl.range(0, positions, tile, num_stages=stages):  # the last read first: it may still be cached
            at = tl.cdiv(positions, tile) * tile - tile - done
            v = _tile(x, at + p, channel, positions, channels, real)
            _out(v, y, n, at + p, channel, positions, channels, real, slope, level, dice, below, boost, silu)


@triton.jit  # type: ignore[untyped-decorator]
def _inner(  # type: ignore[no-untyped-def]
    x, dy, n, p, channel, positions, channels, real, r, level, slope, offset, dice,
    below: tl.constexpr, boost: tl.constexpr, silu: tl.constexpr,
):  # fmt: skip
    """The normalised input r x + level, and the gradient of what went into SiLU, slope normed + offset."""
    normed = _tile(x, p, channel, positions, channels, real) * r[None, :] + level[None, :]
    g = _tile(dy, p, channel, positions, channels, real)
    if below > 0:
        g = tl.where(_dropped(n * positions + p, channel, dice, below), 0.0, g * boost)
    if silu:
        z = normed * slope[None, :] + offset[None, :]
        gate = tl.sigmoid(z)
        g = g * (gate + z * (gate - gate * gate))
    return normed, g


@triton.jit  # type: ignore[untyped-decorator]
def _backward(  # type: ignore[no-untyped-def]
    dy, x, dx, add, scale, shift, weight, bias, seed, mean, rstd, sums, products, d_add,
    add_stride, scale_stride, shift_stride, positions, channels, groups, below: tl.constexpr, boost: tl.constexpr,
    has_add: tl.constexpr, modulated: tl.constexpr, silu: tl.constexpr,
    wide: tl.constexpr, together: tl.constexpr, block: tl.constexpr, tile: tl.constexpr, held: tl.constexpr,
    stages: tl.constexpr,
):  # fmt: skip
    blocks = groups // together
    n, first = tl.program_id(0) // blocks, tl.program_id(0) % blocks * together
    c = tl.arange(0, block)
    group, channel, real = c // wide, first * wide + c, c < wide * together
    start = n.to(tl.int64) * positions * channels
    x += start
    dy += start
    dx += start
    p = tl.arange(0, tile)
    s = 1.0 + _row(scale, n, scale_stride, channel, real, modulated)
    t = _row(shift, n, shift_stride, channel, real, modulated)
    w = tl.load(weight + channel, mask=real, other=0.0).to(tl.float32)
    b = tl.load(bias + channel, mask=real, other=0.0).to(tl.float32)
    m = tl.load(mean + n * groups + first + group, mask=real, other=0.0)
    r = tl.load(rstd + n * groups + first + group, mask=real, other=0.0)
    level = (_row(add, n, add_stride, channel, real, has_add) - m) * r
    slope, offset = w * s, b * s + t
    dice = tl.load(seed) if below > 0 else 0
    if held:
        normed, g = _inner(
            x, dy, n, p, channel, positions, channels, real, r, level, slope, offset, dice, below, boost, silu
        )
        by_channel, with_input = tl.sum(g, 0), tl.sum(g * normed, 0)
        if has_add:
            inputs = tl.sum(tl.where((p < positions)[:, None], normed, 0.0), 0)
    else:
        total = tl.zeros((tile, block), tl.float32)
        product = tl.zeros((tile, block), tl.float32)
        whole = tl.zeros((tile, block), tl.float32)
        for at in tl.range(0, positions, tile, num_stages=stages):
            normed, g = _inner(
                x, dy, n, at + p, channel, positions, channels, real, r, level, slope, offset, dice, below, boost, silu
            )
            total += g
            product += g * normed
            if has_add:
                whole += tl.where((at + p < positions)[:, None], normed, 0.0)
        by_channel, with_input, inputs = tl.sum(total, 0), tl.sum(product, 0), tl.sum(whole, 0)
    count = positions * wide
    constant = _by_group(slope * by_channel, group) / count
    linear = _by_group(slope * with_input, group) / count
    tl.store(sums + n * channels + channel, by_channel, mask=real)
    tl.store(products + n * channels + channel, with_input, mask=real)
    if has_add:
        of_row = r * (slope * by_channel - positions * constant - linear * inputs)
        tl.store(d_add + n * channels + channel, of_row, mask=real)
    steep, flat, tilt = r * slope, r * constant, r * linear
    if held:
        d = g * steep[None, :] - flat[None, :] - normed * tilt[None, :]
        there = (p < positions)[:, None] & real[None, :]
        tl.store(dx + (p[:, None] * channels + channel[None, :]), d.to(dx.dtype.element_ty), mask=there)
    else:
        for done in tl.range(0, positions, tile, num_stages=stages):
            at = tl.cdiv(positions, tile) * tile - tile - done
            normed, g = _inner(
                x, dy, n, at + p, channel, positions, channels, real, r, level, slope, offset, dice, below, boost, silu
            )
            d = g * steep[None, :] - flat[None, :] - normed * tilt[None, :]
            there = (at + p < positions)[:, None] & real[None, :]
            tl.store(dx + ((at + p)[:, None] * channels + channel[None, :]), d.to(dx.dtype.element_ty), mask=there)


def _shape(channels: int, groups: int, positions: int) -> dict[str, int]:
    """Which part of the work a program does, and how.

    Positions are compared with and not calculated with: in a network compiled for pictures of many sizes their number
    is a symbol, and what a kernel is launched with must be a number.
    """
    wide, tile = channels // groups, 1
    while tile < positions:
        tile *= 2
    together = _together(wide, groups, min(_HELD // tile, _HELD_CHANNELS))
    block = triton.next_power_of_2(together * wide)
    held = block * tile <= _HELD and (block >= 16 or together == groups)  # 16 channels are a sector of memory
    if not held:
        together = _together(wide, groups, _CHANNELS)
        block = triton.next_power_of_2(together * wide)
        tile = max(1, min(_TILE // block, tile))
    return {
        "wide": wide,
        "together": together,
        "block": block,
        "tile": tile,
        "held": held,
        "stages": _STAGES,
        "num_warps": max(2, block * tile // 1024) if held else 4,
    }


def _together(wide: int, groups: int, most: int) -> int:
    """How many groups, a divisor of all, lie within so many channels; at least one."""
    found = 1
    for n in range(2, groups + 1):
        if groups % n == 0 and triton.next_power_of_2(n * wide) <= most:
            found = n
    return found


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
        1 / (1 - dropout), add is not None, scale is not None, silu, **shape,
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
        threshold(dropout), 1 / (1 - dropout), add is not None, scale is not None, silu, **shape,
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
