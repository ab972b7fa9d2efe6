"""The kernel distance between two sets of features: unbiased at any number of rows, unlike the Frechet distance.

It is called KID only for the 2,048 features of one network; here the features are the caller's.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Real
from torch import Tensor

from unnoise.metrics.features import BUDGET, checked
from unnoise.metrics.resampling import Estimate


class _Sums(NamedTuple):
    rows: Tensor
    columns: Tensor
    squares: float


def kernel_distance(a: Real[Tensor, "n _"], b: Real[Tensor, "m _"]) -> Estimate:
    """MMD^2 with the kernel k(x, y) = (x.y / D + 1)^3, over all pairs of rows, in float64.

        mean over i != j of k(a_i, a_j) + mean over i != j of k(b_i, b_j) - 2 mean over i, j of k(a_i, b_j)

    Unbiased, so below 0 half the time for equal distributions; independent of the order of the rows to rounding. The
    error is that of leaving out single rows, less the part that this counts twice: the variance of the sums when
    both distributions are equal, which the centred kernels tell. So it holds near 0 and far from it.

    Sources: Binkowski et al. 2018, arXiv:1801.01401, section 4 (their value is `kernel_distance_subsets`); the
    parts of the variance: Serfling 1980, "Approximation theorems of mathematical statistics", section 5.2.

    Args:
        a: [N, D] of any real dtype, N >= 3.
        b: [M, D], M >= 3.

    Raises:
        ValueError: for fewer rows, other widths, or a feature that is not finite.
    """
    x, y = _pair(a, b, 3)
    n, m = len(x), len(y)
    xx, yy, xy = _sums(x, x), _sums(y, y), _sums(x, y)
    total_x, total_y, cross = (s.rows.sum() for s in (xx, yy, xy))
    mean_x, mean_y = total_x / (n * (n - 1)), total_y / (m * (m - 1))
    value = mean_x + mean_y - 2 * cross / (n * m)
    without_x = (total_x - 2 * xx.rows) / ((n - 1) * (n - 2)) - 2 * (cross - xy.rows) / ((n - 1) * m)
    without_y = (total_y - 2 * yy.rows) / ((m - 1) * (m - 2)) - 2 * (cross - xy.columns) / (n * (m - 1))
    variance = sum(((len(v) - 1) / len(v) * (v - v.mean()).square().sum()).item() for v in (without_x, without_y))
    twice = 2 * _centred(xx, n - 1, n - 1) / (n * (n - 1)) + 2 * _centred(yy, m - 1, m - 1) / (m * (m - 1))
    twice += 4 * _centred(xy, m, n) / (n * m)
    return Estimate(value.item(), math.sqrt(max(variance - twice, variance / 2)))


def kernel_distance_subsets(
    a: Real[Tensor, "n _"], b: Real[Tensor, "m _"], subsets: int = 100, size: int = 1_000, seed: int = 0
) -> Estimate:
    """The mean of `kernel_distance` over random subsets, as the literature states it.

    The error is that of the mean over subsets, std / sqrt(subsets): subsets share rows, so it is too small as the error
    of a measurement. What others print as the deviation is error * sqrt(subsets).

    Source: Binkowski et al. 2018, arXiv:1801.01401.

    Args:
        a: [N, D] of any real dtype.
        b: [M, D].
        subsets: >= 2.
        size: rows of each subset, without replacement, in [3, min(N, M)].
        seed: of numpy's Generator(PCG64(seed)).

    Raises:
        ValueError: for a size or number out of range, other widths, or a feature that is not finite.
    """
    x, y = _pair(a, b, 3)
    if not 3 <= size <= min(len(x), len(y)):
        raise ValueError(f"size must lie in [3, {min(len(x), len(y))}] for {len(x)} and {len(y)} rows, got {size}")
    if subsets < 2:
        raise ValueError(f"a standard error needs at least 2 subsets, got {subsets}")
    generator = np.random.Generator(np.random.PCG64(seed))
    found = []
    for _ in range(subsets):
        p, q = (torch.from_numpy(generator.choice(len(v), size, replace=False)) for v in (x, y))
        found.append(kernel_distance(x[p.to(x.device)], y[q.to(y.device)]).value)
    return Estimate(float(np.mean(found)), float(np.std(found, ddof=1) / np.sqrt(subsets)))


def _sums(a: Float64[Tensor, "n _"], b: Float64[Tensor, "m _"]) -> _Sums:
    """Sums of the kernel over rows and columns and of its square, block by block; without the diagonal if b is a."""
    rows, columns, squares = [], torch.zeros(len(b), dtype=torch.float64, device=a.device), 0.0
    start = 0
    for block in torch.split(a, max(1, BUDGET // len(b))):
        k = (block @ b.T).div_(a.shape[1]).add_(1).pow_(3)
        if a is b:
            k.diagonal(start).zero_()
        rows.append(k.sum(1))
        columns += k.sum(0)
        squares += torch.dot(k.flatten(), k.flatten()).item()
        start += len(block)
    return _Sums(torch.cat(rows), columns, squares)


def _centred(s: _Sums, per_row: int, per_column: int) -> float:
    """Mean square of the kernel less its row and column means: what is left where no single row tells anything."""
    mean = s.rows.mean() / per_row
    rows, columns = (s.rows / per_row - mean).square().mean(), (s.columns / per_column - mean).square().mean()
    return max(0.0, (s.squares / (len(s.rows) * per_row) - mean.square() - rows - columns).item())


def _pair(a: Tensor, b: Tensor, least: int) -> tuple[Tensor, Tensor]:
    x, y = checked(a), checked(b)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"rows of {x.shape[1]} and of {y.shape[1]} features have no kernel distance")
    if min(len(x), len(y)) < least:
        raise ValueError(f"the kernel distance and its error need {least} rows a set, got {len(x)} and {len(y)}")
    return x, y
