"""Oxford Flowers-102: its published files, and strips of its pictures."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Int64, UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from unnoise.data.dataset import Dataset
from unnoise.data.fetch import Remote
from unnoise.data.groups import limited, require_limit, split_groups, take
from unnoise.data.home import locate, read_arrays, read_tar
from unnoise.data.strips import halved, read_strips
from unnoise.errors import UserError

ABOUT = "Oxford Flowers-102, Nilsback & Zisserman 2008, no explicit licence: research and demonstration only"

_PAGE = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102"
REMOTES = (
    Remote(
        (f"{_PAGE}/102flowers.tgz",),
        sha256="2d01ecc807db462958cfe3d92f57a8c252b4abd240eb955770201e45f783b246",
        size=344_862_509,
    ),
    Remote(
        (f"{_PAGE}/imagelabels.mat",),
        sha256="4903e94206bac23bf772aadf06451916df56b58fc483a62db32a97b82656651d",
        size=502,
    ),
    Remote(
        (f"{_PAGE}/setid.mat",),
        sha256="46b8678f91fd95d3c8f4feab80d271a6c834a1dd896fe29fd3e6ad9ce5c8dccd",
        size=14_989,
    ),
)

_ARCHIVE, _LABELS = "102flowers.tgz", "flowers102_labels.npz"
_SIDE = 128

_TWICE = ((7307, 7309), (7323, 7328), (7885, 7886), (8067, 8077))
"""Pictures that the published set holds twice, by their numbers from 1; decoded from strips they differ a little."""


@dataclass(frozen=True)
class Flowers:
    """Photographs of 102 kinds of flowers: x uint8 [N, 3, size, size] in 0..255, label int64 [N] in 0..101.

    8,189 pictures, 40 to 258 of a class. Nilsback & Zisserman 2008, Automated Flower Classification over a Large Number
    of Classes, ICVGIP (no explicit licence; the rights in the photographs remain with their owners: research and
    demonstration only). Reduced: the centre square of each photograph (shorter side 500), Lanczos, antialiased, to
    128x128; in the strips of UNNOISE_DATA also WebP of quality 75 (30.9 dB): a distance to these is none to the others.

    Args:
        size: 128; or 64, 32: means of 2x2 pixels, rounded, half to even, once or twice.
        split: "official": the 1,020 training and 1,020 validation pictures are trained on, the 6,149 test pictures are
            held out; two pictures of the four that are there twice are in both parts. "udacity": the common 80/10/10,
            7,370 and 819 (strips only). A share of all is held out; pictures that are there twice go to one part.
        limit: only so many of the training pictures, at random; None: all.
        seed: which pictures those are, and which a share holds out.
        path: a folder of strips ("flowers102_128_1.tar", ..), or of the published files (102flowers.tgz or its folder
            "jpg", imagelabels.mat, setid.mat; a minute to decode); None: "flowers102" in UNNOISE_DATA, else in the
            cache, downloaded where needed.
    """

    size: int = 64
    split: Literal["official", "udacity"] | float = "official"
    limit: int | None = None
    seed: int = 0
    path: str | None = None

    def __post_init__(self) -> None:
        require_limit(self.limit)
        if self.size not in (32, 64, _SIDE):
            raise UserError(f"the flowers come in size 32, 64 or {_SIDE}, got size={self.size}")
        if isinstance(self.split, str) and self.split not in ("official", "udacity"):
            raise UserError(f'split is "official", "udacity" or a share in [0, 1), got {self.split!r}')

    def load(self) -> Dataset:
        """The data; Raises UserError for files that are missing, damaged or not the flowers."""
        path = locate("flowers102", REMOTES, ABOUT) if self.path is None else Path(self.path)
        x, label, tests = _strips(path) if (path / _LABELS).is_file() else _published(path)
        while x.shape[3] > self.size:
            x = halved(x)
        columns = {"x": x, "label": label}
        if not isinstance(self.split, str):
            train, held_out = split_groups(columns, _same(len(x)), self.split, self.seed)
        elif self.split in tests:
            train, held_out = (take(columns, rows) for rows in (~tests[self.split], tests[self.split]))
        else:
            raise UserError(f"the published files know no split {self.split!r}: set split='official', or a share")
        return Dataset(limited(train, self.limit, self.seed), held_out, about=ABOUT)


def _same(count: int) -> Int64[Tensor, " {count}"]:
    """Numbers that only the pictures that are there twice share."""
    group = torch.arange(count)
    for first, second in _TWICE:
        group[second - 1 : second] = first - 1  # a slice: a smaller set ends before
    return group


def _strips(folder: Path) -> tuple[Tensor, Tensor, dict[str, Bool[Tensor, " n"]]]:
    """Pictures, labels, and for each split which pictures it tests on."""
    file = read_arrays(folder / _LABELS, "label", "split", "udacity_split")
    x = torch.cat([read_strips(folder / f"flowers102_128_{i}.tar", _SIDE) for i in (1, 2)])
    tests = {"official": file["split"] == 2, "udacity": file["udacity_split"] == 2}
    return _checked(x, file["label"], tests, folder)


def _published(folder: Path) -> tuple[Tensor, Tensor, dict[str, Bool[Tensor, " n"]]]:
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}")
    pictures = _pictures(folder)
    label = _matrix(folder / "imagelabels.mat", "labels")
    test = np.zeros(len(label), dtype=bool)
    chosen = _matrix(folder / "setid.mat", "tstid")
    if not len(chosen) or chosen.min() < 1 or chosen.max() > len(label):
        raise UserError(f"setid.mat in {folder} contradicts imagelabels.mat: it counts to {chosen.max(initial=0)}")
    test[chosen - 1] = True
    names = [f"image_{i + 1:05d}.jpg" for i in range(len(label))]
    if missing := [n for n in names if n not in pictures]:
        raise UserError(f"{folder} has no picture {missing[0]}, one of {len(missing)} missing: fetch {_ARCHIVE} again")
    x = torch.stack([_square(pictures[n], f"{n} in {folder}") for n in names])
    return _checked(x, label, {"official": test}, folder)


def _pictures(folder: Path) -> dict[str, bytes | Path]:
    """The JPEG files by name: of the folder "jpg", else of the archive."""
    if (folder / "jpg").is_dir():
        return {p.name: p for p in (folder / "jpg").iterdir()}
    path = folder / _ARCHIVE
    if not path.is_file():
        raise UserError(f"{folder} is not the flowers: it holds neither {_ARCHIVE}, nor jpg, nor {_LABELS}")
    return {Path(name).name: content for name, content in read_tar(path).items()}


def _square(content: bytes | Path, name: str) -> UInt8[Tensor, "3 128 128"]:
    """The centre square, made small by an antialiased Lanczos filter."""
    try:
        with Image.open(BytesIO(content) if isinstance(content, bytes) else content) as image:
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            small = image.convert("RGB").resize(
                (_SIDE, _SIDE), Image.Resampling.LANCZOS, (left, top, left + side, top + side)
            )
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError) as e:
        raise UserError(f"{name} is not a readable picture: {e}: fetch {_ARCHIVE} again") from e
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)


def _matrix(path: Path, name: str) -> npt.NDArray[np.int64]:
    """The whole numbers of this name in a MATLAB file, as one row."""
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError as e:
        raise UserError("the published files of the flowers need scipy: pip install 'unnoise[demo]'") from e
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    try:
        found: dict[str, Any] = loadmat(path, variable_names=[name])
    except (MatReadError, ValueError, TypeError, NotImplementedError, OSError, EOFError, IndexError, zlib.error) as e:
        raise UserError(f"{path} is not a readable MATLAB file: {e}: fetch it again") from e
    if name not in found:
        raise UserError(f"{path} has no array {name!r}: fetch it again")
    return np.asarray(found[name]).astype(np.int64).ravel()


def _checked(
    x: UInt8[Tensor, "n 3 h w"], label: npt.NDArray[Any], tests: dict[str, npt.NDArray[np.bool_]], where: Path
) -> tuple[Tensor, Tensor, dict[str, Bool[Tensor, " n"]]]:
    if x.shape[2:] != (_SIDE, _SIDE) or not all(len(a) == len(x) for a in (label, *tests.values())):
        raise UserError(f"{where} contradicts itself: {len(x)} pictures of {list(x.shape[1:])}, {len(label)} labels")
    if label.min() < 1 or label.max() > 102:
        raise UserError(f"{where} is not the flowers: labels from {label.min()} to {label.max()}, not from 1 to 102")
    return x, torch.from_numpy(label.astype(np.int64)) - 1, {k: torch.from_numpy(v) for k, v in tests.items()}
