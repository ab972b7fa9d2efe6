"""A convolutional autoencoder of pictures with a Gaussian latent, and the discriminator that sharpens it."""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from unnoise.nets.layers import channels_last, conv, group_norm, zero

LOGVAR = (-30.0, 20.0)
"""Bounds of the log-variance, those of Rombach et al. 2021: its exponential neither over- nor underflows."""


class Autoencoder(nn.Module):
    """Pictures to a small Gaussian latent and back: x [B, C, H, W] -> q(z|x) = N(mean, exp(logvar)) -> x.

        encode: level 0 .. L-1:  `blocks` residual blocks, then a halving by a strided convolution (not at L-1)
        decode: level L-1 .. 0:  `blocks` residual blocks, then a doubling by repetition and a convolution (not at 0)

    Only the architecture: the losses (reconstruction, KL, adversarial) are the trainer's.

    Source: Rombach et al. 2021, arXiv 2112.10752, section 3.1 and appendix E; small, without attention.

    Args:
        channels: C of x.
        latent: channels of z.
        width: channels that the multipliers multiply.
        multipliers: level i has width * multipliers[i] channels; z is H / 2^(L-1) x W / 2^(L-1) for L levels.
        blocks: residual blocks a level, in each direction.

    Raises:
        ValueError: without a level.
    """

    def __init__(
        self,
        *,
        channels: int,
        latent: int = 4,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2, 4),
        blocks: int = 1,
    ) -> None:
        super().__init__()
        if not multipliers:
            raise ValueError("multipliers needs one entry a level, at least one")
        self.channels, self.latent, self.width = channels, latent, width
        self.multipliers, self.blocks = tuple(multipliers), blocks
        widths = [width * m for m in multipliers]

        down: list[nn.Module] = [conv(2, channels, widths[0], 3)]
        for now, following in pairwise([*widths, 0]):
            down += [_Block(now) for _ in range(blocks)]
            down += [conv(2, now, following, 3, stride=2)] if following else []
        self.encoder = nn.Sequential(*down, group_norm(widths[-1]), nn.SiLU(), conv(2, widths[-1], 2 * latent, 3))

        up: list[nn.Module] = [conv(2, latent, widths[-1], 3)]
        for now, following in pairwise([*reversed(widths), 0]):
            up += [_Block(now) for _ in range(blocks)]
            up += [nn.Upsample(scale_factor=2.0), conv(2, now, following, 3)] if following else []
        self.decoder = nn.Sequential(*up, group_norm(widths[0]), nn.SiLU())
        # Apart, because the weight of an adversarial loss is found from the gradients at the last layer.
        self.head = conv(2, widths[0], channels, 3)
        channels_last(self)

    @property
    def ends(self) -> list[nn.Module]:
        """The layers that read the input or write the output, see `optim.hidden_matrices`."""
        return [self.encoder[0], self.encoder[-1], self.decoder[0], self.head]

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (in [-30, 20]) of q(z|x), each [B, latent, H / 2^(L-1), W / 2^(L-1)].

        Args:
            x: [B, C, H, W], H and W multiples of 2^(L-1).

        Raises:
            ValueError: for other sizes.
        """
        factor = 2 ** (len(self.multipliers) - 1)
        if x.ndim != 4 or x.shape[1] != self.channels or x.shape[2] % factor or x.shape[3] % factor:
            raise ValueError(
                f"x must be [B, {self.channels}, H, W] with H and W multiples of {factor}, got {tuple(x.shape)}"
            )
        mean, logvar = self.encoder(x).chunk(2, dim=1)
        return mean, logvar.clamp(*LOGVAR)

    def decode(self, z: Tensor) -> Tensor:
        """z [B, latent, h, w] -> x [B, C, 2^(L-1) h, 2^(L-1) w]; unbounded."""
        return self.head(self.decoder(z))

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction of x [B, C, H, W] from the mean of its latent; Raises ValueError as `encode` does."""
        return self.decode(self.encode(x)[0])


class PatchDiscriminator(nn.Module):
    """Is this patch real? x [B, C, H, W] -> logits [B, 1, h, w], one for each overlapping patch.

    Group norm, so that a row's verdict does not depend on its batch. h = H // 2^layers - 2, likewise w.

    Source: Isola et al. 2016, arXiv 1611.07004, appendix 6.1.2 (there with batch norm).

    Args:
        channels: C of x.
        width: channels of the first layer; each further one has twice as many, 8 times at most.
        layers: halvings; a patch is 34 wide for 2, 70 for 3.
    """

    def __init__(self, *, channels: int, width: int = 32, layers: int = 2) -> None:
        super().__init__()
        self.channels, self.width, self.layers = channels, width, layers
        widths = [width * min(2**i, 8) for i in range(layers + 1)]
        body: list[nn.Module] = [nn.Conv2d(channels, widths[0], 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for i, (a, b) in enumerate(pairwise(widths), start=1):
            body += [nn.Conv2d(a, b, 4, stride=2 if i < layers else 1, padding=1), group_norm(b), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*body, nn.Conv2d(widths[-1], 1, 4, padding=1))
        channels_last(self)

    def forward(self, x: Tensor) -> Tensor:
        """The logits.

        Raises:
            ValueError: for an x of other axes, or too small to hold a patch.
        """
        smallest = 3 * 2**self.layers
        if x.ndim != 4 or x.shape[1] != self.channels or min(x.shape[2:]) < smallest:
            raise ValueError(f"x must be [B, {self.channels}, H, W], H and W at least {smallest}, got {tuple(x.shape)}")
        return self.body(x)


class _Block(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))); the outer convolution starts at zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm_in, self.conv_in = group_norm(channels), conv(2, channels, channels, 3)
        self.norm_out, self.conv_out = group_norm(channels), zero(conv(2, channels, channels, 3))

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(F.silu(self.norm_in(x)))
        return x + self.conv_out(F.silu(self.norm_out(h)))
