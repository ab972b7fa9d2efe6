"""Kinds of data: for each a codec, its conditions and its writers."""

from unnoise.modality.image import Image
from unnoise.modality.labels import Labels
from unnoise.modality.plain import Plain

__all__ = ["Image", "Labels", "Plain"]
