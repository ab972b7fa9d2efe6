"""Pictures: between raw pixels in their own range and states in [-1, 1], and onto disk."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int32, Shaped, UInt8
from PIL import Image as Pillow
from torch import Tensor

from unnoise.core.rng import Rng
from unnoise.errors import UserError


@dataclass(frozen=True)
class Image:
    """The codec of pictures of any number of channels, size and range; it owns the range in both directions.

    encode: x = 2 (raw - low) / (high - low) - 1. decode: the inverse, clamped to the range, rounded for integers.

    Args:
        shape: [C, H, W] of a picture.
        low: raw value of black.
        high: raw value of white.
        dtype: of the raw data. "uint16" are int32 tensors, which hold its range: torch can neither index nor compare
            uint16 everywhere.
    """

    shape: tuple[int, int, int]
    low: float = 0.0
    high: float = 255.0
    dtype: Literal["uint8", "uint16", "float32"] = "uint8"

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"a range needs low < high, got {self.low} and {self.high}")
        if self.dtype not in _DTYPES:
            raise ValueError(f"dtype is one of {', '.join(_DTYPES)}, got {self.dtype!r}")

    @property
    def raw_dtype(self) -> torch.dtype:
        """The dtype of raw data."""
        return _DTYPES[self.dtype]

    @property
    def bins(self) -> int | None:
        """How many values an element of the raw data can have; None for a continuum."""
        return None if self.dtype == "float32" else int(self.high - self.low) + 1

    @property
    def log_det(self) -> float:
        """log |dx / d raw| of a whole picture, as bits per dimension of the raw data need it."""
        return math.prod(self.shape) * math.log(2 / (self.high - self.low))

    def check(self, raw: Shaped[Tensor, "b ..."]) -> None:
        """Refuse raw data of another shape, dtype or range: once, on the first batch.

        Raises:
            UserError: naming what was found and what is expected.
        """
        if tuple(raw.shape[1:]) != self.shape or raw.dtype != self.raw_dtype:
            raise UserError(
                f"the data are {raw.dtype} pictures of shape {tuple(raw.shape[1:])}, the codec expects "
                f"{self.raw_dtype} of {self.shape}: set codec.shape and codec.dtype, or save x as uint8 or float32"
            )
        low, high = float(raw.min()), float(raw.max())
        if low < self.low or high > self.high:
            raise UserError(
                f"the data range from {low:g} to {high:g}, the codec expects {self.low:g} to {self.high:g}: "
                "set codec.low and codec.high (are they normalised already?)"
            )
        if len(raw) >= 16 and high - low < (self.high - self.low) / 8 and high > low:
            raise UserError(
                f"the data range from {low:g} to {high:g} only, the codec expects {self.low:g} to {self.high:g}: "
                "set codec.low and codec.high to the data's own range"
            )

    def blank(self, n: int) -> Float32[Tensor, "n ..."]:
        """Zeros [n, *shape]."""
        return torch.zeros(n, *self.shape)

    def encode(self, raw: Shaped[Tensor, "b c h w"], rng: Rng | None = None) -> Float32[Tensor, "b c h w"]:
        """Pixels [B, C, H, W] as float32 states in [-1, 1]."""
        if raw.dtype != self.raw_dtype:
            raise UserError(f"the codec expects {self.raw_dtype} in [{self.low:g}, {self.high:g}], got {raw.dtype}")
        return (raw.to(torch.float32) - self.low) * (2 / (self.high - self.low)) - 1

    def decode(
        self, x: Float[Tensor, "b c h w"], mask: Tensor | None = None
    ) -> UInt8[Tensor, "b c h w"] | Int32[Tensor, "b c h w"] | Float32[Tensor, "b c h w"]:
        """States as pixels of their own dtype and range; Raises FloatingPointError for states that are not finite."""
        if not bool(torch.isfinite(x).all()):
            raise FloatingPointError("states that are not finite cannot become pictures")
        raw = (x.to(torch.float32) + 1) * ((self.high - self.low) / 2) + self.low
        raw = raw.clamp(self.low, self.high)
        return raw if self.dtype == "float32" else raw.round().to(self.raw_dtype)

    def known(self, mask: Bool[Tensor, "b c h w"]) -> Bool[Tensor, "b c h w"]:
        """Which elements of a state are known where these pixels are: the same."""
        return mask

    def pictures(self, raw: Shaped[Tensor, "n c h w"]) -> UInt8[np.ndarray, "n h w colours"]:
        """Raw data [N, C, H, W] as uint8 [N, H, W, 1 or 3] to look at.

        Gray (C = 1) and RGB (3) as they are; gray with alpha (2) and RGBA (4) on white; of others the first channel.
        """
        unit = self._unit(raw)
        if unit.shape[1] in (2, 4):
            unit = unit[:, :-1] * unit[:, -1:] + (1 - unit[:, -1:])
        unit = unit if unit.shape[1] in (1, 3) else unit[:, :1]
        return (unit * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()

    def _unit(self, raw: Shaped[Tensor, "n c h w"]) -> Float32[Tensor, "n c h w"]:
        return ((raw.to(torch.float32).cpu() - self.low) / (self.high - self.low)).clamp(0, 1)

    def grid(
        self, raw: Shaped[Tensor, "n c h w"], columns: int | None = None, scale: int | None = None
    ) -> Pillow.Image:
        """One picture of many, row by row, a pixel of white between them.

        Args:
            raw: [N, C, H, W].
            columns: pictures in a row; the square root of N by default.
            scale: pixels a pixel; by default pictures are brought to at least 32 pixels.
        """
        pixels = self.pictures(raw)
        n, h, w, c = pixels.shape
        columns = columns or math.ceil(math.sqrt(n))
        scale = scale or max(1, math.ceil(32 / min(h, w)))
        pixels = pixels.repeat(scale, 1).repeat(scale, 2)
        h, w, lines = h * scale, w * scale, math.ceil(n / columns)
        sheet = np.full((lines * (h + 1) - 1, columns * (w + 1) - 1, c), 255, np.uint8)
        for i, picture in enumerate(pixels):
            top, left = (i // columns) * (h + 1), (i % columns) * (w + 1)
            sheet[top : top + h, left : left + w] = picture
        return Pillow.fromarray(sheet[..., 0] if c == 1 else sheet)

    suffix = ".png"

    def write(self, raw: Shaped[Tensor, "c h w"], path: Path) -> None:
        """One picture [C, H, W] as a PNG file, written whole or not at all.

        Gray, gray with alpha, RGB and RGBA (C = 1 to 4), from black to white in 8 bits; gray of "uint16" as the numbers
        that it is, in 16; of others the first channel.
        """
        raw = raw if len(raw) <= 4 else raw[:1]
        if self.dtype == "uint16" and len(raw) == 1:
            pixels = raw.cpu().clamp(0, 65535).permute(1, 2, 0).numpy().astype(np.uint16)
        else:
            pixels = (self._unit(raw[None])[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        part = path.with_suffix(".part")
        Pillow.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(part, "PNG")
        part.replace(path)


_DTYPES = {"uint8": torch.uint8, "uint16": torch.int32, "float32": torch.float32}
"""Of the tensors that hold raw data."""
