"""Pictures as a column of a data set: decoded once into memory, or file by file as they are asked for."""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Shaped
from torch import Tensor
from tqdm import tqdm

from unnoise.data.dataset import Column
from unnoise.data.loader import default_workers
from unnoise.data.picture_files import PictureFile, Tally
from unnoise.data.picture_formats import Form, Unreadable, decode, quiet
from unnoise.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Pictures:
    """Picture files as a lazy column; see `dataset.Lazy`.

    Args:
        files: of each row.
        form: what they are brought to.
        where: the set, for messages.
    """

    files: Sequence[PictureFile]
    form: Form
    where: str

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, C, H, W]."""
        return (len(self.files), *self.form.shape)

    @property
    def dtype(self) -> torch.dtype:
        """uint8; int32 for 16 bits."""
        return torch.int32 if self.form.deep else torch.uint8

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, rows: Any, /) -> Shaped[Tensor, "_ c h w"]:
        """The rows at int64 indices, or of a slice; Raises UserError naming a file that cannot be read."""
        with quiet():
            pixels = [self._read(i) for i in torch.arange(len(self))[rows].tolist()]
        return torch.from_numpy(np.stack(pixels)) if pixels else torch.empty(0, *self.form.shape, dtype=self.dtype)

    def _read(self, row: int) -> Shaped[np.ndarray, "c h w"]:
        try:
            return read(self.files[row], self.form)
        except Unreadable as e:
            raise UserError(
                f"{self.files[row].name} in {self.where} cannot be used ({e}): repair it, or remove it and begin anew"
            ) from e

    def decoded(self, skipped: Tally) -> tuple[Shaped[Tensor, "n c h w"], Bool[Tensor, " m"]]:
        """All that can be read, in memory, and which those are; the others are counted as skipped."""
        x, good = torch.empty(self.shape, dtype=self.dtype), torch.ones(len(self), dtype=torch.bool)

        def one(row: int) -> str | None:
            try:
                x[row] = torch.from_numpy(read(self.files[row], self.form))
            except Unreadable as e:
                return str(e)
            return None

        workers = min(16, default_workers() + 1)
        with quiet(), ThreadPoolExecutor(workers) as pool:  # decoders let go of Python's lock
            try:
                for row, reason in enumerate(watched(pool.map(one, range(len(self))), len(self), "decoding")):
                    if reason:
                        skipped.add(reason, self.files[row].name)
                        good[row] = False
            except BaseException:
                pool.shutdown(cancel_futures=True)  # or Ctrl-C would wait for all that is left
                raise
        return (x if bool(good.all()) else x[good]), good


def read(file: PictureFile, form: Form) -> Shaped[np.ndarray, "c h w"]:
    """A picture file in this form; Raises Unreadable."""
    return opened(file, lambda content: decode(content, form))


def opened(file: PictureFile, use: Callable[[Any], T]) -> T:
    """What `use` makes of the content of a file; Raises Unreadable."""
    if not file.size:
        raise Unreadable("empty files")
    try:
        content = file.open()
    except (OSError, EOFError, ValueError, zlib.error) as e:
        raise Unreadable("cannot be read") from e
    with content:
        return use(content)


def readable(column: Column, most: int) -> Shaped[Tensor, "_ c h w"]:
    """Up to so many pictures in memory, spread evenly; damaged ones are left out; Raises UserError if all are."""
    rows = (torch.arange(min(most, len(column))) * len(column) // min(most, len(column))).tolist()
    found: list[Tensor] = []
    for i in rows:
        try:
            found.append(column[torch.tensor([i])])
        except UserError:
            if not found and i == rows[-1]:
                raise
    return torch.cat(found)


def watched(steps: Iterable[T], count: int, what: str) -> Iterator[T]:
    """The same, with a progress bar where the main process of a run writes to a terminal."""
    quiet = not sys.stderr.isatty() or int(os.environ.get("RANK", "0")) != 0
    yield from tqdm(steps, desc=what, total=count, unit=" pictures", leave=False, disable=quiet)
