"""The Frechet distance between Normal fits of two sets of features.

It is called FID only for one network, one resizing kernel and 50,000 images; here the features are the caller's, and
the name is the mathematics'. All distances are squared lengths, as is the custom.

The expectation depends on the counts (a smaller set gives a larger distance), so what a good value is, is asked of the
data: `halves_distance` is the distance between two random halves of real data, `half_distance` puts samples in the
place of one of the halves.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, Real
from torch import Tensor

from unnoise.metrics.features import checked
from unnoise.metrics.moments import Moments


class Halves(NamedTuple):
    """The distance between two random halves.

    Args:
        mean: over the random splits.
        standard_error: of that mean; all splits share their data, whose own sampling error comes on top.
    """

    mean: float
    standard_error: float


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mu_a - mu_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), in float64, in squared units of the features.

    C_a C_b has the eigenvalues of R C_b R with R = C_a^(1/2), which is symmetric: no complex square root is met, and
    singular covariances (fewer rows than features) are fine.

    Source: Dowson and Landau 1982; for generated images Heusel et al. 2017, arXiv:1706.08500.

    Raises:
        ValueError: if the numbers of features differ, or if a set has fewer than 2 rows.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"moments of {len(a.mean)} and of {len(b.mean)} features have no distance")
    cov_a, cov_b = a.covariance, b.covariance
    values, vectors = torch.linalg.eigh(cov_a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    product = root @ cov_b @ root
    cross = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    distance = (a.mean - b.mean).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    # a squared length: what lies below 0 is the rounding of the traces
    return max(distance.item(), 0.0)


def halves_distance(features: Real[Tensor, "n d"], splits: int = 20, seed: int = 0) -> Halves:
    """Mean, and its standard error, of the distance between two random halves of features [N, D], N >= 4.

    Each half has floor(N / 2) rows (of an odd N one row is left out), drawn anew for each of `splits` >= 2 splits by
    numpy's Generator(PCG64(seed)), so on every device alike.
    """
    x = checked(features)
    found = [frechet_distance(Moments.of(x[p]), Moments.of(x[q])) for p, q in _halves(len(x), splits, seed)]
    return Halves(float(np.mean(found)), float(np.std(found, ddof=1) / np.sqrt(splits)))


def half_distance(samples: Real[Tensor, "m d"], real: Real[Tensor, "n d"], splits: int = 20, seed: int = 0) -> float:
    """Mean distance from all of samples [M, D] to the first halves of real [N, D], the splits of `halves_distance`.

    Comparable with halves_distance(real, splits, seed) if M = floor(N / 2).
    """
    x, fake = checked(real), Moments.of(samples)
    return float(np.mean([frechet_distance(Moments.of(x[p]), fake) for p, _ in _halves(len(x), splits, seed)]))


def _halves(n: int, splits: int, seed: int) -> Iterator[tuple[Int64[Tensor, " half"], Int64[Tensor, " half"]]]:
    """Row numbers of the two halves, split after split."""
    if n < 4:
        raise ValueError(f"two halves with a covariance each need at least 4 rows, got {n}")
    if splits < 2:
        raise ValueError(f"a standard error needs at least 2 splits, got {splits}")
    generator = np.random.Generator(np.random.PCG64(seed))
    for _ in range(splits):
        order = torch.from_numpy(generator.permutation(n))
        yield order[: n // 2], order[n // 2 : 2 * (n // 2)]
