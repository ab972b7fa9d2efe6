"""Numbers as they are: vectors, fields, whatever is already of about unit size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Shaped
from torch import Tensor

from unnoise.core.rng import Rng
from unnoise.errors import UserError


@dataclass(frozen=True)
class Plain:
    """The codec that shifts and scales: x = (raw - mean) / std.

    Args:
        shape: of a row.
        mean: of the raw data.
        std: of the raw data, > 0.
    """

    shape: tuple[int, ...]
    mean: float = 0.0
    std: float = 1.0

    suffix = ".npy"
    bins = None

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"std must be > 0, got {self.std}")

    @property
    def log_det(self) -> float:
        """log |dx / d raw| of a row."""
        return -math.prod(self.shape) * math.log(self.std)

    def check(self, raw: Shaped[Tensor, "b ..."]) -> None:
        """Refuse data of another shape, integers, or data that are far from unit size; Raises UserError."""
        if tuple(raw.shape[1:]) != tuple(self.shape) or not raw.is_floating_point():
            raise UserError(
                f"the data are {raw.dtype} of shape {tuple(raw.shape[1:])}, the codec expects floats {self.shape}"
            )
        spread = float(self.encode(raw).std())
        if not 0.05 < spread < 20:
            raise UserError(
                f"the data have a standard deviation of {spread:.3g} after the codec: set codec.mean and codec.std"
            )

    def blank(self, n: int) -> Float32[Tensor, "n ..."]:
        """Zeros [n, *shape]."""
        return torch.zeros(n, *self.shape)

    def encode(self, raw: Shaped[Tensor, " b *shape"], rng: Rng | None = None) -> Float32[Tensor, " b *shape"]:
        """Raw data [B, *shape] as float32 states."""
        return (raw.to(torch.float32) - self.mean) / self.std

    def decode(self, x: Float[Tensor, " b *shape"], mask: Tensor | None = None) -> Float32[Tensor, " b *shape"]:
        """States as raw data; Raises FloatingPointError for states that are not finite."""
        if not bool(torch.isfinite(x).all()):
            raise FloatingPointError("states that are not finite cannot become data")
        return x.to(torch.float32) * self.std + self.mean

    def write(self, raw: Shaped[Tensor, "*shape"], path: Path) -> None:
        """One row as an npy file, written whole or not at all."""
        part = path.with_suffix(".part")
        with part.open("wb") as f:
            np.save(f, raw.cpu().numpy())
        part.replace(path)
