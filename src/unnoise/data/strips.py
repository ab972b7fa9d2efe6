"""Pictures in tars of tall strips, and smaller pictures made of larger ones."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from unnoise.data.home import read_tar
from unnoise.errors import UserError


def read_strips(path: str | Path, height: int) -> UInt8[Tensor, "n 3 {height} w"]:
    """The pictures of a tar of strips, uint8 [N, 3, height, W] in 0..255.

    Each member is one picture file as wide as a sample, with the samples stacked from top to bottom; the members follow
    in the order of their names. All are read as RGB.

    Args:
        path: the tar, compressed or not.
        height: of a sample, in pixels.

    Raises:
        UserError: naming file and member, for one that is missing, damaged, no picture, or of another size.
    """
    strips = [_strip(content, height, f"{name} in {path}") for name, content in sorted(read_tar(path).items())]
    if not strips:
        raise UserError(f"{path} holds no strips of pictures: it is empty")
    if len(widths := {s.shape[3] for s in strips}) > 1:
        raise UserError(f"the strips in {path} are {sorted(widths)} pixels wide: a set has pictures of one width")
    return torch.cat(strips)


def halved(x: UInt8[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h/2 w/2"]:
    """Means of 2x2 pixels, rounded, half to even."""
    few = torch.split(x, 4_000)  # the float32 copy of all would take four times their memory
    parts = [F.avg_pool2d(part.float(), 2).round().to(torch.uint8) for part in few]
    return torch.cat(parts)


def _strip(content: bytes, height: int, name: str) -> UInt8[Tensor, "n 3 {height} w"]:
    try:
        with Image.open(BytesIO(content)) as image:
            if image.height % height:
                raise UserError(f"{name} is {image.height} pixels high, not a multiple of {height}")
            pixels = np.array(image.convert("RGB"))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError) as e:
        raise UserError(f"{name} is not a readable picture: {e}") from e
    samples = torch.from_numpy(pixels).reshape(-1, height, pixels.shape[1], 3)
    return samples.permute(0, 3, 1, 2).contiguous()
