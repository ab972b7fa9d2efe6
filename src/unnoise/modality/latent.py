"""Pictures as the latents of a trained autoencoder, of mean 0 and width 1 in each channel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Shaped
from PIL import Image as Pillow
from torch import Tensor, nn

from unnoise.core.rng import Rng
from unnoise.errors import UserError

ITEMS = 2048
"""By so many of the training data the scale is measured."""
CHUNK = 128


class Latent(nn.Module):
    """The codec of pictures by an autoencoder: x = (mean of q(z|picture) - shift) / scale, and back.

    Shift and scale, one number a channel, are measured by `measure` and stored with the weights: nobody else multiplies
    a latent by anything. The autoencoder is taken as it stands: its parameters are frozen.

    Args:
        image: the codec of the pictures themselves: range, shape, files.
        autoencoder: a module with encode(x) -> (mean, log-variance) and decode(z) -> x.
        margin: for in-painting, latents beside a hole that count as unknown: they are in part those of its filling.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, image: Any, autoencoder: nn.Module, margin: int = 1) -> None:
        super().__init__()
        self.image, self.autoencoder, self.margin = image, autoencoder.requires_grad_(False), margin
        with torch.no_grad():
            self.shape = tuple(self._means(image.blank(1).to(self._device)).shape[1:])
        channels = (self.shape[0], *(1,) * (len(self.shape) - 1))
        self.register_buffer("shift", torch.zeros(channels, dtype=torch.float32))
        self.register_buffer("scale", torch.ones(channels, dtype=torch.float32))

    bins: int | None = None
    """A latent is a continuum, and has no likelihood in pixels."""

    @property
    def suffix(self) -> str:
        """That of the pictures."""
        return str(self.image.suffix)

    @property
    def _device(self) -> torch.device:
        return next((p.device for p in self.autoencoder.parameters()), torch.device("cpu"))

    def _means(self, x: Tensor) -> Tensor:
        mean: Tensor = self.autoencoder.encode(x)[0]  # type: ignore[operator]
        return mean

    def check(self, raw: Shaped[Tensor, "b ..."]) -> None:
        """Refuse raw data that are no pictures of the codec's; Raises UserError."""
        self.image.check(raw)

    @torch.no_grad()
    def measure(self, raw: Shaped[Tensor, "n ..."]) -> None:
        """Set shift and scale to mean and standard deviation of each channel, over at most 2,048 items spread evenly.

        Raises:
            UserError: for pictures that are not the codec's, and for a channel of latents that is constant or not
                finite.
        """
        self.check(raw)
        n = min(len(raw), ITEMS)
        index = torch.arange(n) * len(raw) // n
        parts = [self._means(self._states(raw[rows])).double().cpu() for rows in torch.split(index, CHUNK)]
        channels = torch.cat(parts).transpose(0, 1).flatten(1)
        mean, std = channels.mean(1), channels.std(1, correction=0)
        for k, (m, s) in enumerate(zip(mean.tolist(), std.tolist(), strict=True)):
            if not (s > 0 and abs(m) + s < float("inf")):
                raise UserError(
                    f"channel {k} of the latents has mean {m:g} and standard deviation {s:g}: it holds nothing; train "
                    "the autoencoder with a smaller objective.kl or a smaller lr"
                )
        self.shift.copy_(mean.reshape_as(self.shift))
        self.scale.copy_(std.reshape_as(self.scale))

    def _states(self, raw: Tensor, rng: Rng | None = None) -> Tensor:
        states: Tensor = self.image.encode(raw.to(self._device), rng)
        return states

    def blank(self, n: int) -> Float32[Tensor, "n ..."]:
        """Zeros [n, *shape]: the mean latent."""
        return torch.zeros(n, *self.shape)

    def encode(self, raw: Shaped[Tensor, "b c h w"], rng: Rng | None = None) -> Float[Tensor, "b latent y x"]:
        """Pictures [B, C, H, W] as latents of mean 0 and width 1: the mean of q(z|picture), not a draw."""
        return (self._means(self._states(raw, rng)) - self.shift) / self.scale

    def decode(self, x: Float[Tensor, "b latent y x"], mask: Tensor | None = None) -> Shaped[Tensor, "b c h w"]:
        """Latents as pictures in their own dtype and range; Raises FloatingPointError for what is not finite."""
        raw: Tensor = self.image.decode(self.autoencoder.decode(x * self.scale + self.shift))  # type: ignore[operator]
        return raw

    def known(self, mask: Bool[Tensor, "b c h w"]) -> Bool[Tensor, "b latent y x"]:
        """Which latents are known where these pixels are: those that stand for a patch of which every pixel is.

        A latent sees further than its patch: those within `margin` of a hole are drawn anew. What is known of their
        pixels is put back in data space.
        """
        factor = [a // b for a, b in zip(mask.shape[2:], self.shape[1:], strict=True)]
        hole = F.max_pool2d((~mask).any(1, keepdim=True).float(), factor)
        hole = F.max_pool2d(hole, 2 * self.margin + 1, stride=1, padding=self.margin)
        return (hole == 0).expand(-1, self.shape[0], -1, -1)

    def grid(
        self, raw: Shaped[Tensor, "n c h w"], columns: int | None = None, scale: int | None = None
    ) -> Pillow.Image:
        """One picture of many; see the codec of the pictures."""
        sheet: Pillow.Image = self.image.grid(raw, columns, scale)
        return sheet

    def write(self, raw: Shaped[Tensor, "c h w"], path: Path) -> None:
        """One picture as a file, written whole or not at all."""
        self.image.write(raw, path)
