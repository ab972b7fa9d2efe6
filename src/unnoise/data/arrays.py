"""One's own arrays from an npz file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from unnoise.data.dataset import Dataset, require_finite, split
from unnoise.data.home import read_arrays
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
        columns = read_npz(self.path)
        for k, v in columns.items():
            require_finite(v, k)  # before the split, so that the message counts items as the file does
        return Dataset(*split(columns, self.held_out, self.seed), about=f"arrays of {Path(self.path).name}")


def read_npz(path: str | Path, either: Sequence[str] = ("x",)) -> dict[str, Shaped[Tensor, "_ ..."]]:
    """The arrays of an npz file as tensors: uint8 as it is, other integers as int64, floats as float32.

    Raises:
        UserError: naming what is wrong, where there is none of `either` too; pickled objects are refused.
    """
    columns = {}
    for k, a in read_arrays(path).items():
        if a.dtype.kind not in "fiub" or a.ndim == 0:
            raise UserError(f"array {k!r} of {path} is {a.dtype} with {a.ndim} axes: needs numbers, one item a row")
        kind = np.uint8 if a.dtype == np.uint8 else np.float32 if a.dtype.kind == "f" else np.int64
        columns[k] = torch.from_numpy(a.astype(kind))
    if not any(k in columns for k in either):
        wanted = " or ".join(map(repr, either))
        raise UserError(
            f"{path} has no array {wanted}, only {sorted(columns) or 'nothing'}: "
            f"save with np.savez(path, {either[0]}=...)"
        )
    return columns
