"""Emoji at 64 pixels, class-conditional by group.

The smallest credible network; not tuned.
"""

from unnoise.core.denoiser import Preconditioned
from unnoise.core.density import LogNormalSigma
from unnoise.core.objective import Denoising
from unnoise.core.parameterization import Edm
from unnoise.data import Emoji
from unnoise.judges import Distances
from unnoise.modality import Image, Labels
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
        labels={"label": 10},
    )
    return Recipe(
        name="emoji",
        data=Emoji(),
        codec=Image(shape=(3, 64, 64)),
        conditioner=Labels({"label": 10}),
        model=Build(Preconditioned, net=net, parameterization=Edm(sigma_data=0.63)),
        objective=Denoising(density=LogNormalSigma(mean=-0.8, std=1.4), drop=0.1),
        optim=AdamW(lr=1e-3, rate=Trapezoid(warmup=10_000, decay=0.5)),
        batch=128,
        samples=1_000_000,
        sampling=Sampling(
            sampler=Heun(), grid=KarrasGrid(sigma_min=0.005, sigma_max=80), steps=18, guidance=1.3, start="mean"
        ),
        judge=Distances(count=1000),
    )
