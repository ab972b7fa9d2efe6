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

Every function takes real [N, D] and fake [N, D] of any real dtype and k in [1, N - 1], returns a float, and raises
ValueError where counts or widths differ, k is out of range or a feature is not finite. Distances are exact, in float64,
and at most 2^24 are held at a time.
"""

from __future__ import annotations

import torch
from jaxtyping import Real
from torch import Tensor

from unnoise.metrics.features import checked, distances


def precision(real: Real[Tensor, "n _"], fake: Real[Tensor, "m _"], k: int = 5) -> float:
    """Share of fake rows that lie in at least one real ball, in [0, 1]."""
    real, fake = _pair(real, fake, k)
    return _inside(fake, real, k)


def recall(real: Real[Tensor, "n _"], fake: Real[Tensor, "m _"], k: int = 5) -> float:
    """Share of real rows that lie in at least one fake ball, in [0, 1]."""
    real, fake = _pair(real, fake, k)
    return _inside(real, fake, k)


def density(real: Real[Tensor, "n _"], fake: Real[Tensor, "m _"], k: int = 5) -> float:
    """Mean number of real balls around a fake row, over k; >= 0, and 1 in expectation for equal distributions."""
    real, fake = _pair(real, fake, k)
    radius = _radii(real, k)
    balls = sum(int((block <= radius).sum()) for block in distances(fake, real))
    return balls / (k * len(fake))


def coverage(real: Real[Tensor, "n _"], fake: Real[Tensor, "m _"], k: int = 5) -> float:
    """Share of real balls that hold at least one fake row, in [0, 1]."""
    real, fake = _pair(real, fake, k)
    nearest = torch.cat([block.amin(1) for block in distances(real, fake)])
    return (nearest <= _radii(real, k)).double().mean().item()


def _inside(x: Tensor, centres: Tensor, k: int) -> float:
    radius = _radii(centres, k)
    return torch.cat([(block <= radius).any(1) for block in distances(x, centres)]).double().mean().item()


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
