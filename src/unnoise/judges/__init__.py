"""Judges: networks that read samples, trained on real data by our own trainer."""

from unnoise.judges.attributes import Attributes
from unnoise.judges.bound import Bound
from unnoise.judges.cas import ClassificationAccuracy
from unnoise.judges.classifier import Classifier, DeepClassifier
from unnoise.judges.continuous import ContinuousBound
from unnoise.judges.distances import Distances, Means
from unnoise.judges.fewsteps import FewSteps
from unnoise.judges.inception import Inception
from unnoise.judges.likelihood import BitsPerToken
from unnoise.judges.molecule import Stability
from unnoise.judges.points import NearestNeighbour
from unnoise.judges.reconstruction import Reconstruction
from unnoise.judges.several import Several
from unnoise.judges.superres import SuperResolution

__all__ = [
    "Attributes",
    "BitsPerToken",
    "Bound",
    "ClassificationAccuracy",
    "Classifier",
    "ContinuousBound",
    "DeepClassifier",
    "Distances",
    "FewSteps",
    "Inception",
    "Means",
    "NearestNeighbour",
    "Reconstruction",
    "Several",
    "Stability",
    "SuperResolution",
]
