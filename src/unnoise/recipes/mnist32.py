"""Super-resolution of MNIST from 16 to 32 pixels: the second stage of a cascade, see mnist16.

`unnoise join runs/cascade base=runs/mnist16 up=runs/mnist32` makes one system of both, which is sampled as a run is.

Measured by `python benchmarks/recipes.py` (seed 0, two threads beside seven other runs on 16 cores, PyTorch 2.11),
after 4.6 minutes of training, on 300 held-out digits made small: PSNR 23.6 dB at augment=0, 22.7 at 0.1, 19.7 at 0.3
and 16.3 at 0.6, beside 19.8 of bilinear upsampling; at 0.1 read as asked 96.3 % (96.7 % of real ones), drift of the
mean 0.98 of 255, distance of the area mean to the small picture 9.7 of 255 (0.13).
"""

from unnoise.core.denoiser import Preconditioned
from unnoise.core.density import LogNormalSigma
from unnoise.core.objective import Denoising
from unnoise.core.parameterization import Edm
from unnoise.data import Mnist
from unnoise.judges import Classifier, SuperResolution
from unnoise.modality import Image, LowRes
from unnoise.nets import UNet
from unnoise.optim import AdamW, Trapezoid
from unnoise.recipe import Recipe, Sampling
from unnoise.sample import Heun
from unnoise.sample.grids import KarrasGrid
from unnoise.spec import Build


def recipe() -> Recipe:
    """The recipe."""
    codec, small = Image(shape=(1, 32, 32)), Image(shape=(1, 16, 16))
    net = Build(
        UNet,
        channels=1,
        width=16,
        multipliers=(1, 1, 2),
        blocks=1,
        attention=(),
        middle_attention=False,
        resample="strided",
        image=1,
        vector=8,
    )
    return Recipe(
        name="mnist32",
        data=Mnist(size=32, low=True),
        codec=codec,
        conditioner=LowRes(small, size=(32, 32)),
        model=Build(Preconditioned, net=net, parameterization=Edm(sigma_data=0.6)),
        objective=Denoising(density=LogNormalSigma(mean=-0.9, std=1.2), drop=0.0),
        optim=AdamW(lr=2e-3, rate=Trapezoid(warmup=3000, decay=0.5)),
        batch=32,
        log_every=100,
        samples=48_000,
        sampling=Sampling(sampler=Heun(), grid=KarrasGrid(sigma_min=0.01, sigma_max=40), steps=6),
        judge=SuperResolution(Classifier(codec, classes=10, width=8, samples=32_000, batch=64, stages=4)),
    )
