"""What pictures there are at a place, from their headers: listed, looked at, told apart, and given a common form."""

from __future__ import annotations

import contextlib
import hashlib
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from unnoise.data.found import Found, told
from unnoise.data.hub_folder import in_hub_folder, is_hub_folder
from unnoise.data.picture_archives import InZip, in_tar, in_zip
from unnoise.data.picture_column import opened, watched
from unnoise.data.picture_files import Listed, Part, PictureFile, Tally, folders, in_folder
from unnoise.data.picture_formats import NAMES, Fit, Form, Header, Unreadable, look, quiet
from unnoise.errors import UserError


@dataclass(frozen=True)
class Survey:
    """The pictures at a place, in a fixed order.

    Args:
        path: the place.
        files: of each picture.
        headers: of each.
        label: int64 [N], its class; zeros where there are none.
        classes: their names; none where there are no labels.
        part: of each, where the set itself splits.
        group: int64 [N]; files of the same bytes have the same number.
        skipped: what is not used.
        form: what all are brought to; None where their sizes differ and none was asked for.
    """

    path: Path
    files: Sequence[PictureFile]
    headers: Sequence[Header]
    label: Int64[Tensor, " n"]
    classes: tuple[str, ...]
    part: Sequence[Part | None]
    group: Int64[Tensor, " n"]
    skipped: Tally
    form: Form | None

    def found(self) -> Found:
        """All this as numbers."""
        converted = Tally()
        for file, header in zip(self.files, self.headers, strict=True):
            for change in self.form.changes(header) if self.form else ():
                converted.add(change, file.name)
        summary = Summary.of(self.label, self.group, self.classes)
        return Found(
            path=str(self.path),
            count=len(self.files),
            sizes=dict(Counter(h.size for h in self.headers).most_common()),
            modes=dict(Counter(h.mode for h in self.headers).most_common()),
            skipped=dict(self.skipped.by_reason),
            converted=converted.by_reason,
            digest=digest(f"{f.name}\0{f.size}\0{f.crc if isinstance(f, InZip) else ''}" for f in self.files),
            shape=self.form.shape if self.form else None,
            dtype="uint16" if self.form and self.form.deep else "uint8",
            classes=summary.classes,
            twice=summary.twice,
            alone=summary.alone,
        )

    def without(self, rows: Sequence[int]) -> Survey:
        """The same without the pictures of these numbers."""
        kept = sorted(set(range(len(self.files))) - set(rows))
        index = torch.tensor(kept, dtype=torch.int64)
        return replace(
            self,
            files=[self.files[i] for i in kept],
            headers=[self.headers[i] for i in kept],
            part=[self.part[i] for i in kept],
            label=self.label[index],
            group=self.group[index],
        )

    def require_form(self) -> Form:
        """The form; Raises UserError, naming two sizes, where there is none."""
        if self.form is not None:
            return self.form
        sizes = Counter(h.size for h in self.headers).most_common(2)
        firsts = [next(f.name for f, h in zip(self.files, self.headers, strict=True) if h.size == s) for s, _ in sizes]
        (a, b), (c, d) = (s for s, _ in sizes)
        raise UserError(
            f"the pictures of {self.path} differ in size, {a}x{b} ({firsts[0]}) and {c}x{d} ({firsts[1]}) among them: "
            "set size=64, say, or size=(H, W) (--size 64 or --size HxW)"
        )


def survey(path: Path, size: tuple[int, int] | None, fit: Fit, channels: int | None, memory: float) -> Survey:
    """Look at what is there; pixels are not decoded.

    Args:
        path: a folder, a zip, a tar, or a folder of Hugging Face datasets.
        size: (H, W) to bring all to; None: their own, where they have one.
        fit: how.
        channels: 1 to 4; None: those that most have.
        memory: bytes that the files of a compressed tar may take.

    Raises:
        UserError: where nothing is there, or nothing of it can be read.
    """
    skipped = Tally()
    listed = _listed(path, skipped, memory)
    files: list[PictureFile] = []
    headers, rows = [], []
    with quiet():
        for i, file in enumerate(watched(listed.files, len(listed.files), "looking at")):
            try:
                headers.append(opened(file, look))
            except Unreadable as e:
                skipped.add(str(e), file.name)
                continue
            files.append(file)
            rows.append(i)
    if not files:
        why = told(skipped.by_reason, "skipped") if skipped.by_reason else "it is empty"
        raise UserError(f"there is no picture that can be read in {path}: {why}")
    names = [listed.label[i] for i in rows] if listed.label else folders(files, listed.packed)
    label, classes = _labels(names, listed.classes)
    part = [listed.part[i] if listed.part else None for i in rows]
    return Survey(
        path, files, headers, label, classes, part, _same(files), skipped, _form(headers, size, fit, channels)
    )


class Summary(NamedTuple):
    """Classes, copies and lone pictures, as `Found` has them."""

    classes: dict[str, int]
    twice: int
    alone: tuple[str, ...]

    @staticmethod
    def of(label: Int64[Tensor, " n"], group: Int64[Tensor, " n"], classes: tuple[str, ...]) -> Summary:
        """Of N pictures; see `Survey`."""
        counts = torch.bincount(label, minlength=len(classes)).tolist()
        different = Counter(label[_firsts(group)].tolist())
        alone = tuple(name for k, name in enumerate(classes) if different[k] == 1)
        return Summary(dict(zip(classes, counts, strict=False)), len(group) - len(set(group.tolist())), alone)


def digest(lines: Iterable[str]) -> str:
    """A hash of lines, whatever their order."""
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:32]


def _firsts(group: Int64[Tensor, " n"]) -> Int64[Tensor, " m"]:
    """The first item of each group."""
    first: dict[int, int] = {}
    for i, g in enumerate(group.tolist()):
        first.setdefault(g, i)
    return torch.tensor(list(first.values()), dtype=torch.int64)


def _listed(path: Path, skipped: Tally, memory: float) -> Listed:
    if not path.exists():
        raise UserError(f"no such folder or file: {path}")
    if path.is_dir():
        return in_hub_folder(path, skipped) if is_hub_folder(path) else in_folder(path, skipped)
    if not path.is_file():
        raise UserError(f"{path} is neither a folder nor a file")
    try:
        if zipfile.is_zipfile(path):
            return in_zip(path, skipped)
        if tarfile.is_tarfile(path):
            return in_tar(path, skipped, memory)
    except OSError as e:
        raise UserError(f"{path} cannot be read: {e}") from e
    if path.suffix == ".npy":
        raise UserError(f"{path} is one array: save it with np.savez(path, x=array), and name that npz file")
    with path.open("rb") as file, quiet(), contextlib.suppress(Unreadable):
        look(file)
        raise UserError(f"{path} is one picture: name the folder that it is in, {path.parent}")
    raise UserError(f"{path} is none of: a folder of pictures, a zip, a tar, an npz file; is it whole?")


def _labels(names: Sequence[str | None], classes: tuple[str, ...]) -> tuple[Int64[Tensor, " n"], tuple[str, ...]]:
    """Numbers and names of classes: those that the set states, else those of folders where every picture is in one."""
    if not classes:
        there = {n for n in names if n is not None}
        if None in names or len(there) < 2:
            return torch.zeros(len(names), dtype=torch.int64), ()
        classes = tuple(sorted(there, key=lambda n: (0, int(n), n) if n.isdecimal() else (1, 0, n)))
    number = {n: i for i, n in enumerate(classes)}
    return torch.tensor([number[n] for n in names if n is not None], dtype=torch.int64), classes


def _same(files: Sequence[PictureFile]) -> Int64[Tensor, " n"]:
    """For each file the number of the first one of the same bytes; only files of equal length are read."""
    lengths = Counter(f.size for f in files)
    first: dict[tuple[int, bytes], int] = {}
    out = []
    for i, f in enumerate(files):
        if lengths[f.size] == 1:
            out.append(i)
            continue
        try:
            with f.open() as content:
                out.append(first.setdefault((f.size, hashlib.blake2b(content.read()).digest()), i))
        except OSError:  # it was there a moment ago: decoding will say
            out.append(i)
    return torch.tensor(out, dtype=torch.int64)


def _form(headers: Sequence[Header], size: tuple[int, int] | None, fit: Fit, channels: int | None) -> Form | None:
    if channels is None:
        counts = Counter(h.channels for h in headers)
        channels = max(counts, key=lambda c: (counts[c], c))
    elif channels not in NAMES:
        raise UserError(f"picture files have 1 (gray) to 4 (RGBA) channels, got channels={channels}")
    own = {h.size for h in headers}
    if size is None and len(own) > 1:
        return None
    deep = channels == 1 and 2 * sum(h.deep for h in headers) > len(headers)
    return Form((channels, *(size or own.pop())), deep, fit)
