"""The pictures of a report: samples beside their nearest training pictures, and by class."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image as Pillow

from unnoise.report.words import escaped, number

SMALL = 32
"""Pictures of at most so many rows are enlarged pixel by pixel, others smoothly."""
STRIP = 64
"""Pictures in a row are brought to about so many rows."""
LARGE = 64
"""Pictures of more rows get more room."""
BUDGET = 1_300_000
"""Characters of a section of pictures: two of them, the charts and the tables make a page of less than 3 MB."""
SIDES = (192, 128, 96, 64, 48, 32, 24, 16, 8)
"""Pixels a side that pictures may have: the first by which a section keeps to `BUDGET`."""
DRAWN = "As they were drawn, one after another: none was chosen or left out."


@dataclass(frozen=True, eq=False)
class Pairs:
    """Samples and, of each, the training item nearest to it.

    Args:
        samples: uint8 [N, H, W, 1 or 3].
        nearest: uint8 [N, H, W, 1 or 3].
        distances: N, between the two of a pair.
        held_out: the median distance of held-out real data to their nearest training items, where it is known.
        about: a sentence on what the distance is and how the pairs were chosen.
    """

    samples: np.ndarray
    nearest: np.ndarray
    distances: Sequence[float]
    held_out: float | None = None
    about: str = ""

    def __post_init__(self) -> None:
        for pictures in (self.samples, self.nearest):
            require_pictures(pictures)
        if not len(self.samples) == len(self.nearest) == len(self.distances):
            raise ValueError(
                f"pairs need as many samples as nearest items and distances, got {len(self.samples)}, "
                f"{len(self.nearest)} and {len(self.distances)}"
            )


def pairs_section(pairs: Pairs | None) -> str:
    """The pairs, nearest first; "" where there are none."""
    if pairs is None or not len(pairs.samples):
        return ""
    order = sorted(range(len(pairs.distances)), key=lambda i: (math.isnan(pairs.distances[i]), pairs.distances[i]))

    def drawn(side: int) -> list[str]:
        return [
            f'<figure><div class="pair">{_picture(reduced(pairs.samples[i], side), f"Sample {place}")}'
            f"{_picture(reduced(pairs.nearest[i], side), f'Training picture nearest to sample {place}')}"
            '<span aria-hidden="true">sample</span><span aria-hidden="true">training</span></div>'
            f"<figcaption>distance {number(pairs.distances[i])}</figcaption></figure>"
            for place, i in enumerate(order, 1)
        ]

    out, side = _fitting(drawn, pairs.samples)
    held_out = "" if pairs.held_out is None else f" Real held-out data lie at a median of {number(pairs.held_out)}."
    kind = "pairs" if pairs.samples.shape[1] <= LARGE else "pairs large"
    return (
        "<p>Left a sample, right the training picture nearest to it, the nearest pairs first; a copy is at distance 0."
        f"{held_out} {escaped(pairs.about)}{_smaller(side)}</p>\n"
        f'<div class="{kind}">\n{chr(10).join(out)}\n</div>'
    )


def classes_section(classes: Mapping[str, np.ndarray]) -> str:
    """A row of pictures a class; "" where there are none."""
    most = max((len(v) for v in classes.values()), default=0)
    if not most:
        return ""

    def drawn(side: int) -> list[str]:
        out = []
        for name, pictures in classes.items():
            label, n = str(name), len(pictures)
            alt = f"{n} sample{'s' * (n != 1)} of class {label}"
            shown = _picture(_strip([reduced(p, side) for p in pictures]), alt, n / most) if n else "<p>none</p>"
            out.append(f"<figure><figcaption>{escaped(label)}</figcaption>{shown}</figure>")
        return out

    out, side = _fitting(drawn, *classes.values())
    kind = "classes" if most > 3 else "classes narrow"
    return f'<p>{DRAWN}{_smaller(side)}</p>\n<div class="{kind}">\n{chr(10).join(out)}\n</div>'


def samples_section(samples: np.ndarray | None) -> str:
    """Pictures without a class, side by side; "" where there are none."""
    if samples is None or not len(samples):
        return ""
    out, side = _fitting(
        lambda side: [_picture(reduced(p, side), f"Sample {i}") for i, p in enumerate(samples, 1)], samples
    )
    kind = "samples" if samples.shape[1] <= LARGE else "samples large"
    return f'<p>{DRAWN}{_smaller(side)}</p>\n<div class="{kind}">\n{chr(10).join(out)}\n</div>'


def reduced(pixels: np.ndarray, side: int) -> np.ndarray:
    """[H, W, C] at most `side` pixels a side, as it is where it is no larger."""
    height, width, colours = pixels.shape
    if max(height, width) <= side:
        return pixels
    scale = side / max(height, width)
    picture = Pillow.fromarray(pixels[:, :, 0] if colours == 1 else pixels)
    small = picture.resize((max(1, round(width * scale)), max(1, round(height * scale))), Pillow.Resampling.LANCZOS)
    return np.asarray(small).reshape(small.height, small.width, colours)


def _fitting(drawn: Callable[[int], list[str]], *pictures: np.ndarray) -> tuple[list[str], int | None]:
    """Elements of the largest of `SIDES` that keep to `BUDGET`, or of the least; with the side where it reduces."""
    full = max(max(p.shape[1:3]) for p in pictures if len(p))
    out: list[str] = []
    for side in SIDES:
        if out and side >= full:
            continue
        out = drawn(side)
        if sum(map(len, out)) <= BUDGET:
            break
    return out, side if side < full else None


def _smaller(side: int | None) -> str:
    return "" if side is None else f" Pictures are reduced to {side} pixels here, to keep this page small."


def require_pictures(pictures: np.ndarray) -> None:
    """Refuse what cannot be shown; Raises ValueError."""
    if pictures.ndim != 4 or pictures.dtype != np.uint8 or pictures.shape[3] not in (1, 3) or 0 in pictures.shape[1:]:
        raise ValueError(f"pictures are uint8 [N, H, W, 1 or 3], got {pictures.dtype} {list(pictures.shape)}")


def _strip(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """[H, W, C] each, in a row, enlarged to about `STRIP` rows, two pixels of gray between them."""
    scale = max(1, STRIP // pictures[0].shape[0])
    large = np.stack(pictures).repeat(scale, 1).repeat(scale, 2)
    framed = np.pad(large, ((0, 0), (0, 0), (0, 2), (0, 0)), constant_values=128)
    return np.concatenate(list(framed), axis=1)[:, :-2]


def _picture(pixels: np.ndarray, alt: str, share: float = 1.0) -> str:
    """[H, W, C] as an image element that holds its PNG, over a share of the width that there is."""
    buffer = io.BytesIO()
    Pillow.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG", optimize=True)
    height, width = pixels.shape[:2]
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    kind = ' class="small"' if height <= SMALL else ""
    style = f' style="width: {100 * share:.4g}%"' if share < 1 else ""
    source = f"data:image/png;base64,{data}"
    return f'<img{kind}{style} src="{source}" alt="{escaped(alt)}" width="{width}" height="{height}"/>'
