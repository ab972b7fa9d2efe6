"""Five hundred flowers at 64 pixels: little data, with augmentation that does not leak.

Pictures are flipped, scaled, turned, stretched and moved in training, and the network is told how (`Augment`), so that
samples are as the data are. `-s augment=none` trains the same without, `-s "augment=Mirror()"` with mirrored pictures
that it is not told of; `python benchmarks/small_data.py` compares them.
"""

from unnoise.core.denoiser import Preconditioned
from unnoise.core.density import LogNormalSigma
from unnoise.core.objective import Denoising
from unnoise.core.parameterization import Edm
from unnoise.data import Augment, Flowers
from unnoise.judges import Distances
from unnoise.modality import Augmented, Image
from unnoise.nets import UNet
from unnoise.optim import AdamW, Trapezoid
from unnoise.recipe import Recipe, Sampling
from unnoise.sample import Heun
from unnoise.sample.grids import KarrasGrid
from unnoise.spec import Build


def recipe() -> Recipe:
    """The recipe."""
    net = Build(
        UNet,
        channels=3,
        width=32,
        multipliers=(1, 2, 3, 4),
        blocks=2,
        attention=(8,),
        head_width=32,
        resample="strided",
        dropout=0.1,
        vectors={"augment": 9},
    )
    return Recipe(
        name="flowers500",
        data=Flowers(size=64, limit=500),
        codec=Image(shape=(3, 64, 64)),
        conditioner=Augmented(),
        augment=Augment(p=0.15),
        model=Build(Preconditioned, net=net, parameterization=Edm(sigma_data=0.6)),
        objective=Denoising(density=LogNormalSigma(mean=-0.8, std=1.4), drop=0.0),
        optim=AdamW(lr=1e-3, rate=Trapezoid(warmup=10_000, decay=0.5)),
        batch=128,
        samples=1_000_000,
        sampling=Sampling(sampler=Heun(), grid=KarrasGrid(sigma_min=0.01, sigma_max=80), steps=18, start="mean"),
        judge=Distances(count=5000),
    )
