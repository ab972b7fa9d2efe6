"""CIFAR-10: its published binary files, and strips of its pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from unnoise.data.dataset import Dataset
from unnoise.data.fetch import Remote
from unnoise.data.groups import limited, require_limit, split_groups, take
from unnoise.data.home import locate, read_arrays, read_bytes, read_tar
from unnoise.data.strips import read_strips
from unnoise.errors import UserError

ABOUT = "CIFAR-10, Krizhevsky 2009, no explicit licence: research use with citation"

REMOTES = (
    Remote(
        ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
        sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        size=170_052_171,
    ),
)

_RECORD = 1 + 3 * 32 * 32
_FILES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")
"""Five of the training set, and the test set."""

_ARCHIVE, _FOLDER, _LABELS = "cifar-10-binary.tar.gz", "cifar-10-batches-bin", "cifar10_labels.npz"


@dataclass(frozen=True)
class Cifar10:
    """Small photographs of ten classes: x uint8 [N, 3, 32, 32] in 0..255, label int64 [N] in 0..9, see `names`.

    50,000 to train on; the 10,000 of the official test set are held out. Krizhevsky 2009, Learning Multiple Layers of
    Features from Tiny Images (no explicit licence: research use with citation). Nothing is reduced in the published
    files; in the strips of UNNOISE_DATA 73 training and 20 test pictures, ships and horses, are JPEG copies of
    themselves.

    Args:
        held_out: "test", or a share of the training set, so that the test set stays unseen while choices are made.
        exact: leave out the JPEG copies: 49,927 and 9,980 pictures remain.
        limit: only so many of the training set, at random; None: all.
        seed: which items a share holds out, and which a limit leaves.
        path: a folder of strips ("cifar10_train_1.tar", ..) or of the published binary files ("data_batch_1.bin", ..),
            or the published tar.gz; None: "cifar10" in UNNOISE_DATA, else in the cache, downloaded where needed.
    """

    held_out: Literal["test"] | float = "test"
    exact: bool = False
    limit: int | None = None
    seed: int = 0
    path: str | None = None

    names: ClassVar[tuple[str, ...]] = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )
    """The classes."""

    def __post_init__(self) -> None:
        require_limit(self.limit)
        if isinstance(self.held_out, str) and self.held_out != "test":
            raise UserError(f'held_out is "test" or a share in [0, 1), got {self.held_out!r}')

    def load(self) -> Dataset:
        """The data; Raises UserError for files that are missing, damaged or not CIFAR-10."""
        path = locate("cifar10", REMOTES, ABOUT) if self.path is None else Path(self.path)
        train, held_out = (self._kept(part) for part in _read(path))
        if not isinstance(self.held_out, str):
            train, held_out = split_groups(train, torch.arange(len(train["x"])), self.held_out, self.seed)
        return Dataset(limited(train, self.limit, self.seed), held_out, about=ABOUT)

    def _kept(self, part: dict[str, Tensor]) -> dict[str, Tensor]:
        kept = take(part, part["exact"]) if self.exact else part
        return {k: v for k, v in kept.items() if k != "exact"}


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Training and test part, with a column "exact", bool [N]; which form they have is seen by what is there."""
    if path.is_dir():
        if (path / _LABELS).is_file():
            return _strips(path)
        for folder in (path, path / _FOLDER):
            if any((folder / name).is_file() for name in _FILES):
                return _binaries({n: read_bytes(folder / n) for n in _FILES if (folder / n).is_file()}, folder)
        if (path / _ARCHIVE).is_file():
            return _archive(path / _ARCHIVE)
        if any((folder / "data_batch_1").is_file() for folder in (path, path / "cifar-10-batches-py")):
            raise UserError(f"{path} holds the Python version of CIFAR-10, which is pickled: fetch the binary version")
        raise UserError(f"{path} is not CIFAR-10: it holds neither {_FILES[0]}, nor {_ARCHIVE}, nor {_LABELS}")
    return _archive(path)


def _strips(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    labels = read_arrays(folder / _LABELS, "train", "test", "train_exact", "test_exact")
    parts = []
    for part, files in (("train", [f"train_{i}" for i in range(1, 6)]), ("test", ["test"])):
        x = torch.cat([read_strips(folder / f"cifar10_{name}.tar", 32) for name in files])
        label = torch.from_numpy(labels[part].astype(np.int64))
        exact = torch.from_numpy(labels[f"{part}_exact"].astype(bool))
        if x.shape[1:] != (3, 32, 32) or not len(x) == len(label) == len(exact):
            raise UserError(f"{folder} contradicts itself: {len(x)} {part} pictures, {len(label)} labels")
        parts.append({"x": x, "label": label, "exact": exact})
    return parts[0], parts[1]


def _archive(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    contents = {Path(name).name: content for name, content in read_tar(path).items()}
    return _binaries(contents, path)


def _binaries(contents: dict[str, bytes], where: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    if missing := [name for name in _FILES if name not in contents]:
        raise UserError(f"{where} has no {missing[0]}: fetch the binary version of CIFAR-10, {_ARCHIVE}")
    *train, test = (_records(contents[name], f"{name} in {where}") for name in _FILES)
    return _together(train), _together([test])


def _records(content: bytes, name: str) -> UInt8[Tensor, "n record"]:
    """The records of a binary file: a byte for the label, 1,024 for red, green and blue each, row after row."""
    if not content or len(content) % _RECORD:
        raise UserError(f"{name} is cut short: {len(content)} bytes are no whole number of records of {_RECORD}")
    records = torch.from_numpy(np.frombuffer(content, np.uint8).reshape(-1, _RECORD).copy())
    if (highest := int(records[:, 0].max())) > 9:
        raise UserError(f"{name} is not of CIFAR-10: a label is {highest}, the classes are 0 to 9")
    return records


def _together(parts: list[Tensor]) -> dict[str, Tensor]:
    records = torch.cat(parts)
    x = records[:, 1:].reshape(-1, 3, 32, 32)
    return {"x": x.contiguous(), "label": records[:, 0].long(), "exact": torch.ones(len(x), dtype=torch.bool)}
