"""Sets of points: between clouds in their own unit and states of about unit variance; onto disk as ply files."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Shaped, UInt8
from PIL import Image as Pillow
from torch import Tensor

from unnoise.core.rng import Rng
from unnoise.errors import UserError

VIEWS = ((0, 1, 2), (0, 2, 1), (2, 1, 0))
"""Of a picture, for each view: the axis to the right, the axis upwards, the axis towards the eye."""
SIDE = 64
"""Pixels of a view."""


@dataclass(frozen=True)
class PointSet:
    """The codec of clouds float32 [B, P, 3], P >= count: states are raw / scale of `count` of their points.

    Which ones is drawn at each encoding where a generator is given, so that training sees all points of a cloud in
    turn; else they are the first. What is decoded has `count` points. Their order means nothing.

    Args:
        count: points of a state.
        scale: units of the data that make a unit of the state; the standard deviation of a coordinate.
    """

    count: int = 256
    scale: float = 1.0

    suffix = ".ply"

    def __post_init__(self) -> None:
        if self.count < 1 or not 0 < self.scale < math.inf:
            raise ValueError(f"needs count >= 1 and a finite scale > 0, got {self.count} and {self.scale}")

    def check(self, raw: Shaped[Tensor, "b ..."]) -> None:
        """Refuse what is no clouds, or clouds of too few points or of another size; Raises UserError."""
        if raw.ndim != 3 or raw.shape[2] != 3 or not raw.is_floating_point():
            raise UserError(
                f"the data are {raw.dtype} of shape {tuple(raw.shape)}, the codec expects floats [B, P, 3]: x, y, z"
            )
        if raw.shape[1] < self.count:
            raise UserError(
                f"clouds of the data have {raw.shape[1]} points, the codec needs {self.count}: "
                f"set codec.count={raw.shape[1]} or less, or data.count={self.count} or more"
            )
        spread = float(raw.square().mean().sqrt()) / self.scale
        if not 0.2 < spread < 5:
            raise UserError(
                f"coordinates have a root mean square of {spread:.3g} after the codec: set codec.scale to that of the "
                "data, in their unit, or move and scale the data"
            )

    def blank(self, n: int) -> Float32[Tensor, "n count 3"]:
        """Zeros [n, count, 3]."""
        return torch.zeros(n, self.count, 3)

    def encode(self, raw: Float[Tensor, "b p 3"], rng: Rng | None = None) -> Float32[Tensor, "b count 3"]:
        """Clouds as states: a random `count` of the points of each, or (without rng) the first."""
        if rng is not None and raw.shape[1] > self.count:
            order = rng.uniform(torch.zeros(raw.shape[:2], device=raw.device)).argsort(1)[:, : self.count]
            raw = raw.gather(1, order[..., None].expand(-1, -1, 3))
        return raw[:, : self.count].to(torch.float32) / self.scale

    def decode(
        self, x: Float[Tensor, "b count 3"], mask: Bool[Tensor, "b count"] | None = None
    ) -> Float32[Tensor, "b count 3"]:
        """States as clouds, 0 where the mask is False; Raises FloatingPointError for states that are not finite."""
        if not bool(torch.isfinite(x).all()):
            raise FloatingPointError("states that are not finite cannot become points")
        raw = x.to(torch.float32) * self.scale
        return raw if mask is None else raw * mask[..., None]

    def known(self, mask: Bool[Tensor, "b p 3"]) -> Bool[Tensor, "b p 3"]:
        """Which coordinates of a state are known where these are: the same; Raises UserError for another P."""
        if mask.shape[1] != self.count:
            raise UserError(f"a cloud is completed to {self.count} points in all, got one of {mask.shape[1]}")
        return mask

    def write(self, raw: Float[Tensor, "p 3"], path: Path) -> None:
        """One cloud [P, 3] as a ply file in text, exact, written whole or not at all.

        Viewers and libraries of the field (MeshLab, CloudCompare, Blender, Open3D) read it. Source: G. Turk 1994.
        """
        axes = "".join(f"property float {axis}\n" for axis in "xyz")
        head = f"ply\nformat ascii 1.0\nelement vertex {len(raw)}\n{axes}end_header\n"
        lines = (f"{x:.9g} {y:.9g} {z:.9g}\n" for x, y, z in raw.tolist())
        part = path.with_suffix(".part")
        part.write_bytes((head + "".join(lines)).encode())
        part.replace(path)

    def grid(self, raw: Float[Tensor, "n p 3"], columns: int | None = None) -> Pillow.Image:
        """Clouds to look at: of each the views along z, y and x side by side, near points darker; all in one scale.

        Args:
            raw: [N, P, 3].
            columns: clouds in a row; by default about as many as make the sheet square.
        """
        n = len(raw)
        columns = columns or max(1, round(math.sqrt(n / len(VIEWS))))
        tile = np.concatenate([_view(raw.float().cpu(), *view) for view in VIEWS], 2)
        h, w, rows = *tile.shape[1:], math.ceil(n / columns)
        sheet = np.full((max(1, rows * (h + 1) - 1), columns * (w + 1) - 1), 200, np.uint8)
        for i, picture in enumerate(tile):
            top, left = i // columns * (h + 1), i % columns * (w + 1)
            sheet[top : top + h, left : left + w] = picture
        return Pillow.fromarray(sheet)


def _view(raw: Tensor, right: int, up: int, near: int) -> UInt8[np.ndarray, "n side side"]:
    """Clouds as black to gray dots of two pixels on white; the largest coordinate of all lies at the edge."""
    reach = max(float(raw.abs().max()), torch.finfo(raw.dtype).tiny) if raw.numel() else 1.0
    unit = (raw / reach).numpy()
    at = ((unit + 1) / 2 * (SIDE - 2)).round().astype(np.int64)
    shade = (80 * (1 - unit[..., near])).astype(np.uint8)
    pixels = np.full((len(raw), SIDE, SIDE), 255, np.uint8)
    row = np.arange(len(raw))[:, None].repeat(raw.shape[1], 1)
    for down, aside in ((0, 0), (0, 1), (1, 0), (1, 1)):
        np.minimum.at(pixels, (row, SIDE - 2 - at[..., up] + down, at[..., right] + aside), shade)
    return pixels
