"""unnoise: one small, exact core from which diffusion models are trained, sampled and evaluated.

import unnoise as un

model = un.Model.load("runs/digits")
model.sample(16, label=3, seed=0, steps=20).save("grid.png")
"""

from typing import TYPE_CHECKING

from unnoise.version import __version__

if TYPE_CHECKING:
    from unnoise.public import *

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

if not TYPE_CHECKING:

    def __getattr__(name):
        # Not before: importing torch takes seconds, which the command line must be able to end at a Ctrl-C.
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from unnoise import public

        return getattr(public, name)

    def __dir__():
        return sorted({*globals(), *__all__})
