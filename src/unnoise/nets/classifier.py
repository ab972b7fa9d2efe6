"""Convolutional classifiers: judges of samples."""

from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from unnoise.nets.layers import channels_last, conv, group_norm, merge, shrink, zero

ADAPTIVE_POOL: tuple[Any, ...] = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)


class ConvClassifier(nn.Module):
    """Stages of (conv, norm, silu) twice and a halving, then means over positions and a two-layer head.

    Group norm, so that a row's verdict does not depend on its batch. Told no noise level: it judges clean samples.

    Args:
        channels: C of x.
        classes: number of logits.
        width: channels of the first stage; each further stage has twice as many.
        stages: halvings; x needs at least 2^stages elements along each axis.
        dims: spatial axes of x: 1, 2 or 3.
        hidden: F, the number of features.
        dropout: probability, on the features while training.
        grid: cells along each axis, of each of which the mean is taken: 1 where the place of a thing says nothing, more
            where all items are drawn to one frame.
    """

    def __init__(
        self,
        *,
        channels: int,
        classes: int,
        width: int = 32,
        stages: int = 2,
        dims: int = 2,
        hidden: int = 64,
        dropout: float = 0.0,
        grid: int = 1,
    ) -> None:
        super().__init__()
        self.channels, self.classes, self.width, self.stages = channels, classes, width, stages
        self.dims, self.hidden, self.dropout, self.grid = dims, hidden, dropout, grid
        widths = [channels, *(width * 2**i for i in range(stages))]
        self.body = nn.ModuleList(
            nn.Sequential(*_conv_norm_silu(dims, a, b), *_conv_norm_silu(dims, b, b)) for a, b in pairwise(widths)
        )
        self.inner = nn.Linear(widths[-1] * grid**dims, hidden)
        self.outer = nn.Linear(hidden, classes)
        if dims == 2:
            channels_last(self)

    def features(self, x: Tensor) -> Tensor:
        """What the logits are a linear function of: x [B, C, *spatial] -> [B, F].

        Raises:
            ValueError: for an x of other axes, or too small for the halvings.
        """
        smallest = 2**self.stages
        if x.ndim != self.dims + 2 or min(x.shape[2:]) < smallest:
            raise ValueError(f"x must have {self.dims} spatial axes of at least {smallest}, got {tuple(x.shape)}")
        for stage in self.body:
            x = shrink(stage(x), (2,) * self.dims)
        if self.grid == 1:
            return F.silu(self.inner(x.flatten(2).mean(dim=2)))
        cells: Tensor = ADAPTIVE_POOL[self.dims - 1](x, (self.grid,) * self.dims)
        return F.silu(self.inner(cells.flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, *spatial] -> logits [B, classes]; Raises ValueError as `features` does."""
        return self.outer(F.dropout(self.features(x), self.dropout, self.training))


def _conv_norm_silu(dims: int, inputs: int, outputs: int) -> list[nn.Module]:
    return [conv(dims, inputs, outputs, 3), group_norm(outputs), nn.SiLU()]


class ResidualClassifier(nn.Module):
    """A residual network: blocks of two convolutions, halvings between stages, then means over positions.

        block:  x + conv(silu(norm(conv(silu(norm(x))))))

    Group norm, so that a row's verdict does not depend on its batch. Told no noise level: it judges clean samples.

    Source: He et al. 2016, arXiv:1603.05027 (norms first).

    Args:
        channels: C of x.
        classes: number of logits.
        width: channels of the first stage; each further stage has twice as many.
        stages: of the network, with stages - 1 halvings.
        blocks: residual blocks a stage.
        dims: spatial axes of x: 1, 2 or 3.
    """

    def __init__(
        self, *, channels: int, classes: int, width: int = 64, stages: int = 3, blocks: int = 2, dims: int = 2
    ) -> None:
        super().__init__()
        self.channels, self.classes, self.width = channels, classes, width
        self.stages, self.blocks, self.dims = stages, blocks, dims
        widths = [width * 2**i for i in range(stages)]
        self.stem = conv(dims, channels, width, 3)
        self.body = nn.ModuleList(
            nn.Sequential(*(_Residual(dims, before if i == 0 else own, own) for i in range(blocks)))
            for before, own in pairwise([width, *widths])
        )
        self.norm = group_norm(widths[-1])
        self.outer = nn.Linear(widths[-1], classes)
        if dims == 2:
            channels_last(self)

    def features(self, x: Tensor) -> Tensor:
        """What the logits are a linear function of: x [B, C, *spatial] -> [B, F].

        Raises:
            ValueError: for an x of other axes, or too small for the halvings.
        """
        smallest = 2 ** (self.stages - 1)
        if x.ndim != self.dims + 2 or min(x.shape[2:]) < smallest:
            raise ValueError(f"x must have {self.dims} spatial axes of at least {smallest}, got {tuple(x.shape)}")
        h = self.stem(x)
        for i, stage in enumerate(self.body):
            h = stage(shrink(h, (2,) * self.dims) if i else h)
        means: Tensor = self.norm(h, silu=True).flatten(2).mean(dim=2)
        return means

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, *spatial] -> logits [B, classes]; Raises ValueError as `features` does."""
        return self.outer(self.features(x))


class _Residual(nn.Module):
    def __init__(self, dims: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm_in, self.conv_in = group_norm(inputs), conv(dims, inputs, outputs, 3)
        self.norm_out, self.conv_out = group_norm(outputs), zero(conv(dims, outputs, outputs, 3))
        self.skip = nn.Identity() if inputs == outputs else conv(dims, inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_out(self.norm_out(self.conv_in(self.norm_in(x, silu=True)), silu=True))
        return merge(self.skip(x), h, rescale=False)
