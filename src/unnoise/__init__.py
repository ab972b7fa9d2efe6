"""unnoise: one small, exact core from which diffusion models are trained, sampled and evaluated.

import unnoise as un

model = un.Model.load("runs/digits")
model.sample(16, label=3, seed=0, steps=20).save("grid.png")
"""

from unnoise import core, data, guide, modality, nets, optim, sample
from unnoise.core.denoiser import Preconditioned
from unnoise.core.density import LogitNormalTime, LogNormalSigma, UniformTime
from unnoise.core.discrete import Absorbing
from unnoise.core.level import CLEAN, Level
from unnoise.core.objective import Denoising, Joint, MaskedTokens
from unnoise.core.parameterization import X0, Categorical, Edm, Eps, Flow, V
from unnoise.core.process import Gaussian
from unnoise.core.product import Product
from unnoise.core.rng import Rng
from unnoise.errors import UserError
from unnoise.fit import resume, start
from unnoise.model import Model
from unnoise.recipe import Phase, Recipe, Sampling
from unnoise.runtime import Runtime
from unnoise.samples import Samples
from unnoise.spec import Build
from unnoise.state import State
from unnoise.system import System
from unnoise.trained import Trained
from unnoise.version import __version__

__all__ = [
    "CLEAN",
    "X0",
    "Absorbing",
    "Build",
    "Categorical",
    "Denoising",
    "Edm",
    "Eps",
    "Flow",
    "Gaussian",
    "Joint",
    "Level",
    "LogNormalSigma",
    "LogitNormalTime",
    "MaskedTokens",
    "Model",
    "Phase",
    "Preconditioned",
    "Product",
    "Recipe",
    "Rng",
    "Runtime",
    "Samples",
    "Sampling",
    "State",
    "System",
    "Trained",
    "UniformTime",
    "UserError",
    "V",
    "__version__",
    "core",
    "data",
    "guide",
    "modality",
    "nets",
    "optim",
    "resume",
    "sample",
    "start",
]
