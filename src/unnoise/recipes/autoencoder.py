"""MNIST at 32 pixels to latents of 4x8x8 and back: an autoencoder and its discriminator, for the recipe `latent`.

Measured by `python benchmarks/recipes.py` (seed 0, two threads beside seven other runs on 16 cores, PyTorch 2.11), on
2,000 held-out digits, after 4.1 minutes of training: PSNR 30.18 +- 0.05 dB, beside 19.20 +- 0.03 dB of means of 2x2
pixels, which are as many numbers; drift of the mean 0.13 of 255.
"""

from unnoise.core.adversarial import Discrimination, Reconstruction
from unnoise.data import Mnist
from unnoise.judges import Reconstruction as Fidelity
from unnoise.modality import Image
from unnoise.nets import Autoencoder, PatchDiscriminator
from unnoise.optim import AdamW, Trapezoid
from unnoise.recipe import Phase, Recipe
from unnoise.spec import Build


def recipe() -> Recipe:
    """The recipe."""
    codec = Image(shape=(1, 32, 32))
    return Recipe(
        name="autoencoder",
        data=Mnist(size=32),
        codec=codec,
        model=Build(Autoencoder, channels=1, latent=4, width=8, multipliers=(1, 3, 6), blocks=1),
        more={"discriminator": Build(PatchDiscriminator, channels=1, width=16, layers=2)},
        objective=Reconstruction(norm="l1", kl=1e-5, factor=0.1, start=12_800),
        optim=AdamW(lr=2e-3, rate=Trapezoid(warmup=3200, decay=0.5)),
        phases=(Phase(Discrimination(), ("discriminator",), AdamW(lr=1e-3, rate=Trapezoid(warmup=3200, decay=0.5))),),
        batch=64,
        samples=64_000,
        log_every=100,
        judge=Fidelity(codec),
    )
