"""Networks: (x, c_noise, **cond) -> like x. They know nothing of diffusion.

x [B, C, ...] is what the parameterization hands in, c_noise [B] a bounded number that tells the noise level, and each
condition a tensor whose first axis is B. Constructor arguments are kept as attributes of the same name, so that a
network can be rebuilt from its own attributes. Nothing here moves, casts or synchronises: the caller does.
"""

from unnoise.nets.autoencoder import Autoencoder, PatchDiscriminator
from unnoise.nets.classifier import ConvClassifier, ResidualClassifier
from unnoise.nets.egnn import EGNN
from unnoise.nets.mlp import MLP
from unnoise.nets.transformer import Transformer
from unnoise.nets.unet import UNet

__all__ = [
    "EGNN",
    "MLP",
    "Autoencoder",
    "ConvClassifier",
    "PatchDiscriminator",
    "ResidualClassifier",
    "Transformer",
    "UNet",
]
