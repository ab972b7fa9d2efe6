"""Data: sources (frozen values that load), data sets in memory, and the order in which samples are seen."""

from unnoise.data.arrays import Arrays
from unnoise.data.digits import Digits

__all__ = ["Arrays", "Digits"]
