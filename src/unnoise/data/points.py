"""Point clouds: so many points of each shape."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float32
from torch import Tensor

from unnoise.core.rng import Rng
from unnoise.data.dataset import Dataset, split
from unnoise.data.home import find, read_arrays, read_text
from unnoise.errors import UserError


@dataclass(frozen=True)
class Points:
    """Shapes as points of their surface: x float32 [N, count, 3], in the scale of the file.

    Of each shape's points, a random `count` in a random order, the same at every load. "airplane": 726 shapes of 2,048
    points, y up. "chair": 989 of 1,024, z up. Both lie in the unit sphere, to 0.002, and keep their official split
    (100 of each are held out). ModelNet40 and ModelNet10, Wu et al. 2015, 3D ShapeNets, CVPR, arXiv:1406.5670;
    airplane points by Qi et al. 2017, PointNet++, arXiv:1706.02413 (academic use).

    Args:
        name: which of the two, where no path is given.
        count: points of a shape, from 1 to the smallest number of points of any shape.
        path: the published file; or one's own: an npz file with "x" [N, P, 3], an npy file [N, P, 3] or [P, 3], or a
            folder of npy or txt files, a shape each (text: x y z, with spaces or commas; further columns are ignored).
            Nothing is scaled or moved.
        held_out: share of one's own shapes that is never trained on.
        seed: which points are taken, and which of one's own shapes are held out.
    """

    name: Literal["airplane", "chair"] = "airplane"
    count: int = 256
    path: str | None = None
    held_out: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in ("airplane", "chair"):
            raise UserError(f"the point clouds are airplane and chair, got {self.name!r}: pass path=... for your own")
        if self.count < 1:
            raise UserError(f"count is a number of points >= 1, got {self.count}")

    def load(self) -> Dataset:
        """The data; Raises UserError for files that are missing, damaged, with too few points or with NaN."""
        path = find("pointclouds", f"modelnet_{self.name}.npz") if self.path is None else Path(self.path)
        test, shapes = _read_all(path)
        fewest = min(len(s) for s in shapes)
        if fewest < self.count:
            raise UserError(f"a shape of {path} has {fewest} points: set count={fewest} or less, got {self.count}")
        x = torch.stack([_subset(s, self.count, self.seed, i) for i, s in enumerate(shapes)])
        about = f"points of {path.name}, as stored"
        if self.path is None:
            about = f"ModelNet {self.name}s, Wu et al. 2015, academic use; in the unit sphere, as stored"
        if test is None:
            return Dataset(*split({"x": x}, self.held_out, self.seed), about=about)
        return Dataset({"x": x[~test]}, {"x": x[test]}, about=about)


def _subset(shape: npt.NDArray[Any], count: int, seed: int, item: int) -> Float32[Tensor, "count 3"]:
    draws = Rng.of(seed).fold(item).uniform(torch.zeros(1, len(shape), dtype=torch.float64))
    return torch.from_numpy(shape.astype(np.float32))[draws[0].argsort(stable=True)[:count]]


def _read_all(path: Path) -> tuple[Tensor | None, list[npt.NDArray[Any]]]:
    """Which shapes are the official test set, bool [N], where there is one, and the shapes [P, 3]."""
    if path.suffix == ".npz" and "delta" in (file := read_arrays(path)):  # thousandths, as differences along the points
        file = read_arrays(path, "delta", "split")
        x = np.cumsum(file["delta"], 2, dtype=np.int16).transpose(1, 2, 0) / 1000
        return torch.from_numpy(file["split"] == 1), _checked(x, path)
    files = [path]
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix in (".npy", ".txt"))
    shapes = [s for f in files for s in _checked(_read(f), f)]
    if not shapes:
        raise UserError(f"no shapes in {path}: needs points [N, P, 3], or a folder of .npy or .txt files")
    return None, shapes


def _read(path: Path) -> npt.NDArray[Any]:
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    if path.suffix == ".npz":
        return read_arrays(path, "x")["x"]
    if path.suffix == ".npy":
        return _npy(path)
    if path.suffix == ".txt":
        return _text(path)
    raise UserError(f"{path} is not a .npy, .npz or .txt file of points")


def _checked(array: npt.NDArray[Any], path: Path) -> list[npt.NDArray[Any]]:
    if array.dtype.kind not in "fiu" or array.ndim not in (2, 3) or array.shape[-1] != 3:
        raise UserError(f"{path} holds {array.dtype} of shape {list(array.shape)}: points are numbers [N, P, 3]")
    shapes = list(array if array.ndim == 3 else array[None])
    for i, shape in enumerate(shapes):
        if not np.isfinite(shape).all():
            raise UserError(f"{path} holds NaN or infinity, first in shape {i}: remove it or repair the file")
    return shapes


def _npy(path: Path) -> npt.NDArray[Any]:
    try:
        with path.open("rb") as f:
            return np.lib.format.read_array(f, allow_pickle=False)
    except (ValueError, OSError, EOFError) as e:
        raise UserError(f"{path} is not a readable npy file: {e}") from e


def _text(path: Path) -> npt.NDArray[Any]:
    rows = []
    for i, line in enumerate(read_text(path).splitlines()):
        words = line.replace(",", " ").split()
        try:
            if words:
                x, y, z = (float(w) for w in words[:3])
                rows.append((x, y, z))
        except ValueError:
            raise UserError(f"{path}, line {i + 1}: a point is `x y z`, found {line.strip()!r}") from None
    return np.array(rows, dtype=np.float32).reshape(-1, 3)
