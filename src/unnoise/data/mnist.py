"""MNIST, and the IDX files that it comes in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Shaped
from torch import Tensor

from unnoise.data.dataset import Columns, Dataset, split
from unnoise.data.fetch import Remote
from unnoise.data.home import locate, read_bytes
from unnoise.data.strips import halved
from unnoise.errors import UserError

ABOUT = "MNIST handwritten digits, LeCun, Cortes & Burges, CC BY-SA 3.0"

_MIRROR = "https://storage.googleapis.com/cvdf-datasets/mnist"
REMOTES = (
    Remote(
        (f"{_MIRROR}/train-images-idx3-ubyte.gz",),
        sha256="440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        size=9_912_422,
    ),
    Remote(
        (f"{_MIRROR}/train-labels-idx1-ubyte.gz",),
        sha256="3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        size=28_881,
    ),
    Remote(
        (f"{_MIRROR}/t10k-images-idx3-ubyte.gz",),
        sha256="8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        size=1_648_877,
    ),
    Remote(
        (f"{_MIRROR}/t10k-labels-idx1-ubyte.gz",),
        sha256="f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        size=4_542,
    ),
)

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | Path) -> Shaped[Tensor, ...]:
    """The array of an IDX file, plain or gzip, of its own shape and type (uint8, int8, int16, int32, float32, float64).

    Two zero bytes, one for the type, one for the rank; the sizes as big-endian uint32; the numbers, big-endian.

    Raises:
        UserError: naming the file, for one that is missing, damaged, no IDX, cut short or too long.

    Source: Y. LeCun, C. Cortes, C. Burges, The MNIST database of handwritten digits, section "File formats".
    """
    data = read_bytes(path)
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _TYPES or data[3] > 32:
        raise UserError(f"{path} is not an IDX file: it begins with {data[:4].hex(' ')}, not with 00 00 TYPE RANK")
    kind, start = np.dtype(_TYPES[data[2]]), 4 + 4 * data[3]
    if len(data) < start:
        raise UserError(f"{path} is cut short: its head needs {start} bytes, there are {len(data)}")
    shape = [int.from_bytes(data[i : i + 4], "big") for i in range(4, start, 4)]
    wanted, found = math.prod(shape) * kind.itemsize, len(data) - start
    if found < wanted:
        raise UserError(f"{path} is cut short: shape {shape} needs {wanted} bytes, there are {found}")
    if found > wanted:
        raise UserError(f"{path} has {found - wanted} bytes more than its shape {shape} needs: it is damaged")
    numbers = np.frombuffer(data, kind, offset=start).reshape(shape)
    return torch.from_numpy(numbers.astype(kind.newbyteorder("=")))


@dataclass(frozen=True)
class Mnist:
    """Handwritten digits: x uint8 [N, 1, size, size] in 0..255 (0 is paper), label int64 [N] in 0..9.

    60,000 to train on; the 10,000 of the official test set, by other writers, are held out. LeCun, Cortes & Burges,
    The MNIST database of handwritten digits (CC BY-SA 3.0).

    Args:
        size: 28: as published. 32: with 2 pixels of paper around. 16: means of 2x2 pixels of the 32, rounded, half to
            even.
        held_out: "test", or a share of the training set, so that the test set stays unseen while choices are made.
        low: also the picture of size 16 as column "low", uint8 [N, 1, 16, 16]: for super-resolution, from size 32.
        limit: only so many of the training set, the first ones; None: all.
        seed: which items a share holds out.
        path: the folder with the four IDX files, plain or gzip; None: "mnist" in UNNOISE_DATA, else in the
            cache, downloaded where needed.
    """

    size: int = 28
    held_out: Literal["test"] | float = "test"
    low: bool = False
    limit: int | None = None
    seed: int = 0
    path: str | None = None

    def __post_init__(self) -> None:
        if self.size not in (16, 28, 32):
            raise UserError(f"MNIST comes in size 16, 28 or 32, got size={self.size}")
        if self.low and self.size != 32:
            raise UserError(f"low=True is the 16-pixel picture of one of 32: set size=32, got size={self.size}")
        if self.limit is not None and self.limit < 1:
            raise UserError(f"limit is a number of training pictures >= 1, or None for all, got {self.limit}")
        if isinstance(self.held_out, str) and self.held_out != "test":
            raise UserError(f'held_out is "test" or a share in [0, 1), got {self.held_out!r}')

    def load(self) -> Dataset:
        """The data; Raises UserError for a file that is missing or damaged."""
        folder = locate("mnist", REMOTES, ABOUT) if self.path is None else Path(self.path)
        train = self._part(folder, "train", self.limit)
        if isinstance(self.held_out, str):
            parts: tuple[Columns, Columns] = train, self._part(folder, "t10k", None)
        else:
            parts = split(train, self.held_out, self.seed)
        return Dataset(*parts, about=ABOUT)

    def _part(self, folder: Path, name: str, limit: int | None) -> Columns:
        x = read_idx(_either(folder / f"{name}-images-idx3-ubyte"))
        label = read_idx(_either(folder / f"{name}-labels-idx1-ubyte"))
        for array, shape in ((x, (len(x), 28, 28)), (label, (len(x),))):
            if array.dtype != torch.uint8 or array.shape != shape:
                raise UserError(
                    f"the {name} files in {folder} are not MNIST's: {array.dtype} of shape {list(array.shape)}, "
                    f"not uint8 of {list(shape)}"
                )
        x, label = x[:limit, None], label[:limit].long()
        if self.size == 28:
            return {"x": x, "label": label}
        x = F.pad(x, (2, 2, 2, 2))
        small = halved(x) if self.low or self.size == 16 else x
        return {"x": small if self.size == 16 else x, "label": label} | ({"low": small} if self.low else {})


def _either(path: Path) -> Path:
    """The file as it is, or with .gz; the latter where there is neither, to be named as missing."""
    return path if path.is_file() else path.with_name(f"{path.name}.gz")
