"""Optimisers, learning rates and averages of weights, all of them functions of one clock: samples seen."""

from unnoise.optim.adamw import AdamW, Guarded, guarded_step
from unnoise.optim.ema import Ema, gamma_of_width, snapshot_due, width_of_gamma
from unnoise.optim.matrices import hidden_matrices
from unnoise.optim.muon import Muon, orthogonalised
from unnoise.optim.posthoc import reconstruct
from unnoise.optim.protocol import Optim
from unnoise.optim.rate import Constant, Cosine, InverseSqrt, Linear, Rate, Trapezoid
from unnoise.optim.scale import LossScale

__all__ = [
    "AdamW",
    "Constant",
    "Cosine",
    "Ema",
    "Guarded",
    "InverseSqrt",
    "Linear",
    "LossScale",
    "Muon",
    "Optim",
    "Rate",
    "Trapezoid",
    "gamma_of_width",
    "guarded_step",
    "hidden_matrices",
    "orthogonalised",
    "reconstruct",
    "snapshot_due",
    "width_of_gamma",
]
