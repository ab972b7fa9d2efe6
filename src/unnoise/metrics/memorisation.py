"""Has the model learned the distribution or the training set? Distances to the nearest training example tell."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float64, Int64, Real
from torch import Tensor

from unnoise.metrics.features import BUDGET, checked
from unnoise.metrics.resampling import Estimate

CANDIDATES = 4
"""Of these references, the nearest up to rounding, the distance is computed exactly."""


def nearest_distances(query: Real[Tensor, "n ..."], reference: Real[Tensor, "m ..."]) -> Float64[Tensor, " n"]:
    """Euclidean distance from each query [N, ...] to its nearest reference [M, ...], float64 [N].

    Items of any shape (images, features) are compared as flat vectors. Exact: a copy is at distance 0. At most 2^24
    distances are held at a time.

    Raises:
        ValueError: if shapes differ, a set is empty or an item is not finite.
    """
    return nearest(query, reference)[0]


def nearest(
    query: Real[Tensor, "n ..."], reference: Real[Tensor, "m ..."]
) -> tuple[Float64[Tensor, " n"], Int64[Tensor, " n"]]:
    """`nearest_distances`, and the number of each query's nearest reference, int64 [N]."""
    if query.shape[1:] != reference.shape[1:]:
        raise ValueError(f"items of shape {list(query.shape[1:])} and {list(reference.shape[1:])} have no distance")
    a, b = checked(query.flatten(1)), checked(reference.flatten(1))
    squares, values, indices = b.square().sum(1), [], []
    for rows in torch.split(a, max(1, BUDGET // len(b))):
        # |b|^2 - 2 a.b finds candidates ten times as fast as differences do, which tell equal rows from close ones.
        near = torch.addmm(squares, rows, b.T, alpha=-2).topk(min(CANDIDATES, len(b)), largest=False).indices
        found, which = torch.stack([(rows - b[j]).square().sum(1) for j in near.T], 1).min(1)
        values.append(found.sqrt())
        indices.append(near.gather(1, which[:, None])[:, 0])
    return torch.cat(values), torch.cat(indices)


def nearest_ratio(
    samples: Real[Tensor, "n ..."], held_out: Real[Tensor, "h ..."], train: Real[Tensor, "m ..."]
) -> float:
    """median(nearest(samples, train)) / median(nearest(held_out, train)): 1 for new data, towards 0 for copies.

    Held-out data say how near new examples come to the training set by themselves. The number of training examples
    cancels; the numbers of samples and held-out examples only move the error. A ratio well below 1 is memorisation,
    one well above 1 says that samples stray from the data.

    Raises:
        ValueError: as `nearest_distances` does, or if half of the held-out data are in the training set.
    """
    own = nearest_distances(held_out, train).quantile(0.5).item()
    if own == 0:
        raise ValueError("half of the held-out data are copies of training data: they cannot tell what is new")
    return nearest_distances(samples, train).quantile(0.5).item() / own


def nearest_ratio_estimate(
    samples: Float64[Tensor, " n"], held_out: Float64[Tensor, " h"], rounds: int = 1_000, seed: int = 0
) -> Estimate:
    """`nearest_ratio` of distances that `nearest` found, with its standard error.

    The error is the standard deviation of log(ratio) over bootstrap draws of both sets, times the ratio: samples and
    held-out items vary, the training set is the one that was learned. A draw whose median is 0 counts as none; nan
    where fewer than half of the draws are left, as where samples are copies.

    Source: Efron 1979, "Bootstrap methods: another look at the jackknife".

    Args:
        samples: distances of samples to their nearest training items, [N].
        held_out: the same of held-out items, [H].
        rounds: bootstrap draws, >= 2.
        seed: of numpy's Generator(PCG64(seed)).

    Raises:
        ValueError: if half of the held-out data are in the training set.
    """
    x, y = (np.sort(v.cpu().numpy()) for v in (samples, held_out))
    own = float(np.median(y))
    if own == 0:
        raise ValueError("half of the held-out data are copies of training data: they cannot tell what is new")
    generator = np.random.Generator(np.random.PCG64(seed))
    draws = [[float(np.median(v[generator.integers(len(v), size=len(v))])) for v in (x, y)] for _ in range(rounds)]
    logs = [math.log(a / b) for a, b in draws if a > 0 and b > 0]
    value = float(np.median(x)) / own
    return Estimate(value, value * float(np.std(logs, ddof=1)) if 2 * len(logs) > rounds else math.nan)
