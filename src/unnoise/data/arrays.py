"""One's own arrays from an npz file."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from unnoise.data.dataset import Dataset, split
from unnoise.errors import UserError


@dataclass(frozen=True)
class Arrays:
    """An npz file with an array "x" [N, ...] and, where wanted, "label" [N] (integers) and others of length N.

    Args:
        path: the file.
        held_out: share of the items that is never trained on.
        seed: which items those are.
    """

    path: str
    held_out: float = 0.1
    seed: int = 0

    def load(self) -> Dataset:
        """The data; Raises UserError naming the file for one that is missing, empty, damaged or without "x"."""
        return Dataset(*split(read_npz(self.path), self.held_out, self.seed), about=f"arrays of {Path(self.path).name}")


def read_npz(path: str | Path) -> dict[str, Shaped[Tensor, "_ ..."]]:
    """The arrays of an npz file as tensors; integers other than uint8 become int64. Pickled objects are refused."""
    if not Path(path).is_file():
        raise UserError(f"no such file: {path}")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {k: file[k] for k in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as e:
        raise UserError(f"{path} is not a readable npz file: {e}") from e
    columns = {}
    for k, a in arrays.items():
        if a.dtype.kind not in "fiub" or a.ndim == 0:
            raise UserError(f"array {k!r} of {path} is {a.dtype} with {a.ndim} axes: needs numbers, one item a row")
        columns[k] = torch.from_numpy(a if a.dtype == np.uint8 or a.dtype.kind == "f" else a.astype(np.int64))
    if "x" not in columns:
        raise UserError(
            f"{path} has no array 'x', only {sorted(columns) or 'nothing'}: save with np.savez(path, x=...)"
        )
    return columns
