"""Data: sources (frozen values that load), data sets in memory, and the order in which samples are seen."""

from unnoise.data.arrays import Arrays
from unnoise.data.augment import Augment, Mirror
from unnoise.data.cifar10 import Cifar10
from unnoise.data.digits import Digits
from unnoise.data.emoji import Emoji
from unnoise.data.flowers import Flowers
from unnoise.data.images import Images
from unnoise.data.mnist import Mnist
from unnoise.data.molecules import Molecules, Qm7
from unnoise.data.nuclei import Nuclei
from unnoise.data.points import Points
from unnoise.data.speech import Recordings, SpokenDigits
from unnoise.data.sprites import Sprites
from unnoise.data.text import Text
from unnoise.data.wav import read_wav, write_wav
from unnoise.data.xyz import read_xyz, write_xyz

__all__ = [
    "Arrays",
    "Augment",
    "Cifar10",
    "Digits",
    "Emoji",
    "Flowers",
    "Images",
    "Mirror",
    "Mnist",
    "Molecules",
    "Nuclei",
    "Points",
    "Qm7",
    "Recordings",
    "SpokenDigits",
    "Sprites",
    "Text",
    "read_wav",
    "read_xyz",
    "write_wav",
    "write_xyz",
]
