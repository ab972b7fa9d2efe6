"""What was sampled: raw data, with the seed and the conditions of each row."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from unnoise.errors import UserError, is_disk_full

SETTINGS = ("sampler", "grid", "steps", "guidance", "autoguidance", "interval", "start")
"""What of a model's `Sampling` whoever asks for samples may set; what else is asked for are conditions."""


def require_pictures(codec: Any) -> None:
    """Refuse a grid of what is not pictures; Raises UserError."""
    if not hasattr(codec, "grid"):
        raise UserError(f"what {type(codec).__name__} decodes is not a picture: write .npz, or a folder")


class Samples:
    """Samples in the data's own range and dtype.

    Args:
        raw: [N, ...], as the codec decoded them.
        seeds: int64 [N], of each row.
        cond: conditions of each row, as they were asked for.
        codec: how to write and show them.
    """

    def __init__(self, raw: Tensor, seeds: Tensor, cond: Mapping[str, Tensor], codec: Any) -> None:
        self.raw, self.seeds, self.cond, self.codec = raw, seeds, dict(cond), codec

    def __len__(self) -> int:
        return len(self.raw)

    def __getitem__(self, rows: int | slice) -> Samples:
        if isinstance(rows, int):
            if not -len(self) <= rows < len(self):
                raise IndexError(f"row {rows} of {len(self)} samples")
            rows = slice(rows, rows + 1 or None)
        return Samples(self.raw[rows], self.seeds[rows], {k: v[rows] for k, v in self.cond.items()}, self.codec)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.raw.cpu().numpy(), dtype=dtype)

    def name(self, row: int) -> str:
        """A file name for a row: its seed and its conditions."""
        said = "".join(f"-{k}{v[row].item():g}" for k, v in self.cond.items() if v.ndim == 1)
        return f"seed{int(self.seeds[row]):06d}{said}{self.codec.suffix}"

    def save(self, path: str | Path) -> list[Path]:
        """Write a grid (a name that ends in .png), an archive (.npz), or a folder with a file a row.

        Returns the files written.
        """
        path = Path(path)
        try:
            if path.suffix == ".npz":
                path.parent.mkdir(parents=True, exist_ok=True)
                part = path.with_suffix(".part.npz")
                columns: dict[str, Any] = {k: v.cpu().numpy() for k, v in self.cond.items()}
                np.savez_compressed(part, x=np.asarray(self), seed=self.seeds.cpu().numpy(), **columns)
                part.replace(path)
                return [path]
            if path.suffix == ".png":
                require_pictures(self.codec)
                path.parent.mkdir(parents=True, exist_ok=True)
                part = path.with_suffix(".part.png")
                self.codec.grid(self.raw).save(part, "PNG")
                part.replace(path)
                return [path]
            if path.suffix:
                raise UserError(
                    f"cannot write samples as {path.suffix!r}: .png is a grid, .npz an archive, else a folder"
                )
            path.mkdir(parents=True, exist_ok=True)
            files = [path / self.name(i) for i in range(len(self))]
            for row, file in zip(self.raw, files, strict=True):
                self.codec.write(row, file)
            return files
        except (OSError, zipfile.BadZipFile) as e:
            raise UserError(f"samples could not be written to {path}: {e}" + ": make room" * is_disk_full(e)) from e

    def _repr_png_(self) -> bytes | None:
        """A grid, as notebooks show it; None where there is nothing to see."""
        if not len(self) or not hasattr(self.codec, "grid"):
            return None
        buffer = io.BytesIO()
        self.codec.grid(self.raw).save(buffer, "PNG")
        return buffer.getvalue()

    def __repr__(self) -> str:
        shape, dtype = tuple(self.raw.shape), str(self.raw.dtype).removeprefix("torch.")
        return (
            f"Samples({shape}, {dtype}, seeds {int(self.seeds[0])}..{int(self.seeds[-1])})"
            if len(self)
            else "Samples()"
        )
