"""Layers for 1, 2 and 3 spatial dimensions: convolution, group norm, resampling, padding, and chains of them.

Every layer of a chain is called as `layer(h, given)`: h [B, C, *spatial] are the features, `given` is what the network
was told beside its input. A layer that does not need `given` ignores it, so that layers can stand in for each other.
"""

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual

from unnoise.nets import kernels
from unnoise.nets.kernels import norm

CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
AVG_POOL = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
M = TypeVar("M", bound=nn.Module)


def check_dropout(*probabilities: float) -> None:
    """Refuse what is no probability, or drops all; Raises ValueError."""
    for p in probabilities:
        if not 0 <= p < 1:
            raise ValueError(f"dropout is a probability in [0, 1), got {p}")


class Given(NamedTuple):
    """What a network is told beside x, as its layers see it.

    Args:
        embedding: noise level, labels and vector in one, activated, [B, *sizes, E]; sizes are 1 where it is constant.
        context: token sequence [B, L, D].
        mask: [B, L] bool, True = real token; None: all are real.
    """

    embedding: Tensor
    context: Tensor | None = None
    mask: Tensor | None = None


class Chain(nn.Sequential):
    """Layers applied one after the other, each with the same `given`."""

    def forward(self, h: Tensor, given: Given) -> Tensor:  # type: ignore[override]
        for layer in self:
            h = layer(h, given)
        return h


def conv(dims: int, inputs: int, outputs: int, kernel: int, stride: Sequence[int] | int = 1) -> nn.Module:
    """A convolution, zero-padded so that stride 1 keeps the size.

    Args:
        dims: axes that it runs over: 1, 2 or 3.
        inputs: channels.
        outputs: channels.
        kernel: its width along each axis; odd.
        stride: along each axis, or one for all.

    Raises:
        ValueError: for other dims.
    """
    if dims not in {1, 2, 3}:
        raise ValueError(f"dims must be 1, 2 or 3, got {dims}")
    strides: Any = stride if isinstance(stride, int) else tuple(stride)
    return CONV[dims - 1](inputs, outputs, kernel, stride=strides, padding=kernel // 2)


def apart(layer: Any, h: Tensor) -> tuple[Tensor, Tensor | None]:
    """A convolution of h without its bias, and the bias as [1, C, 1, ..], for a norm to add in its own pass.

    Where no kernel does that, the convolution adds it as ever, and there is None.
    """
    if layer.bias is None or h.ndim != 4 or not kernels.wanted(h) or dual(h):
        return layer(h), None
    return layer._conv_forward(h, layer.weight, None), layer.bias.view(1, -1, *(1,) * (h.ndim - 2))


def channels_last(module: nn.Module) -> None:
    """Lay the weights of a two-dimensional network out with channels innermost, which convolutions prefer."""
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def dual(x: Tensor) -> bool:
    """Whether x carries a tangent: flow maps and consistency models ask for forward-mode derivatives."""
    return unpack_dual(x).tangent is not None  # type: ignore[no-untyped-call]


class GroupNorm(nn.GroupNorm):
    """Group norm, with what layers put around it in the same pass: see `kernels.norm`."""

    def forward(
        self,
        h: Tensor,
        *,
        add: Tensor | None = None,
        scale: Tensor | None = None,
        shift: Tensor | None = None,
        silu: bool = False,
        dropout: float = 0.0,
    ) -> Tensor:
        """dropout(silu((1 + scale) norm(h + add) + shift)); without arguments the norm alone.

        Args:
            h: [B, C, *spatial].
            add: [B, C, *sizes], sizes 1 or those of h; None: 0.
            scale: likewise, with shift; None: 0.
            shift: likewise; None: 0.
            silu: whether SiLU is applied.
            dropout: probability, 0 in evaluation.
        """
        given: dict[str, Any] = {"add": add, "scale": scale, "shift": shift, "silu": silu, "dropout": dropout}
        rows = [r for r in (add, scale, shift) if r is not None]
        tangents = any(dual(z) for z in (h, *rows))
        if not tangents and kernels.wanted(h) and norm.fits(h, *rows):
            return norm.fused(h, self.weight, self.bias, self.num_groups, self.eps, **given)
        if tangents:  # torch's forward-mode derivative does not know channels_last
            h = h.clone(memory_format=torch.contiguous_format)
        return norm.eager(h, self.weight, self.bias, self.num_groups, self.eps, **given)


def group_norm(channels: int) -> GroupNorm:
    """Group norm with 32 groups, or fewer in narrow layers: at least 4 channels a group, and a divisor of the channels.

    With one channel a group it would be instance norm and erase what the channel's mean says. In published networks,
    from 128 channels on, these are the 32 groups of Ho et al. 2020; the rule for fewer channels is that of Karras et
    al. 2022 (arXiv 2206.00364).
    """
    return GroupNorm(math.gcd(max(1, min(32, channels // 4)), channels), channels)


def zero(module: M) -> M:
    """The module with all parameters set to zero: a residual branch that ends in it starts as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def merge(skip: Tensor, branch: Tensor, rescale: bool) -> Tensor:
    """skip + branch, divided by sqrt(2) if `rescale`, which keeps the variance of two independent terms.

    Source: Song et al. 2021, arXiv 2011.13456, appendix H.
    """
    return (skip + branch) * math.sqrt(0.5) if rescale else skip + branch


def join(h: Tensor, skip: Tensor) -> Tensor:
    """h and what a skip connection brings, one above the other: [B, C, *spatial], [B, D, *spatial] -> [B, C + D, ..].

    The gradient of h is a part of that of both, with gaps in memory, and three convolutions would each copy it: it is
    made dense once.
    """
    if h.ndim == 4 and h.requires_grad and torch.is_grad_enabled() and not dual(h):
        h = _Dense.apply(h)  # type: ignore[no-untyped-call]
    return torch.cat([h, skip], dim=1)


class _Dense(torch.autograd.Function):
    """The identity, whose gradient lies dense in memory, channels innermost."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].contiguous(memory_format=torch.channels_last)


def shrink(h: Tensor, strides: Sequence[int]) -> Tensor:
    """Average pooling by strides[i] along spatial axis i; sizes must divide (`pad` sees to it)."""
    return AVG_POOL[len(strides) - 1](h, tuple(strides))


def grow(h: Tensor, strides: Sequence[int]) -> Tensor:
    """Repeats each element strides[i] times along spatial axis i: the adjoint of `shrink` up to a factor."""
    if len(strides) != 2:
        return F.interpolate(h, size=[n * s for n, s in zip(h.shape[2:], strides, strict=True)], mode="nearest")
    # With channels innermost, as two-dimensional networks have them; under autocast torch's own goes through float32,
    # and its derivative is scattered by compiled code.
    b, c, height, width = h.shape
    down, right = strides
    pixels = h.permute(0, 2, 3, 1)[:, :, None, :, None, :].expand(b, height, down, width, right, c)
    return pixels.reshape(b, height * down, width * right, c).permute(0, 3, 1, 2)


class Downsample(nn.Module):
    """A 3-wide convolution with stride: [B, C, *sizes] -> [B, C, *sizes / strides].

    Source: Ho et al. 2020. Padded alike on both sides, as Dhariwal & Nichol do; Ho et al. pad on the far side alone.

    Args:
        channels: C.
        strides: of each spatial axis.
    """

    def __init__(self, channels: int, strides: Sequence[int]) -> None:
        super().__init__()
        self.conv = conv(len(strides), channels, channels, 3, strides)

    def forward(self, h: Tensor, given: Given) -> Tensor:
        return self.conv(h)


class Upsample(nn.Module):
    """Repetition, then a 3-wide convolution: [B, C, *sizes] -> [B, C, *sizes * strides].

    Source: Ho et al. 2020.

    Args:
        channels: C.
        strides: of each spatial axis.
    """

    def __init__(self, channels: int, strides: Sequence[int]) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.conv = conv(len(strides), channels, channels, 3)

    def forward(self, h: Tensor, given: Given) -> Tensor:
        return self.conv(grow(h, self.strides))


def pad(x: Tensor, multiples: Sequence[int]) -> Tensor:
    """x with its border repeated at the far end of each spatial axis, up to the next multiple; `crop` undoes it.

    Repetition, because it works for every size (reflection asks that the padding be smaller than the image) and adds no
    edge: group norm and attention see the padding, and zeros would be a black frame to them. At the far end, so that
    element 0 keeps its place in the strides whatever the size.
    """
    missing = [(m - n % m) % m for n, m in zip(x.shape[2:], multiples, strict=True)]
    if not any(missing):
        return x
    return F.pad(x, list(chain.from_iterable((0, n) for n in reversed(missing))), mode="replicate")


def crop(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """The first sizes[i] elements along each spatial axis i."""
    for axis, n in enumerate(sizes, start=2):
        x = x.narrow(axis, 0, n)
    return x
