"""Numbers that judge samples: by features (distances between distributions, fidelity and diversity, memorisation), and
by what they are: `ngram` for text, `points` for point clouds, `molecule`, `signal`. `figure`: a number and real data's.

Functions of tensors: what makes the features (a judge, an Inception network, the pixels) is the caller's choice.
"""

from unnoise.metrics import figure, molecule, ngram, points, signal
from unnoise.metrics.frechet import (
    Halves,
    frechet_distance,
    frechet_estimate,
    frechet_infinite,
    grouped,
    half_distance,
    halves_distance,
    too_few,
)
from unnoise.metrics.kernel import kernel_distance, kernel_distance_subsets
from unnoise.metrics.manifold import Manifold, coverage, density, manifold_estimate, precision, recall
from unnoise.metrics.memorisation import nearest, nearest_distances, nearest_ratio, nearest_ratio_estimate
from unnoise.metrics.moments import Moments
from unnoise.metrics.resampling import Estimate, share, worst_share

__all__ = [
    "Estimate",
    "Halves",
    "Manifold",
    "Moments",
    "coverage",
    "density",
    "figure",
    "frechet_distance",
    "frechet_estimate",
    "frechet_infinite",
    "grouped",
    "half_distance",
    "halves_distance",
    "kernel_distance",
    "kernel_distance_subsets",
    "manifold_estimate",
    "molecule",
    "nearest",
    "nearest_distances",
    "nearest_ratio",
    "nearest_ratio_estimate",
    "ngram",
    "points",
    "precision",
    "recall",
    "share",
    "signal",
    "too_few",
    "worst_share",
]
