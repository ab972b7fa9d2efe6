"""Numbers that judge samples by features: distances between distributions, fidelity and diversity, memorisation.

Functions of tensors: what makes the features (a judge, an Inception network, the pixels) is the caller's choice.
"""

from unnoise.metrics.frechet import Halves, frechet_distance, half_distance, halves_distance
from unnoise.metrics.manifold import coverage, density, precision, recall
from unnoise.metrics.memorisation import nearest_distances, nearest_ratio
from unnoise.metrics.moments import Moments

__all__ = [
    "Halves",
    "Moments",
    "coverage",
    "density",
    "frechet_distance",
    "half_distance",
    "halves_distance",
    "nearest_distances",
    "nearest_ratio",
    "precision",
    "recall",
]
