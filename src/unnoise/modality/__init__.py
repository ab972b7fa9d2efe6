"""Kinds of data: for each a codec, its conditions and its writers."""

from unnoise.modality.image import Image
from unnoise.modality.labels import Labels
from unnoise.modality.molecule import Molecules
from unnoise.modality.plain import Plain
from unnoise.modality.size_energy import SizeEnergy
from unnoise.modality.text import Characters

__all__ = ["Characters", "Image", "Labels", "Molecules", "Plain", "SizeEnergy"]
