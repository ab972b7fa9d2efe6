"""Has the model learned the distribution or the training set? Distances to the nearest training example tell."""

from __future__ import annotations

import torch
from jaxtyping import Float64, Real
from torch import Tensor

from unnoise.metrics.features import checked, distances


def nearest_distances(query: Real[Tensor, "n ..."], reference: Real[Tensor, "m ..."]) -> Float64[Tensor, " n"]:
    """Euclidean distance from each query [N, ...] to its nearest reference [M, ...], float64 [N].

    Items of any shape (images, features) are compared as flat vectors. Exact: a copy is at distance 0. At most 2^24
    distances are held at a time.

    Raises:
        ValueError: if shapes differ, a set is empty or an item is not finite.
    """
    if query.shape[1:] != reference.shape[1:]:
        raise ValueError(f"items of shape {list(query.shape[1:])} and {list(reference.shape[1:])} have no distance")
    a, b = checked(query.flatten(1)), checked(reference.flatten(1))
    return torch.cat([block.amin(1) for block in distances(a, b)])


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
