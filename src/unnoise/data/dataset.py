"""A data set: columns of raw data, in memory or read when asked for, split into what is trained on and held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from unnoise.core.rng import Rng
from unnoise.errors import UserError


@runtime_checkable
class Lazy(Protocol):
    """A column that is read when rows of it are asked for: a set larger than memory.

    It is read by several processes at once, each with a copy of its own. A row that cannot be read is a UserError that
    names its file.
    """

    @property
    def shape(self) -> Sequence[int]:
        """[N, ...]."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of the rows."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Shaped[Tensor, "_ ..."]:
        """The rows at int64 indices [B], B >= 1, in any order and as often as named, or of a slice; on the CPU."""
        ...


Column = Shaped[Tensor, "_ ..."] | Lazy
Columns = Mapping[str, Column]
"""Raw data by name, all of one length; "x" is always there."""


@dataclass(frozen=True)
class View:
    """Some rows of a lazy column, itself lazy.

    Args:
        column: the whole.
        items: int64 [N], which of its rows.
    """

    column: Lazy
    items: Int64[Tensor, " n"]

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, ...]."""
        return (len(self.items), *self.column.shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        """Of the rows."""
        return self.column.dtype

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, rows: Any, /) -> Shaped[Tensor, "_ ..."]:
        """The rows at int64 indices, or of a slice."""
        items = self.items[rows]
        return self.column[items] if len(items) else torch.empty(0, *self.shape[1:], dtype=self.dtype)


def chosen(column: Column, items: Int64[Tensor, " n"]) -> Column:
    """These rows of a column: a copy of a tensor's, a view of a lazy column's."""
    return column[items] if isinstance(column, Tensor) else View(column, items)


def loaded(column: Column, most: int | None = None) -> Shaped[Tensor, "_ ..."]:
    """A column in memory: a tensor as it is; of a lazy column all, or at most `most` items, spread evenly."""
    if isinstance(column, Tensor):
        return column
    n = len(column) if most is None else min(most, len(column))
    return column[torch.arange(n) * len(column) // max(n, 1)]


@runtime_checkable
class Source(Protocol):
    """A frozen value that knows where data are and what they are."""

    def load(self) -> Dataset:
        """The data, checked."""
        ...


@dataclass(frozen=True)
class Dataset:
    """Columns of training and of held-out data; those in memory are checked to be finite, lazy ones as they are read.

    Args:
        train: what is learned from.
        held_out: never trained on.
        about: one line: what it is, where it comes from, its licence.
        notice: one line that is said when training starts, as of files that were skipped; empty: nothing to say.
    """

    train: Columns
    held_out: Columns
    about: str = ""
    notice: str = ""

    def __post_init__(self) -> None:
        for split, columns in (("train", self.train), ("held_out", self.held_out)):
            if "x" not in columns:
                raise UserError(f"the {split} data have no column 'x', only {sorted(columns)}")
            require_one_length(columns)
        if not len(self):
            raise UserError("the training data are empty")
        for k in self.train.keys() & self.held_out.keys():
            for column in (self.train[k], self.held_out[k]):
                if isinstance(column, Tensor):
                    require_finite(column, k)

    def __len__(self) -> int:
        return len(self.train["x"])


def require_one_length(columns: Columns) -> None:
    """Refuse columns that cannot be of the same items; Raises UserError."""
    lengths = {k: len(v) for k, v in columns.items()}
    if len(set(lengths.values())) != 1:
        raise UserError(f"the columns of the data differ in length: {lengths}")


def require_finite(column: Shaped[Tensor, "n ..."], name: str) -> None:
    """Refuse NaN and infinities before anything is trained on them.

    Raises:
        UserError: naming the first bad item.
    """
    if not column.is_floating_point():
        return
    bad = ~torch.isfinite(column)
    if bool(bad.any()):
        item = int(bad.flatten(1).any(1).nonzero()[0]) if bad.ndim > 1 else int(bad.nonzero()[0])
        count = int(bad.flatten(1).any(1).sum()) if bad.ndim > 1 else int(bad.sum())
        raise UserError(
            f"column {name!r} holds NaN or infinity in {count} of {len(column)} items, first in item {item}: "
            "remove them or repair the file"
        )


def split(columns: Columns, held_out: float, seed: int) -> tuple[Columns, Columns]:
    """Train and held-out parts; a share `held_out` of the items in a random order fixed by `seed`.

    Lazy columns stay lazy.
    """
    if not 0 <= held_out < 1:
        raise UserError(f"held_out is a share in [0, 1), got {held_out}")
    require_one_length(columns)
    n = len(columns["x"])
    order = permutation(n, seed)
    cut = round(n * held_out)
    parts = order[cut:].sort().values, order[:cut].sort().values
    train, test = ({k: chosen(v, i) for k, v in columns.items()} for i in parts)
    return train, test


def permutation(n: int, *path: int) -> Int64[Tensor, " {n}"]:
    """A random order of 0..n-1, int64 [n]: a pure function of n and the path (seed, epoch, ..)."""
    draws = Rng.of(path[0]).fold(*path[1:]).uniform(torch.zeros(1, n, dtype=torch.float64))
    return draws[0].argsort(stable=True)
