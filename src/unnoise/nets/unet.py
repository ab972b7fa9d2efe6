"""The U-Net, for signals, images and volumes or videos."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import CrossAttention, SelfAttention
from .embedding import Embedding, check_conditions
from .layers import Chain, Downsample, Given, Upsample, conv, crop, group_norm, pad, zero
from .residual import ResidualBlock

RESERVED = {"vector", "context", "context_mask", "image"}


class UNet(nn.Module):
    """net(x, c_noise, **cond): residual blocks down to a coarse grid and up again, with skips between equal sizes.

        down:    level 0 .. L-1:  entry, then `blocks` residual blocks       (entry: the stem, or a halving)
        middle:  residual block, attention, residual block
        up:      level L-1 .. 0:  `blocks` + 1 residual blocks, then a doubling (or the head)

    Every layer of the way down hands its output to one block of the way up, last to first. At initialisation the head is
    zero, so the output is exactly 0 and a preconditioned denoiser starts as c_skip x.

    channels:      C of x
    out_channels:  channels of the output, None = C; 2 C for a learned variance
    dims:          spatial axes of x: 1, 2 or 3
    width, multipliers: level i has int(width multipliers[i]) channels; width must be even
    blocks:        residual blocks a level
    attention:     downsampling factors 1, 2, 4, ... 2^(L-1) of the levels that attend (level i has factor 2^i)
    middle_attention: whether the middle attends; it may be too dear for videos
    head_width:    channels a head, None = one head
    norm:          how the embedding enters: "adaptive" scale and shift, or "additive"; see ResidualBlock
    resample:      "block": by residual blocks (Dhariwal & Nichol); "strided": by convolutions (Ho et al.)
    strides:       factor by which each spatial axis is halved between levels, None = 2 for all; (1, 2, 2) leaves the
                   frames of a video [B, C, T, H, W] as they are
    skip_rescale:  residual sums are divided by sqrt(2)
    dropout:       a probability, or one for each level (the middle takes the last)
    noise_scale:   resolution of c_noise, see `noise_features`; 1000 suits an angle in [0, pi/2] and an index / 1000
    labels:        name -> classes; given as name=LongTensor[B], where index `classes` means null
    vector:        D of vector=[B, D], None = no such condition
    context:       D of context=[B, L, D], which is attended to wherever the network attends; None = no such condition.
                   context_mask=[B, L] (True = real) may come with it
    image:         channels of image=[B, image, *spatial], concatenated to x; 0 = no such condition

    Source: Ho et al. 2020, arXiv 2006.11239; Dhariwal & Nichol 2021, arXiv 2105.05233; see `published`.
    """

    def __init__(
        self,
        *,
        channels: int,
        out_channels: int | None = None,
        dims: int = 2,
        width: int = 128,
        multipliers: Sequence[float] = (1, 2, 2, 2),
        blocks: int = 2,
        attention: Sequence[int] = (2,),
        middle_attention: bool = True,
        head_width: int | None = 64,
        norm: Literal["adaptive", "additive"] = "adaptive",
        resample: Literal["block", "strided"] = "block",
        strides: Sequence[int] | None = None,
        skip_rescale: bool = False,
        dropout: float | Sequence[float] = 0.0,
        noise_scale: float = 1000.0,
        labels: Mapping[str, int] | None = None,
        vector: int | None = None,
        context: int | None = None,
        image: int = 0,
    ) -> None:
        super().__init__()
        self.channels, self.out_channels, self.dims = channels, out_channels, dims
        self.width, self.multipliers, self.blocks = width, tuple(multipliers), blocks
        self.attention, self.middle_attention, self.head_width = tuple(attention), middle_attention, head_width
        self.norm, self.resample, self.skip_rescale = norm, resample, skip_rescale
        self.strides = None if strides is None else tuple(strides)
        self.dropout = dropout if isinstance(dropout, int | float) else tuple(dropout)
        self.noise_scale = noise_scale
        self.labels, self.vector, self.context, self.image = dict(labels or {}), vector, context, image
        self._validate()
        self.step = (2,) * dims if self.strides is None else self.strides  # strides, resolved

        widths = [int(width * m) for m in self.multipliers]
        drops = self.dropout if isinstance(self.dropout, tuple) else (self.dropout,) * len(widths)
        embedding = 4 * width
        block = partial(ResidualBlock, dims=dims, embedding=embedding, norm=norm, skip_rescale=skip_rescale)

        self.embed = Embedding(
            features=width, width=embedding, noise_scale=noise_scale, labels=self.labels, vector=vector
        )
        self.stem = conv(dims, channels + image, widths[0], 3)
        skips = [now := widths[0]]
        self.down = nn.ModuleList()
        for level, wide in enumerate(widths):
            if level > 0:
                self.down.append(Chain([self._resampling("down", now, partial(block, dropout=drops[level - 1]))]))
                skips.append(now)
            for _ in range(blocks):
                self.down.append(Chain([block(now, wide, dropout=drops[level]), *self._attention(wide, level)]))
                skips.append(now := wide)

        middle = self._attends(now) if middle_attention else []
        self.middle = Chain([block(now, now, dropout=drops[-1]), *middle, block(now, now, dropout=drops[-1])])

        self.up = nn.ModuleList()
        for level, wide in reversed(list(enumerate(widths))):
            for i in range(blocks + 1):
                self.up.append(
                    Chain([block(now + skips.pop(), wide, dropout=drops[level]), *self._attention(wide, level)])
                )
                now = wide
                if level > 0 and i == blocks:
                    self.up[-1].append(self._resampling("up", now, partial(block, dropout=drops[level])))
        self.head_norm = group_norm(now)
        self.head = zero(conv(dims, now, out_channels or channels, 3))
