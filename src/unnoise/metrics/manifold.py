"""Fidelity and diversity apart: is each sample near real data, and is all of the real data reached?

The manifold of a set is the union of balls around its rows, each reaching to the row's k-th nearest neighbour in the
same set (itself not counted). Balls are closed, so a copy of a row lies in its ball also where duplicates make the
radius 0.

    precision   share of fake rows in the real manifold           (fidelity)
    recall      share of real rows in the fake manifold           (diversity)
    density     number of real balls around a fake row, over k    (fidelity; 1 in expectation for equal distributions,
                and can be more; one outlier among the real rows cannot raise it to the top)
    coverage    share of real balls that hold a fake row          (diversity; outliers among the fake cannot raise it)

Sources: Kynkäänniemi et al. 2019, arXiv:1904.06991, section 2 (precision, recall); Naeem et al. 2020, arXiv:2002.09797,
section 3 (density, coverage; their balls are open). All depend on the counts, so both sets must have the same.

Every function takes real [N, D] and fake [N, D] of any real dtype and k in [1, N - 1], and raises ValueError where
counts or widths differ, k is out of range or a feature is not finite. Distances are exact, in float64, and at most 2^24
are held at a time.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Real
from torch import Tensor

from unnoise.metrics.features import checked, distances
from unnoise.metrics.resampling import Estimate, share_error

GROUPS = range(4, 11)
"""Disjoint parts of both sets that standard errors are read from, at least and at most."""
PART = 10
"""Rows of a part, at least, over k."""


class Manifold(NamedTuple):
    """All four, each with its standard error."""

    precision: Estimate
    recall: Estimate
    density: Estimate
    coverage: Estimate


def manifold_estimate(real: Real[Tensor, "n _"], fake: Real[Tensor, "m _"], k: int = 5, seed: int = 0) -> Manifold:
    """Precision, recall, density and coverage from the same distances, with standard errors.

    The error is the spread over up to ten disjoint random parts of both sets (numpy's Generator(PCG64(seed))), over the
    root of their number: either set varies, and with it the balls. Parts have wider balls than the whole, so that it is
    an estimate, good to a third. The error of a share is never below that of as many independent rows (`share`), which
    parts that all agree would hide. nan where there are not four parts of 10 k rows.

    Raises:
        ValueError: as the others do.
    """
    real, fake = _pair(real, fake, k)
    values, groups = _four(real, fake, k), min(GROUPS.stop - 1, len(real) // (PART * k))
    if groups < GROUPS.start:
        return Manifold(*(Estimate(v, math.nan) for v in values))
    generator = np.random.Generator(np.random.PCG64(seed))
    n = len(real) // groups * groups
    p, q = (torch.from_numpy(generator.permutation(len(real))[:n]).to(real.device) for _ in range(2))
    parts = [_four(real[p[i::groups]], fake[q[i::groups]], k) for i in range(groups)]
    errors = (torch.tensor(parts, dtype=torch.float64).std(0) / math.sqrt(groups)).tolist()
    least = [0.0 if name == "density" else share_error(v, n) for name, v in zip(Manifold._fields, values, strict=True)]
    return Manifold(*(Estimate(v, max(e, low)) for v, e, low in zip(values, errors, least, strict=True)))


def precision(real: Real[Tensor, "n _"], fake: Real[Tensor, "m _"], k: int = 5) -> float:
    """Share of fake rows that lie in at least one real ball, in [0, 1]."""
    return _four(*_pair(real, fake, k), k)[0]


def recall(real: Real[Tensor, "n _"], fake: Real[Tensor, "m _"], k: int = 5) -> float:
    """Share of real rows that lie in at least one fake ball, in [0, 1]."""
    return _four(*_pair(real, fake, k), k)[1]


def density(real: Real[Tensor, "n _"], fake: Real[Tensor, "m _"], k: int = 5) -> float:
    """Mean number of real balls around a fake row, over k; >= 0, and 1 in expectation for equal distributions."""
    return _four(*_pair(real, fake, k), k)[2]


def coverage(real: Real[Tensor, "n _"], fake: Real[Tensor, "m _"], k: int = 5) -> float:
    """Share of real balls that hold at least one fake row, in [0, 1]."""
    return _four(*_pair(real, fake, k), k)[3]


def _four(real: Tensor, fake: Tensor, k: int) -> tuple[float, float, float, float]:
    real_radius, fake_radius = _radii(real, k), _radii(fake, k)
    inside, balls, start = 0, 0, 0
    reached = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    nearest = torch.full((len(real),), torch.inf, dtype=torch.float64, device=real.device)
    for block in distances(fake, real):
        within = block <= real_radius
        inside, balls = inside + int(within.any(1).sum()), balls + int(within.sum())
        reached |= (block <= fake_radius[start : start + len(block), None]).any(0)
        nearest = torch.minimum(nearest, block.amin(0))
        start += len(block)
    n = len(real)
    return inside / n, int(reached.sum()) / n, balls / (k * n), int((nearest <= real_radius).sum()) / n


def _radii(x: Tensor, k: int) -> Tensor:
    """Distance from each row to its k-th nearest other row, [N]: the (k + 1)-th smallest, the row itself being at 0."""
    return torch.cat([block.kthvalue(k + 1, dim=1).values for block in distances(x, x)])


def _pair(real: Tensor, fake: Tensor, k: int) -> tuple[Tensor, Tensor]:
    if len(real) != len(fake):
        raise ValueError(
            f"{len(real)} real and {len(fake)} fake rows: these metrics depend on the counts, take as many of each"
        )
    if not 1 <= k < len(real):
        raise ValueError(f"k must lie in [1, {len(real) - 1}] for {len(real)} rows, got {k}")
    return checked(real), checked(fake)
