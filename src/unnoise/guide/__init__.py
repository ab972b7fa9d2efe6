"""Guidance: denoisers that wrap denoisers, and (later) kernels that wrap kernels. There are no pipelines."""

from unnoise.guide.autoguide import Autoguidance
from unnoise.guide.cfg import Cfg, CfgEach, Interval
from unnoise.guide.known import Known

__all__ = ["Autoguidance", "Cfg", "CfgEach", "Interval", "Known"]
