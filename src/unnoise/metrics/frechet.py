"""The Frechet distance between Normal fits of two sets of features.

It is called FID only for one network, one resizing kernel and 50,000 images; here the features are the caller's, and
the name is the mathematics'. All distances are squared lengths, as is the custom.

The expectation depends on the counts (a smaller set gives a larger distance), so what a good value is, is asked of the
data: `halves_distance` is the distance between two random halves of real data, `half_distance` puts samples in the
place of one of the halves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, Real
from torch import Tensor

from unnoise.metrics.features import checked
from unnoise.metrics.moments import Moments
from unnoise.metrics.resampling import Estimate, jackknife

GROUPS = 12
"""Parts of a set for errors and extrapolation: 2 x 12 distances more, and the error is known to 15 %."""


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


def grouped(features: Real[Tensor, "n d"], groups: int = GROUPS, seed: int = 0) -> list[Moments]:
    """Moments of disjoint random parts of features [N, D], as equal as can be; N >= 3 groups, groups >= 2.

    Drawn by numpy's Generator(PCG64(seed)), so that a periodic order (one class after the other) makes no groups of
    one class. Which row falls where depends on the order of the rows: gather them in the order of their numbers.

    Raises:
        ValueError: for too few rows or groups, or a feature that is not finite.
    """
    x = checked(features)
    if groups < 2 or len(x) < 3 * groups:
        raise ValueError(f"{groups} groups of {len(x)} rows: take at least 2, and 3 rows a group")
    order = torch.from_numpy(np.random.Generator(np.random.PCG64(seed)).permutation(len(x))).to(x.device)
    return [Moments.of(x[order[i::groups]]) for i in range(groups)]


def frechet_estimate(a: Sequence[Moments], b: Sequence[Moments]) -> Estimate:
    """`frechet_distance` of two sets in disjoint groups (`grouped`), with a standard error.

    The value is that of the whole sets, by merging: biased upwards by about c / N, see `too_few`. The error leaves out
    one group after the other, of either set; a set of a single group counts as known exactly. Between equal
    distributions it is too large (up to sqrt(2) times), as no jackknife tells the second order from the first.

    Raises:
        ValueError: if the numbers of features differ, or for no groups.
    """
    whole_a, whole_b = _merged(a), _merged(b)
    variance = 0.0
    for groups, other in ((a, whole_b), (b, whole_a)):
        if len(groups) > 1:
            left_out = [_merged([*groups[:i], *groups[i + 1 :]]) for i in range(len(groups))]
            found = [frechet_distance(other, m) for m in left_out]
            variance += jackknife(torch.tensor(found, dtype=torch.float64))
    return Estimate(frechet_distance(whole_a, whole_b), math.sqrt(variance))


def frechet_infinite(a: Sequence[Moments], b: Sequence[Moments]) -> float:
    """`frechet_distance` as of infinitely many rows: least squares of d + c / N through several N, at 1 / N = 0.

    Both sets are cut into s = 1 .. 4 disjoint parts alike, s dividing their common number of groups, and the distances
    of the parts are averaged: no row is lost at any N. A set of a single group stays whole (a reference that is fixed,
    as published). Below 0 by chance where the distributions are equal. Linear only while N / 4 is above D. To first
    order it varies as the value at N does, so that the error of `frechet_estimate` is its least error.

    Source: Chong and Forsyth 2020, arXiv:1911.07023, section 4; they draw random subsets of the samples only.

    Raises:
        ValueError: where both sets are single groups, or the numbers of groups differ or have no divisor in 2 .. 4.
    """
    groups = max(len(a), len(b))
    parts = [s for s in (1, 2, 3, 4) if groups % s == 0]
    if len(parts) < 2 or not {len(a), len(b)} <= {1, groups}:
        raise ValueError(f"{len(a)} and {len(b)} groups: take as many of each, 12 for the best fit, or 1 of one set")
    found = []
    for s in parts:
        pairs = zip(*([_merged(x[i::s] if len(x) > 1 else x) for i in range(s)] for x in (a, b)), strict=True)
        found.append(sum(frechet_distance(p, q) for p, q in pairs) / s)
    _, at_zero = np.polyfit(parts, found, 1)  # 1 / N is proportional to s
    return float(at_zero)


def too_few(count: int, dim: int) -> str | None:
    """What to warn of at this number of rows and of features, None where there is nothing."""
    if count > dim:
        return None
    return (
        f"{count} rows for {dim} features: their covariance is singular and the Frechet distance far too large "
        f"(its bias falls as 1 / N only above N = {dim}); take more than {dim}, or the kernel distance, which has none"
    )


def _merged(groups: Sequence[Moments]) -> Moments:
    if not groups:
        raise ValueError("a set needs at least one group")
    return reduce(Moments.merge, groups)


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
