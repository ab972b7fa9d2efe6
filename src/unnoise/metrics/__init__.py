"""Numbers that judge samples: by features (distances between distributions, fidelity and diversity, memorisation), and
by what they are: `ngram` for text, `points` for point clouds, `molecule`, `signal`. `figure`: a number and real data's.

Functions of tensors: what makes the features (a judge, an Inception network, the pixels) is the caller's choice.
"""

from unnoise.metrics import figure, molecule, ngram, points, signal
from unnoise.metrics.frechet import Halves, frechet_distance, half_distance, halves_distance
from unnoise.metrics.manifold import coverage, density, precision, recall
from unnoise.metrics.memorisation import nearest_distances, nearest_ratio
from unnoise.metrics.moments import Moments

__all__ = [
    "Halves",
    "Moments",
    "coverage",
    "density",
    "figure",
    "frechet_distance",
    "half_distance",
    "halves_distance",
    "molecule",
    "nearest_distances",
    "nearest_ratio",
    "ngram",
    "points",
    "precision",
    "recall",
    "signal",
]
