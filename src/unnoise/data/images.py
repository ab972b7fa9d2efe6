"""One's own pictures, from wherever they lie."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from unnoise.data.dataset import Column, Dataset, permutation, require_finite
from unnoise.data.found import Found
from unnoise.data.groups import duplicates, require_limit
from unnoise.data.home import read_arrays
from unnoise.data.picture_column import Pictures
from unnoise.data.picture_files import Tally
from unnoise.data.picture_formats import NAMES, Form, resized
from unnoise.data.picture_split import held_out_rows
from unnoise.data.picture_survey import Summary, Survey, digest, survey
from unnoise.errors import UserError


@dataclass(frozen=True)
class Images:
    """Pictures of one's own: x [N, C, H, W], and label int64 [N] where they have classes.

    x is uint8 in 0..255; int32 in 0..65535 where most are gray of 16 bits (torch cannot index uint16 on GPUs); float32
    where an npz holds floats. Every picture is turned as its EXIF orientation says. One of another size is brought to
    `size` by Lanczos, antialiased (`picture_formats`), one of other channels or bits to those of the most; what is
    converted, enlarged or skipped is counted, see `found`. Files of the same bytes are in one part of the split. A
    class of one picture is trained on.

    Args:
        path: a folder, searched with all that is below, where hidden files are left out; a zip; a tar, plain or
            compressed; in these, folders of the first level are classes where there are two or more and every picture
            lies in one. Or an npz with x uint8, uint16 or float [N, H, W], [N, H, W, C] or [N, C, H, W] (the smaller of
            the two axes is C) and, where wanted, label [N]. Or a folder that Hugging Face `datasets` saved (extra
            datasets): its splits "train" and "test" (or "validation") are the two parts.
        size: (H, W), or one number for both; None: that of the pictures, where all have one.
        fit: "crop": scaled, as they are, until `size` is just covered, of which the centre is taken; "stretch": each
            side is scaled by itself.
        channels: 1 gray, 2 gray with alpha, 3 RGB, 4 RGBA; None: what most have. What is transparent lies on white.
        held_out: share of the pictures that is never trained on, as evenly from all classes as it goes.
        limit: only so many of the training pictures, at random; None: all.
        seed: which pictures those are.
        memory: GiB; what is larger when decoded is read picture by picture as training asks for it.
        digest: of names and sizes of the files, as `found` gives it: others are refused; None: any.
    """

    path: str
    size: int | tuple[int, int] | None = None
    fit: Literal["crop", "stretch"] = "crop"
    channels: int | None = None
    held_out: float = 0.1
    limit: int | None = None
    seed: int = 0
    memory: float = 4.0
    digest: str | None = None

    def __post_init__(self) -> None:
        require_limit(self.limit)
        if self.sides is not None and min(self.sides) < 1:
            raise UserError(f"size is (H, W) >= 1 in pixels, or one number for both, got {self.size}")
        if self.fit not in ("crop", "stretch"):
            raise UserError(f"fit is crop or stretch, got {self.fit!r}")
        if self.channels is not None and self.channels < 1:
            raise UserError(f"channels must be at least 1, got {self.channels}")
        if not 0 <= self.held_out < 1:
            raise UserError(f"held_out is a share in [0, 1), got {self.held_out}")
        if not self.memory >= 0:
            raise UserError(f"memory is a number of GiB >= 0, got {self.memory}")

    @property
    def sides(self) -> tuple[int, int] | None:
        """The size as (H, W)."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def found(self) -> Found:
        """What is there, from the headers of all files; Raises UserError as `load`, but not for sizes that differ."""
        return self._archive()[0] if self._is_archive else self._survey().found()

    def load(self) -> Dataset:
        """The data.

        Raises:
            UserError: for a path that is missing, damaged or has no picture that can be read, saying what was skipped;
                for sizes that differ where none is asked for; for files that are not those of `digest`.
        """
        return self.read()[1]

    def read(self) -> tuple[Found, Dataset]:
        """The data, and what was found, damaged pictures counted where all were decoded; Raises as `load`."""
        if self._is_archive:
            return self._archive()
        seen = self._survey()
        form = seen.require_form()
        before = seen.found()
        self._require_digest(before)
        if any(seen.part):
            away = torch.tensor([p == "held_out" for p in seen.part])
        else:
            away = held_out_rows(seen.group, seen.label, self.held_out, self.seed)
        rows = self._limited(away)
        size = sum(map(len, rows)) * math.prod(form.shape) * (4 if form.deep else 1)
        parts: list[dict[str, Column]] = []
        damaged: list[int] = []
        for some in rows:
            files = Pictures([seen.files[i] for i in some.tolist()], form, self.path)
            x: Column = files
            if size <= self.memory * 2**30:
                x, good = files.decoded(seen.skipped)
                damaged += some[~good].tolist()
                some = some[good]
            parts.append({"x": x} | ({"label": seen.label[some]} if seen.classes else {}))
        found = replace(seen.without(damaged).found(), digest=before.digest)
        if not len(parts[0]["x"]):
            raise UserError(f"no picture of {self.path} can be trained on: {found.line()}")
        train, held_out = parts
        return found, Dataset(train, held_out, about=found.line(), notice=found.line())

    def _survey(self) -> Survey:
        return survey(self._place, self.sides, self.fit, self.channels, self.memory * 2**30)

    @property
    def _place(self) -> Path:
        if not self.path:
            raise UserError("which pictures? --data PATH (data.path) names a folder, a zip, a tar or an npz file")
        return Path(self.path).expanduser()

    @property
    def _is_archive(self) -> bool:
        return self._place.suffix == ".npz"

    def _limited(self, away: Bool[Tensor, " n"]) -> tuple[Int64[Tensor, " a"], Int64[Tensor, " b"]]:
        """The numbers of what is trained on and held out."""
        train, held_out = (~away).nonzero().flatten(), away.nonzero().flatten()
        if self.limit is not None and self.limit < len(train):
            train = train[permutation(len(train), self.seed, 1)[: self.limit].sort().values]
        return train, held_out

    def _require_digest(self, found: Found) -> None:
        if self.digest not in (None, found.digest):
            raise UserError(
                f"the pictures of {self.path} are not those that the run began with, by names and sizes of the files "
                f"({found.count:,} now): bring the old ones back, or begin anew with these and the weights so far: "
                "unnoise train images --data PATH --from RUN --out OTHER"
            )

    def _archive(self) -> tuple[Found, Dataset]:
        """An npz, which is held in memory whatever `memory` says."""
        arrays = read_arrays(self._place)
        if "x" not in arrays:
            raise UserError(f"{self.path} has no array 'x', only {sorted(arrays) or 'nothing'}: np.savez(path, x=..)")
        x, dtype = _pictures(arrays["x"], self.channels, self.path)
        size = (int(x.shape[2]), int(x.shape[3]))
        converted = Tally()
        if self.sides is not None and self.sides != size:
            form = Form((x.shape[1], *self.sides), fit=self.fit)
            small = max(a / b for a, b in zip(form.shape[1:], size, strict=True)) <= 1
            for i in range(len(x)):
                if not small:
                    converted.add(f"enlarged to {form.shape[1]}x{form.shape[2]}", f"item {i}")
            before, x = x, np.empty((len(x), *form.shape), x.dtype)
            for i, picture in enumerate(before):
                x[i] = resized(picture, form)
        pixels = torch.from_numpy(x)
        require_finite(pixels, "x")
        label, classes = _numbered(arrays.get("label"), len(x), self.path)
        group = duplicates(pixels)
        words = NAMES.get(x.shape[1], f"{x.shape[1]} channels")
        summary = Summary.of(label, group, classes)
        found = Found(
            path=self.path,
            count=len(x),
            sizes={size: len(x)},
            modes={f"{words}, {dtype}": len(x)},
            skipped={},
            converted=converted.by_reason,
            digest=digest([f"{k} {a.dtype} {a.shape}" for k, a in arrays.items()] + [_hash(arrays["x"])]),
            shape=(int(x.shape[1]), int(x.shape[2]), int(x.shape[3])),
            dtype=dtype,
            classes=summary.classes,
            twice=summary.twice,
            alone=summary.alone,
        )
        self._require_digest(found)
        parts = self._limited(held_out_rows(group, label, self.held_out, self.seed))
        train, held_out = ({"x": pixels[rows]} | ({"label": label[rows]} if classes else {}) for rows in parts)
        return found, Dataset(train, held_out, about=found.line(), notice=found.line())


def _pictures(x: Any, channels: int | None, path: str) -> tuple[Any, Literal["uint8", "uint16", "float32"]]:
    """[N, C, H, W] of an array in one of the layouts, and what its numbers are."""
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4:
        last = x.shape[3] == channels != x.shape[1] if channels else x.shape[3] < x.shape[1]
        x = x.transpose(0, 3, 1, 2) if last else x
    if x.ndim != 4 or 0 in x.shape:
        raise UserError(f"x of {path} is {list(x.shape)}: pictures are [N, H, W], [N, H, W, C] or [N, C, H, W]")
    if channels not in (None, x.shape[1]):
        raise UserError(f"the pictures of {path} have {x.shape[1]} channels, not channels={channels}: leave it out")
    if x.dtype == np.uint8:
        return np.ascontiguousarray(x), "uint8"
    if x.dtype.kind == "f":
        return np.ascontiguousarray(x, np.float32), "float32"
    if x.dtype.kind in "iu" and x.min() >= 0 and x.max() <= 65535:
        return np.ascontiguousarray(x, np.int32), "uint16"
    raise UserError(f"x of {path} is {x.dtype} from {x.min()} to {x.max()}: save it as uint8, uint16 or float32")


def _numbered(label: Any, count: int, path: str) -> tuple[Int64[Tensor, " n"], tuple[str, ...]]:
    """Labels as 0, 1, .. in the order of their values, which become names; nothing where there are none, or one."""
    if label is None:
        return torch.zeros(count, dtype=torch.int64), ()
    if label.shape != (count,) or label.dtype.kind not in "iub":
        raise UserError(
            f"label of {path} is {label.dtype} {list(label.shape)}: one integer for each of {count} pictures"
        )
    values = sorted(Counter(label.tolist()))
    if len(values) < 2:
        return torch.zeros(count, dtype=torch.int64), ()
    return torch.from_numpy(np.searchsorted(values, label).astype(np.int64)), tuple(map(str, values))


def _hash(x: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(x).data).hexdigest()
