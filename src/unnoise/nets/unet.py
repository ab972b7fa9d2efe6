"""The U-Net, for signals, images and volumes or videos."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from unnoise.nets.attention import CrossAttention, SelfAttention
from unnoise.nets.embedding import Embedding, check_conditions, fourier_features
from unnoise.nets.layers import (
    Chain,
    Downsample,
    Given,
    Upsample,
    channels_last,
    check_dropout,
    conv,
    crop,
    group_norm,
    join,
    pad,
    zero,
)
from unnoise.nets.residual import ResidualBlock

RESERVED = {"vector", "context", "context_mask", "image"}


class UNet(nn.Module):
    """net(x, c_noise, **cond): residual blocks down to a coarse grid and up again, with skips between equal sizes.

        down:    level 0 .. L-1:  entry, then `blocks` residual blocks       (entry: the stem, or a halving)
        middle:  residual block, attention, residual block
        up:      level L-1 .. 0:  `blocks` + 1 residual blocks, then a doubling (or the head)

    Every layer of the way down hands its output to one block of the way up, last to first. At initialisation the head
    is zero, so the output is exactly 0 and a preconditioned denoiser starts as c_skip x.

    Source: Ho et al. 2020, arXiv 2006.11239; Dhariwal & Nichol 2021, arXiv 2105.05233; see `published`.

    Args:
        channels: C of x.
        out_channels: channels of the output; None: C. 2 C for a learned variance.
        dims: spatial axes of x: 1, 2 or 3.
        width: channels that the multipliers multiply; even.
        multipliers: level i has int(width multipliers[i]) channels.
        blocks: residual blocks a level, one number or one for each: (1, 3, 3) works where pictures are small.
        attention: downsampling factors 1, 2, 4, ... 2^(L-1) of the levels that attend (level i has factor 2^i).
        middle_attention: whether the middle attends; it may be too dear for videos.
        head_width: channels a head; None: one head.
        norm: how the embedding enters: "adaptive" scale and shift, or "additive"; see ResidualBlock.
        resample: "block": by residual blocks (Dhariwal & Nichol); "strided": by convolutions (Ho et al.).
        strides: factor of each spatial axis between levels; None: 2 for all. (1, 2, 2) leaves the frames of a video
            [B, C, T, H, W] as they are.
        skip_rescale: divide residual sums by sqrt(2).
        dropout: a probability, or one for each level (the middle takes the last).
        noise_scale: resolution of c_noise, see `noise_features`; 1000 suits an angle in [0, pi/2] and an index / 1000.
        labels: number of classes by name; given as name=int64 [B], where index `classes` means null.
        vector: D of vector=[B, D]; None: no such condition.
        context: D of context=[B, L, D], which is attended to wherever the network attends; None: no such condition.
            context_mask=[B, L] (True = real) may come with it.
        image: channels of image=[B, image, *spatial], concatenated to x; 0: no such condition.
        vectors: D by name of further conditions name=[B, D], zeros where there is nothing to say, which then change
            nothing: {"augment": 9}; see `Embedding`.
        octaves: n of sin(2^n pi x) and cos(2^n pi x), which are concatenated to x: (7, 8) for the likelihood of 8 bits;
            see `fourier_features`.

    Raises:
        ValueError: for arguments that do not fit together.
    """

    def __init__(
        self,
        *,
        channels: int,
        out_channels: int | None = None,
        dims: int = 2,
        width: int = 128,
        multipliers: Sequence[float] = (1, 2, 2, 2),
        blocks: int | Sequence[int] = 2,
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
        vectors: Mapping[str, int] | None = None,
        octaves: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.channels, self.out_channels, self.dims = channels, out_channels, dims
        self.width, self.multipliers = width, tuple(multipliers)
        self.blocks = blocks if isinstance(blocks, int) else tuple(blocks)
        self.attention, self.middle_attention, self.head_width = tuple(attention), middle_attention, head_width
        self.norm, self.resample, self.skip_rescale = norm, resample, skip_rescale
        self.strides = None if strides is None else tuple(strides)
        self.dropout = dropout if isinstance(dropout, int | float) else tuple(dropout)
        self.noise_scale = noise_scale
        self.labels, self.vector, self.context, self.image = dict(labels or {}), vector, context, image
        self.vectors, self.octaves = dict(vectors or {}), tuple(octaves)
        self._validate()
        self.embed = Embedding(
            features=width,
            width=4 * width,
            noise_scale=noise_scale,
            labels=self.labels,
            vector=vector,
            vectors=self.vectors,
        )
        widths = self._widths
        self.stem = conv(dims, channels * (1 + 2 * len(self.octaves)) + image, widths[0], 3)
        skips = [now := widths[0]]
        self.down = nn.ModuleList()
        for level in range(len(widths)):
            if level > 0:
                self.down.append(self._resampling("down", now, level))
                skips.append(now)
            for _ in range(self._blocks[level]):
                self.down.append(self._stage(now, level))
                skips.append(now := widths[level])

        deepest = len(widths) - 1
        attend = self._attend(now) if middle_attention else []
        self.middle = Chain(self._block(now, now, deepest), *attend, self._block(now, now, deepest))

        self.up = nn.ModuleList()
        for level in reversed(range(len(widths))):
            last = self._blocks[level]
            for i in range(last + 1):
                stage = self._stage(now + skips.pop(), level)
                now = widths[level]
                if i == last and level > 0:  # within the last stage, so that each stage takes exactly one skip
                    stage.extend(self._resampling("up", now, level - 1))
                self.up.append(stage)
        self.head_norm = group_norm(now)
        self.head = zero(conv(dims, now, out_channels or channels, 3))
        if dims == 2:
            channels_last(self)

    @property
    def ends(self) -> list[nn.Module]:
        """The layers that read the input or write the output, see `optim.hidden_matrices`."""
        return [self.stem, self.head, *self.embed.inputs]

    @property
    def _widths(self) -> list[int]:
        return [int(self.width * m) for m in self.multipliers]

    @property
    def _blocks(self) -> tuple[int, ...]:
        return (self.blocks,) * len(self.multipliers) if isinstance(self.blocks, int) else self.blocks

    @property
    def _strides(self) -> tuple[int, ...]:
        return (2,) * self.dims if self.strides is None else self.strides

    def _block(
        self, inputs: int, outputs: int, level: int, way: Literal["same", "down", "up"] = "same"
    ) -> ResidualBlock:
        return ResidualBlock(
            inputs,
            outputs,
            dims=self.dims,
            embedding=4 * self.width,
            norm=self.norm,
            dropout=self.dropout[level] if isinstance(self.dropout, tuple) else self.dropout,
            skip_rescale=self.skip_rescale,
            way=way,
            strides=self._strides,
        )

    def _attend(self, channels: int) -> list[nn.Module]:
        layers: list[nn.Module] = [SelfAttention(channels, self.head_width, skip_rescale=self.skip_rescale)]
        if self.context:
            layers.append(CrossAttention(channels, self.context, self.head_width, skip_rescale=self.skip_rescale))
        return layers

    def _stage(self, inputs: int, level: int) -> Chain:
        wide = self._widths[level]
        attend = self._attend(wide) if 2**level in self.attention else []
        return Chain(self._block(inputs, wide, level), *attend)

    def _resampling(self, way: Literal["down", "up"], channels: int, level: int) -> Chain:
        """The step down or up into `level`."""
        if self.resample == "block":
            return Chain(self._block(channels, channels, level, way))
        return Chain((Downsample if way == "down" else Upsample)(channels, self._strides))

    def forward(self, x: Tensor, c_noise: Tensor, **cond: Tensor) -> Tensor:
        """The output [B, out_channels, *spatial].

        x, the floating conditions and the parameters have one dtype, or autocast is on.

        Args:
            x: [B, C, *spatial], of any sizes.
            c_noise: [B]; or with the axes of x, size 1 where it is constant: [B, 1, T, 1, 1] is a level for each frame.
                It may vary only along axes that are never halved (`strides` 1).
            cond: the conditions that the network was built with.

        Raises:
            ValueError: for an unknown or missing condition, and for an x or a c_noise of another shape.
        """
        check_conditions(
            "UNet", cond, self.labels, vector=self.vector, context=self.context, image=self.image, **self.vectors
        )
        given = Given(self.embed(self._levels(c_noise, x), cond), cond.get("context"), cond.get("context_mask"))
        sizes = x.shape[2:]
        h = torch.cat([x, fourier_features(x, self.octaves)], dim=1) if self.octaves else x
        h = torch.cat([h, cond["image"]], dim=1) if self.image else h
        h = self.stem(pad(h, [s ** (len(self.multipliers) - 1) for s in self._strides]))
        skips = [h]
        for stage in self.down:
            h = stage(h, given)
            skips.append(h)
        h = self.middle(h, given)
        for stage in self.up:
            h = stage(join(h, skips.pop()), given)
        return crop(self.head(self.head_norm(h, silu=True)), sizes)

    def _levels(self, c_noise: Tensor, x: Tensor) -> Tensor:
        """c_noise as [B, *sizes], one entry a spatial axis, each 1 or the size of x."""
        if x.ndim != self.dims + 2:
            raise ValueError(f"this UNet has dims={self.dims}: x must have {self.dims + 2} axes, got {tuple(x.shape)}")
        if x.shape[1] != self.channels:
            raise ValueError(f"this UNet has channels={self.channels}, x has {x.shape[1]}: {tuple(x.shape)}")
        if c_noise.shape == x.shape[:1]:
            return c_noise.view(-1, *(1,) * self.dims)
        if c_noise.ndim == x.ndim and c_noise.shape[:2] == (x.shape[0], 1):
            axes = zip(c_noise.shape[2:], x.shape[2:], self._strides, strict=True)
            if all(c == 1 or (c == n and stride == 1) for c, n, stride in axes):
                return c_noise.squeeze(1)
        raise ValueError(
            f"c_noise must be [B], or [B, 1, *sizes] with size 1 along every axis that the net halves "
            f"(strides {self._strides}); got {tuple(c_noise.shape)} for x {tuple(x.shape)}"
        )

    def _validate(self) -> None:
        levels = len(self.multipliers)
        if self.channels < 1:
            raise ValueError(f"channels must be at least 1, got {self.channels}")
        if not levels:
            raise ValueError("multipliers needs one number for each level, got none")
        factors = {2**level for level in range(levels)}
        if not set(self.attention) <= factors:
            raise ValueError(f"attention names downsampling factors out of {sorted(factors)}, got {self.attention}")
        if len(self._blocks) != levels or min(self._blocks) < 1:
            raise ValueError(f"blocks needs a number >= 1, or one for each of {levels} levels, got {self.blocks}")
        if isinstance(self.dropout, tuple) and len(self.dropout) != levels:
            raise ValueError(f"dropout needs one probability a level, {levels} in all, got {self.dropout}")
        check_dropout(*(self.dropout if isinstance(self.dropout, tuple) else [self.dropout]))
        if len(self._strides) != self.dims:
            raise ValueError(f"strides needs one factor for each of {self.dims} axes, got {self._strides}")
        if self.norm not in {"adaptive", "additive"}:
            raise ValueError(f"norm must be 'adaptive' or 'additive', got {self.norm!r}")
        if self.resample not in {"block", "strided"}:
            raise ValueError(f"resample must be 'block' or 'strided', got {self.resample!r}")
        if any(n < 0 for n in self.octaves) or len(set(self.octaves)) < len(self.octaves):
            raise ValueError(f"octaves must be different whole numbers >= 0, got {self.octaves}")
        if self.context and not self.attention and not self.middle_attention:
            raise ValueError(
                "a context is attended to where the net attends: give `attention` or middle_attention=True"
            )
        if taken := RESERVED & (self.labels.keys() | self.vectors.keys()) | self.labels.keys() & self.vectors.keys():
            raise ValueError(f"{sorted(taken)} cannot be names of labels or vectors: they are other conditions")
