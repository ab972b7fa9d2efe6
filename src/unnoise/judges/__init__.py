"""Judges: networks that read samples, trained on real data by our own trainer."""

from unnoise.judges.classifier import Classifier
from unnoise.judges.molecule import Stability

__all__ = ["Classifier", "Stability"]
