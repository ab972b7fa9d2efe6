"""Judges: networks that read samples, trained on real data by our own trainer."""

from unnoise.judges.bound import Bound
from unnoise.judges.classifier import Classifier
from unnoise.judges.fewsteps import FewSteps
from unnoise.judges.likelihood import BitsPerToken
from unnoise.judges.molecule import Stability
from unnoise.judges.points import NearestNeighbour
from unnoise.judges.reconstruction import Reconstruction
from unnoise.judges.several import Several
from unnoise.judges.superres import SuperResolution

__all__ = [
    "BitsPerToken",
    "Bound",
    "Classifier",
    "FewSteps",
    "NearestNeighbour",
    "Reconstruction",
    "Several",
    "Stability",
    "SuperResolution",
]
