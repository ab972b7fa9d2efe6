"""CIFAR-10, unconditional: small photographs at 32 pixels.

A network small enough to begin learning within minutes on one GPU; not tuned. `cifar10_classes` is told the class.
"""

from unnoise.core.denoiser import Preconditioned
from unnoise.core.density import LogNormalSigma
from unnoise.core.objective import Denoising
from unnoise.core.parameterization import Edm
from unnoise.data import Cifar10
from unnoise.judges import Distances
from unnoise.modality import Image, Labels
from unnoise.nets import UNet
from unnoise.optim import AdamW, Trapezoid
from unnoise.recipe import Recipe, Sampling
from unnoise.sample import Heun
from unnoise.sample.grids import KarrasGrid
from unnoise.spec import Build


def recipe(classes: int = 0) -> Recipe:
    """The recipe.

    Args:
        classes: that the network is told of, in the column "label"; 0: none.
    """
    labels = {"label": classes} if classes else {}
    net = Build(
        UNet,
        channels=3,
        width=64,
        multipliers=(1, 1.5, 2),
        blocks=2,
        attention=(2,),
        head_width=32,
        resample="strided",
        dropout=0.1,
        labels=labels,
    )
    return Recipe(
        name="cifar10_classes" if labels else "cifar10",
        data=Cifar10(),
        codec=Image(shape=(3, 32, 32)),
        conditioner=Labels(labels) if labels else None,
        model=Build(Preconditioned, net=net, parameterization=Edm(sigma_data=0.5)),
        objective=Denoising(density=LogNormalSigma(mean=-1.2, std=1.2), drop=0.1 if labels else 0.0),
        optim=AdamW(lr=1e-3, rate=Trapezoid(warmup=10_000, decay=0.5)),
        batch=128,
        samples=2_000_000,
        sampling=Sampling(
            sampler=Heun(),
            grid=KarrasGrid(sigma_min=0.005, sigma_max=80),
            steps=18,
            guidance=1.3 if labels else 1.0,
        ),
        judge=Distances(),
    )
