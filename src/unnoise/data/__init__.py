"""Data: sources (frozen values that load), data sets in memory, and the order in which samples are seen."""

from unnoise.data.arrays import Arrays
from unnoise.data.digits import Digits
from unnoise.data.mnist import Mnist
from unnoise.data.molecules import Molecules, Qm7
from unnoise.data.points import Points
from unnoise.data.speech import Recordings, SpokenDigits
from unnoise.data.text import Text
from unnoise.data.wav import read_wav, write_wav
from unnoise.data.xyz import read_xyz, write_xyz

__all__ = [
    "Arrays",
    "Digits",
    "Mnist",
    "Molecules",
    "Points",
    "Qm7",
    "Recordings",
    "SpokenDigits",
    "Text",
    "read_wav",
    "read_xyz",
    "write_wav",
    "write_xyz",
]
