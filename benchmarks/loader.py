"""Does reading keep up with training? Items a second of the loader, and of training that is fed by it.

    python benchmarks/loader.py [--workers 0 1 2 4 8 15] [--recipe cifar10 --compile] [--out FILE.json]

Pictures of 64 pixels of Flowers-102 (in UNNOISE_DATA) as bytes on the device, and as folders of PNG and of JPEG files
that are read for every batch, by number of workers. With --recipe also its training rate, once with its pictures on the
device and once with the same pictures as PNG files: where both are one, the loader feeds the device. The first batches,
which were read before the clock began, are left out; batches arrive on the device.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch
from PIL import Image
from torch import Tensor

from unnoise import recipes
from unnoise.data.dataset import Columns
from unnoise.data.home import find
from unnoise.data.loader import EACH, default_workers
from unnoise.data.stream import batches
from unnoise.runtime import PRECISIONS, Runtime, default_precision, pick_device
from unnoise.state import State
from unnoise.train import train


@dataclass(frozen=True)
class Files:
    """Pictures in files, as a lazy column."""

    files: tuple[str, ...]
    size: tuple[int, int, int]
    dtype: torch.dtype = torch.uint8

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.files), *self.size)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, rows: Any) -> Tensor:
        out = torch.empty(len(torch.arange(len(self))[rows]), *self.size, dtype=torch.uint8)
        for row, i in zip(out, torch.arange(len(self))[rows].tolist(), strict=True):
            with Image.open(self.files[i]) as picture:
                array = np.asarray(picture.convert("L" if self.size[0] == 1 else "RGB"))
            row.copy_(torch.from_numpy(array.reshape(*self.size[1:], self.size[0]).copy()).permute(2, 0, 1))
        return out


def flowers(count: int) -> Tensor:
    """Real pictures, uint8 [N, 3, 64, 64]: means of 2x2 pixels of those of 128."""
    parts: list[Any] = []
    for name in ("flowers102_128_1.tar", "flowers102_128_2.tar"):
        with tarfile.open(find("flowers102", name)) as tar:
            for member in sorted(tar.getnames()):
                if sum(map(len, parts)) < count:
                    file = tar.extractfile(member)
                    assert file is not None
                    strip = np.asarray(Image.open(file).convert("RGB")).reshape(-1, 64, 2, 64, 2, 3)
                    parts.append(strip.mean((2, 4)).round().astype(np.uint8))
    return torch.from_numpy(np.concatenate(parts)[:count]).permute(0, 3, 1, 2).contiguous()


def write(x: Tensor, folder: Path, kind: str) -> Files:
    """The pictures as files of a kind."""
    folder.mkdir()
    files = []
    for i, picture in enumerate(x.permute(0, 2, 3, 1).numpy()):
        files.append(str(folder / f"{i:06d}.{kind}"))
        options = {"quality": 90} if kind == "jpg" else {}
        Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(files[-1], **options)
    return Files(tuple(files), (x.shape[1], x.shape[2], x.shape[3]))


def rate(stream: Iterator[Any], batch: int, skip: int, seconds: float, device: torch.device) -> float:
    """Items a second, after `skip` batches."""
    for _ in range(skip):
        next(stream)
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        next(stream)
        count += 1
    if device.type == "cuda":
        torch.cuda.synchronize()
    return count * batch / (time.perf_counter() - began)


def loading(columns: Columns, o: argparse.Namespace, device: torch.device, workers: int) -> float:
    """Items a second that the loader alone brings to the device."""
    with contextlib.closing(batches(columns, o.batch, seed=0, device=device, workers=workers)) as stream:
        return rate(stream, o.batch, 3 + 2 * EACH * workers, o.seconds, device)


def training(name: str, x: Any, label: Columns, o: argparse.Namespace, device: torch.device, workers: int) -> float:
    """Samples a second that a recipe trains on."""
    recipe = recipes.load(name)[0]
    state = State(recipe, 0, device, None, PRECISIONS[default_precision(device)])
    if o.compile:
        state.compile()
    with contextlib.closing(batches({**label, "x": x}, recipe.batch, seed=0, device=device, workers=workers)) as stream:
        steps = train(recipe, state, stream, Runtime(device))
        return rate(steps, recipe.batch, 20 + 2 * EACH * workers, o.seconds, device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device")
    parser.add_argument("--pictures", type=int, default=8189)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2, 4, 8, 15])
    parser.add_argument("--recipe", help="also the rate of training this recipe of pictures")
    parser.add_argument("--compile", action="store_true", help="torch.compile its networks")
    parser.add_argument("--out", type=Path)
    o = parser.parse_args()
    device = pick_device(o.device)
    rows: list[dict[str, Any]] = []

    def note(what: str, source: str, workers: int | None, found: float) -> None:
        rows.append({"what": what, "source": source, "workers": workers, "items_per_second": round(found)})
        print(f"{what:12} {source:10} {'' if workers is None else workers:>7} {found:12,.0f}", flush=True)

    print(f"{'what':12} {'source':10} {'workers':>7} {'items/s':>12}")
    with tempfile.TemporaryDirectory() as folder:
        x = flowers(o.pictures)
        note("loading", "device", None, loading({"x": x}, o, device, 0))
        for kind in ("png", "jpg"):
            files = write(x, Path(folder, kind), kind)
            for workers in o.workers:
                note("loading", kind, workers, loading({"x": files}, o, device, workers))
        if o.recipe:
            data = recipes.load(o.recipe)[0].data.load()
            pictures, label = data.train["x"], {k: v for k, v in data.train.items() if k != "x"}
            assert isinstance(pictures, Tensor) and pictures.dtype == torch.uint8
            note(o.recipe, "device", None, training(o.recipe, pictures, label, o, device, 0))
            files = write(pictures, Path(folder, o.recipe), "png")
            for workers in o.workers:
                note(o.recipe, "png", workers, training(o.recipe, files, label, o, device, workers))
    result = {
        "cores": os.cpu_count(),
        "workers_by_default": default_workers(),
        "pictures": len(x),
        "batch": o.batch,
        "rows": rows,
    }
    record.write(o.out, device, result)


if __name__ == "__main__":
    main()
