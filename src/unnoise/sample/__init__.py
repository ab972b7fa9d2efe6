"""Samplers: frozen values, each a way to step along a grid of levels; `driver.sample` is the one loop over them.

What `__all__` names is what the command line offers and what the tests are parametrised over.
"""

from unnoise.sample.ancestral import Ancestral
from unnoise.sample.consistency import Consistency
from unnoise.sample.dpmpp import DPMpp2M
from unnoise.sample.ode import RK4, Euler, Heun, Midpoint
from unnoise.sample.unipc import UniPC

__all__ = ["RK4", "Ancestral", "Consistency", "DPMpp2M", "Euler", "Heun", "Midpoint", "UniPC"]
