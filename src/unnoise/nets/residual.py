"""The residual block of the U-Net."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from unnoise.nets.layers import Given, apart, conv, group_norm, grow, merge, shrink, zero


class ResidualBlock(nn.Module):
    """Two convolutions that are told the embedding, around a skip connection.

        h = conv_in(resample(silu(norm_in(x))))
        additive:  h = norm_out(h + W e)                        Ho et al. 2020, arXiv 2006.11239
        adaptive:  h = (1 + scale) norm_out(h) + shift          Dhariwal & Nichol 2021, arXiv 2105.05233, section 3.1
                   where (scale, shift) = W e
        out = skip(resample(x)) + conv_out(dropout(silu(h)))

    x [B, inputs, *spatial] -> [B, outputs, *spatial]; e [B, *sizes, E], already activated; conv_out starts at zero;
    skip is a 1-wide convolution where the number of channels changes. If `way` is "down", both branches are halved by
    the average of `strides` elements, if "up" doubled by repetition: BigGAN's resampling block, as Dhariwal & Nichol
    use it.

    Args:
        inputs: channels of x.
        outputs: channels of the output.
        dims: spatial axes of x: 1, 2 or 3.
        embedding: E, the width of the embedding.
        norm: how the embedding enters: "adaptive" or "additive".
        dropout: probability, before conv_out.
        skip_rescale: divide the sum by sqrt(2).
        way: "same", "down" or "up".
        strides: factor of each spatial axis on the way down or up.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        dims: int,
        embedding: int,
        norm: Literal["adaptive", "additive"],
        dropout: float,
        skip_rescale: bool,
        way: Literal["same", "down", "up"] = "same",
        strides: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.adaptive = norm == "adaptive"
        self.dropout = dropout
        self.skip_rescale = skip_rescale
        self.way = way
        self.strides = tuple(strides)
        self.norm_in = group_norm(inputs)
        self.conv_in = conv(dims, inputs, outputs, 3)
        self.embed = nn.Linear(embedding, 2 * outputs if self.adaptive else outputs)
        self.norm_out = group_norm(outputs)
        self.conv_out = zero(conv(dims, outputs, outputs, 3))
        self.skip = nn.Identity() if inputs == outputs else conv(dims, inputs, outputs, 1)

    def forward(self, x: Tensor, given: Given) -> Tensor:
        h, bias = apart(self.conv_in, self._resample(self.norm_in(x, silu=True)))
        told = self.embed(given.embedding).movedim(-1, 1)
        dropout = self.dropout if self.training else 0.0
        if self.adaptive:
            scale, shift = told.chunk(2, dim=1)
            add = None if bias is None else bias.expand(h.shape[0], *bias.shape[1:])
            h = self.norm_out(h, add=add, scale=scale, shift=shift, silu=True, dropout=dropout)
        else:
            h = self.norm_out(h, add=told if bias is None else told + bias, silu=True, dropout=dropout)
        h = self.conv_out(h)
        return merge(self.skip(self._resample(x)), h, self.skip_rescale)

    def _resample(self, h: Tensor) -> Tensor:
        match self.way:
            case "down":
                return shrink(h, self.strides)
            case "up":
                return grow(h, self.strides)
            case "same":
                return h
