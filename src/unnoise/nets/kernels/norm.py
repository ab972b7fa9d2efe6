"""Group norm with everything that the layers put around it: y = dropout(silu((1 + scale) norm(x + add) + shift)).

    m, r = mean and 1 / sqrt(variance + eps) of x + add over a group of channels and all positions
    y    = dropout(silu((1 + scale) (weight (x + add - m) r + bias) + shift))

Of these only the norm is always there. `eager` says it in torch's words. `fused` reads x and writes y once; torch's own
kernels, one after the other, pass over memory up to eleven times. Its backward pass reads x and the gradient and keeps
nothing but x, m and r: what lies between is computed again, the dropout mask from its seed.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx


def eager(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    *,
    add: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    silu: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """The formula above, for [B, C, *sizes] of any layout.

    Args:
        x: [B, C, *sizes].
        weight: [C].
        bias: [C].
        groups: a divisor of C.
        eps: added to the variance.
        add: broadcast against x, or None.
        scale: broadcast against x, with shift; or None.
        shift: broadcast against x, or None.
        silu: whether SiLU is applied.
        dropout: probability with which an element becomes 0; the others are divided by 1 - dropout.
    """
    h = x
    if h.dtype in (torch.bfloat16, torch.float16) and (h.device.type == "cpu" or weight.dtype != h.dtype):
        # On a CPU a norm in half precision is several times slower than one in full, casts included; elsewhere torch
        # refuses to mix x in half precision with parameters in full, but for autocast, which does the same as this.
        h, weight, bias = h.float(), weight.float(), bias.float()
    h = F.group_norm(h if add is None else h + add, groups, weight, bias, eps)
    if scale is not None:
        assert shift is not None
        h = h * (1 + scale) + shift
    h = (F.silu(h) if silu else h).to(x.dtype)
    return dropped(h, dropout) if dropout else h


def dropped(h: Tensor, p: float) -> Tensor:
    """Dropout of [B, ...]: each element 0 with probability p, else divided by 1 - p.

    On a CPU torch draws a double for each element, which is a tenth of a small network's step, and compiled code takes
    longer still. Here 16 bits do: p is rounded to a multiple of 2^-16, and what is kept is divided by the share that
    this leaves.
    """
    return h * _kept_on_cpu(h.detach(), p) if h.device.type == "cpu" else F.dropout(h, p)


@torch.library.custom_op("unnoise::kept_on_cpu", mutates_args=())
def _kept_on_cpu(h: Tensor, p: float) -> Tensor:
    """What `dropped` multiplies by, in the layout of h; one operation to a compiler, which could not take it apart."""
    below, n = round(p * 2**16), h.numel()
    bits = torch.empty(-(-n // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:n]
    keep = torch.empty_like(h, dtype=torch.bool)
    torch.ge(bits.as_strided(keep.shape, keep.stride()), below - 2**15, out=keep)
    return (keep * (1 / (1 - below * 2.0**-16))).to(h.dtype)


@_kept_on_cpu.register_fake
def _(h: Tensor, p: float) -> Tensor:
    return torch.empty_like(h)


def fits(x: Tensor, *rows: Tensor | None) -> bool:
    """Whether the kernel can take these: x [B, C, H, W] with channels innermost, rows constant over positions."""
    return (
        x.ndim == 4
        and x.dtype in (torch.float32, torch.bfloat16, torch.float16)
        and 0 < x.numel() < 2**31
        and x.is_contiguous(memory_format=torch.channels_last)
        and all(r is None or (r.shape[:2] == x.shape[:2] and r.shape[2:].numel() == 1) for r in rows)
    )


def fused(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    *,
    add: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    silu: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """As `eager`, in two kernels, for what `fits`; add, scale and shift are [B, C, 1, 1].

    Computed in float32, returned in the dtype of x. A second derivative is taken through `eager`.
    """
    rows = [None if r is None else r.reshape(x.shape[:2]) for r in (add, scale, shift)]
    # torch's own generator, as for all dropout: docs/decisions/004
    seed = torch.randint(2**62, (1,), device=x.device) if dropout else None  # noqa: TID251
    return _Fused.apply(x, *rows, weight, bias, seed, groups, eps, silu, dropout)  # type: ignore[no-untyped-call]


def kept(x: Tensor, seed: Tensor, dropout: float) -> Tensor:
    """What the fused kernel multiplies [B, C, H, W] by: 0 with probability `dropout`, else 1 / (1 - dropout).

    A hash of the element's position in the batch and of its channel, each hashed with half of the seed, int64 [1]: all
    by the rounds of Wellons' lowbias32. A cipher such as Philox would cost more than the norm.
    """
    b, c, h, w = x.shape
    position, channel = (torch.arange(n, device=x.device) for n in (b * h * w, c))
    both = _mixed(position ^ (seed & 0xFFFFFFFF))[:, None] ^ _mixed(channel ^ seed >> 32)
    bits = both * 0x7FEB352D & 0xFFFFFFFF
    bits = (bits ^ bits >> 15) * 0x846CA68B & 0xFFFFFFFF
    kept = (bits >> 8 >= threshold(dropout)).to(torch.float32) / (1 - dropout)
    return kept.view(b, h, w, c).permute(0, 3, 1, 2)


def _mixed(bits: Tensor) -> Tensor:
    """Wellons' lowbias32, of numbers below 2^32."""
    bits = (bits ^ bits >> 16) * 0x7FEB352D & 0xFFFFFFFF
    bits = (bits ^ bits >> 15) * 0x846CA68B & 0xFFFFFFFF
    return bits ^ bits >> 16


def threshold(dropout: float) -> int:
    """Of the 24 random bits of an element: below it the element is dropped."""
    return math.ceil(dropout * 2**24)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
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
    ) -> Tensor:
        from unnoise.nets.kernels import norm_triton

        y, mean, rstd = norm_triton.forward(x, add, scale, shift, weight, bias, seed, groups, eps, silu, dropout)
        ctx.save_for_backward(x, add, scale, shift, weight, bias, seed, mean, rstd)
        ctx.groups, ctx.eps, ctx.silu, ctx.dropout = groups, eps, silu, dropout
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, add, scale, shift, weight, bias, seed, mean, rstd = ctx.saved_tensors
        inputs = (x, add, scale, shift, weight, bias)
        if torch.is_grad_enabled():  # the gradient is to have gradients of its own
            found = _again(ctx, inputs, seed, gradients[0])
        else:
            from unnoise.nets.kernels import norm_triton

            found = norm_triton.backward(gradients[0], *inputs, seed, mean, rstd, ctx.groups, ctx.silu, ctx.dropout)
        return *found, None, None, None, None, None


def _again(ctx: FunctionCtx, inputs: tuple[Tensor | None, ...], seed: Tensor | None, gradient: Tensor) -> list[Any]:
    """The gradients through the eager code, with the mask of the fused one."""
    x, add, scale, shift, weight, bias = inputs
    assert x is not None and weight is not None and bias is not None
    rows: dict[str, Any] = {
        k: None if r is None else r[:, :, None, None] for k, r in (("add", add), ("scale", scale), ("shift", shift))
    }
    silu, dropout = ctx.silu, ctx.dropout  # type: ignore[attr-defined]
    y = eager(x, weight, bias, ctx.groups, ctx.eps, **rows, silu=silu)  # type: ignore[attr-defined]
    y = y if seed is None else y * kept(x, seed, dropout)
    wanted = [t for t in inputs if t is not None and t.requires_grad]
    found = iter(torch.autograd.grad(y, wanted, gradient.to(y.dtype), create_graph=True))
    return [next(found) if t is not None and t.requires_grad else None for t in inputs]
