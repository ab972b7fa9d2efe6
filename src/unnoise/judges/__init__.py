"""Judges: networks that read samples, trained on real data by our own trainer."""

from unnoise.judges.classifier import Classifier

__all__ = ["Classifier"]
