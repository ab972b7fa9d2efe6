"""One's own pictures, a folder, zip, tar, npz or Hugging Face folder: `unnoise train images --data PATH`.

Shape, range, classes and the spread of the data are those that are found there; the network's depth follows from the
size: its coarsest grid is 8 to 15 pixels on the shorter side. Not tuned: settings of recipes of that size.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Literal

from torch import Tensor

from unnoise.core.denoiser import Preconditioned
from unnoise.core.density import LogNormalSigma
from unnoise.core.objective import Denoising
from unnoise.core.parameterization import Edm
from unnoise.data import Images, Mirror
from unnoise.data.picture_column import readable
from unnoise.errors import UserError
from unnoise.judges import Distances, Inception, Means
from unnoise.modality import Image, Labels
from unnoise.nets import UNet
from unnoise.optim import AdamW, Trapezoid
from unnoise.recipe import Recipe, Sampling
from unnoise.sample import Heun
from unnoise.sample.grids import KarrasGrid
from unnoise.spec import Build

SMALLEST = 8
"""Pixels of the shorter side."""
MEASURED = 512
"""Training pictures whose spread is measured."""
MULTIPLIERS = {1: (1, 2), 2: (1, 2), 3: (1, 2, 3), 4: (1, 2, 3, 4), 5: (1, 1, 2, 3, 4), 6: (1, 1, 1, 2, 3, 4)}
"""Of the network's width, by the number of levels."""


def recipe(
    data: str | None = None,
    size: int | tuple[int, int] | None = None,
    mirror: bool = False,
    fit: Literal["crop", "stretch"] = "crop",
    channels: int | None = None,
) -> Recipe:
    """The recipe for the pictures at a place.

    Args:
        data: the place, see `Images`; None: a template, which cannot be trained.
        size: that pictures are brought to; None: their own, where all have one.
        mirror: train on pictures mirrored left to right too.
        fit: see `Images`.
        channels: see `Images`.

    Raises:
        UserError: where nothing is there that can be trained on, as `Images.load` says; for pictures that are too small
            or all of one colour.
    """
    if data is None:
        codec, classes, spread = Image(shape=(3, 64, 64)), 0, 0.5
        source = Images(path="", size=size, fit=fit, channels=channels)
    else:
        path = str(Path(data).expanduser().resolve())  # a run is gone on with from wherever
        source = Images(path=path, size=size, fit=fit, channels=channels)
        source = replace(source, digest=source.found().digest)
        codec, classes, spread = _measured(source)
    labels = {"label": classes} if classes else {}
    side = min(codec.shape[1:])
    if side < SMALLEST:
        raise UserError(
            f"pictures of {codec.shape[1]}x{codec.shape[2]} are too small: 8 pixels a side at least (--size)"
        )
    levels = min(max(2, int(math.log2(side / 8)) + 1), 6)
    net = Build(
        UNet,
        channels=codec.shape[0],
        width=32,
        multipliers=MULTIPLIERS[levels],
        blocks=2,
        attention=(2 ** (levels - 1),),
        head_width=32,
        resample="strided",
        dropout=0.1,
        labels=labels,
    )
    return Recipe(
        name="images",
        data=source,
        codec=codec,
        conditioner=Labels(labels) if labels else None,
        model=Build(Preconditioned, net=net, parameterization=Edm(sigma_data=spread)),
        # Large pictures need more noise before their content is gone: neighbouring pixels say the same.
        objective=Denoising(
            density=LogNormalSigma(mean=-1.2 + 0.4 * max(0.0, math.log2(side / 32)), std=1.4),
            drop=0.1 if labels else 0.0,
        ),
        optim=AdamW(lr=1e-3, rate=Trapezoid(warmup=10_000, decay=0.5)),
        batch=128 if side <= 64 else 64 if side <= 128 else 32,
        samples=1_000_000,
        sampling=Sampling(
            sampler=Heun(),
            grid=KarrasGrid(sigma_min=0.005, sigma_max=80 * max(1.0, side / 128)),
            steps=18,
            guidance=1.3 if labels else 1.0,
            start="mean",
        ),
        # The Inception network reads gray and coloured pictures of 8 bits, and no others.
        judge=Distances(Inception() if codec.dtype == "uint8" and codec.shape[0] in (1, 3) else Means(), count=1000),
        augment=Mirror() if mirror else None,
    )


def _measured(source: Images) -> tuple[Image, int, float]:
    """The codec, the number of classes, and the standard deviation of the pictures in the codec's range."""
    found, data = replace(source, memory=0).read()
    assert found.shape is not None
    few = readable(data.train["x"], MEASURED)
    low, high = float(few.min()), float(few.max())
    full = {"uint8": 255.0, "uint16": 65535.0}.get(found.dtype)
    if full is None or found.dtype == "uint16" or high - low < full / 8:  # then the range must hold for all of them
        whole = source.load()
        ends = [v for v in (whole.train["x"], whole.held_out["x"]) if isinstance(v, Tensor) and len(v)]
        low = min([low, *(float(v.min()) for v in ends)])
        high = max([high, *(float(v.max()) for v in ends)])
    if low == high:
        raise UserError(f"all pixels of {source.path} are {low:g}: there is nothing to learn")
    low, high = _range(low, high, full)
    dtype: Literal["uint8", "uint16", "float32"] = found.dtype
    codec = Image(shape=found.shape, low=low, high=high, dtype=dtype)
    spread = float(codec.encode(few).double().std(correction=0))
    return codec, len(found.classes), float(f"{spread:.2g}")


def _range(low: float, high: float, full: float | None) -> tuple[float, float]:
    """Black and white: 0 and the largest number of the bits that are used; for floats [0, 1], [-1, 1] or their own."""
    if full is None:
        return next(((a, b) for a, b in ((0.0, 1.0), (-1.0, 1.0)) if a <= low and high <= b), (low, high))
    bits = [2.0**k - 1 for k in range(1, 17) if high <= 2**k - 1 <= full]
    white = full if full == 255 and high - low >= full / 8 else bits[0]
    return (0.0, white) if high - low >= white / 8 else (low, high)
