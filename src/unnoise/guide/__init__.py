"""Guidance: denoisers that wrap denoisers, and (later) kernels that wrap kernels. There are no pipelines."""

from unnoise.guide.cfg import Cfg, CfgEach, Interval
from unnoise.guide.known import Known

__all__ = ["Cfg", "CfgEach", "Interval", "Known"]
