"""What every metric asks of features: a finite matrix, rows being samples. And exact distances between rows."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float64, Real
from torch import Tensor

BUDGET = 2**24
"""Distances held at a time: 128 MiB in float64."""


def checked(features: Real[Tensor, " ..."], *, first: int = 0) -> Float64[Tensor, "n d"]:
    """The features as float64 [N, D].

    Args:
        features: [N, D] of any real dtype, N >= 1.
        first: number of the first row, for the message.

    Raises:
        ValueError: if they are not a matrix with at least one row, or, naming the row, if one is not finite: a single
            NaN would make the whole metric NaN, and nobody would know which sample to look at.
    """
    if features.ndim != 2 or not len(features):
        raise ValueError(f"features must be [N, D] with N >= 1, got {list(features.shape)}")
    x = features.detach().double()
    bad = ~x.isfinite().all(1)
    if bad.any():
        rows = (bad.nonzero().flatten() + first).tolist()
        raise ValueError(f"features must be finite, row {rows[0]} is not ({len(rows)} rows in all)")
    return x


def distances(a: Float64[Tensor, "n _"], b: Float64[Tensor, "m _"]) -> Iterator[Float64[Tensor, "_ m"]]:
    """Euclidean distances from rows of a [N, D] to rows of b [M, D], in blocks [n, M] down the rows of a.

    Made of differences, |a_i - b_j| = |b_j - a_i| bit for bit and 0 for equal rows, which the matrix product
    |a|^2 + |b|^2 - 2 a.b (up to ten times as fast on a CPU) is not: it leaves sqrt(eps) of the norm between duplicates.

    Raises:
        ValueError: where the numbers of features differ.
    """
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"rows of {a.shape[1]} and of {b.shape[1]} features have no distance")
    for block in torch.split(a, max(1, BUDGET // len(b))):
        yield torch.cdist(block, b, compute_mode="donot_use_mm_for_euclid_dist")
