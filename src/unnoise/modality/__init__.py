"""Kinds of data: for each a codec, its conditions and its writers."""

from unnoise.modality.audio import Waves
from unnoise.modality.augmented import Augmented
from unnoise.modality.image import Image
from unnoise.modality.labels import Labels
from unnoise.modality.latent import Latent
from unnoise.modality.lowres import LowRes
from unnoise.modality.molecule import Molecules
from unnoise.modality.plain import Plain
from unnoise.modality.points import PointSet
from unnoise.modality.size_energy import SizeEnergy
from unnoise.modality.spectrum import Spectra
from unnoise.modality.text import Characters

__all__ = [
    "Augmented",
    "Characters",
    "Image",
    "Labels",
    "Latent",
    "LowRes",
    "Molecules",
    "Plain",
    "PointSet",
    "SizeEnergy",
    "Spectra",
    "Waves",
]
