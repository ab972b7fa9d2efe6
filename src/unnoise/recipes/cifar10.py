"""CIFAR-10, unconditional: small photographs at 32 pixels, made for minutes of one GPU.

    unnoise train cifar10 --minutes 7 --compile --capture    # on one H200 4.65 M pictures, as many as stand here
    unnoise evaluate runs/cifar10 -n 10000 --repeats 3

Tuned for quality after minutes: little work at 32 pixels and more below, Muon, a decay over the second half, samples
guided by the network as it was after a quarter of its training (autoguidance), but where there is almost nothing but
noise and almost none. After 7 minutes of one H200 FD-1280 of 3 x 10,000 samples against the 50,000 training pictures is
0.519 +- 0.004 (0.847 +- 0.008 without that guidance; the real test set is at 0.196):
benchmarks/results/cifar10_7_minutes_seed_1.json. `cifar10_classes` is told the class.

With 20 minutes it is 0.393 +- 0.007 (0.570 +- 0.007; benchmarks/results/cifar10_20_minutes_seed_1.json), for
`recipe(deep=True)`; the README has the command.
"""

from dataclasses import replace

from unnoise.core.denoiser import Preconditioned
from unnoise.core.density import LogNormalSigma
from unnoise.core.objective import Denoising
from unnoise.core.parameterization import Edm
from unnoise.data import Cifar10, Mirror
from unnoise.judges import ClassificationAccuracy, DeepClassifier, Distances, Several
from unnoise.modality import Image, Labels
from unnoise.nets import UNet
from unnoise.optim import Muon, Trapezoid
from unnoise.recipe import Recipe, Sampling
from unnoise.sample import DPMpp2M, UniPC
from unnoise.sample.grids import KarrasGrid
from unnoise.spec import Build


def recipe(classes: int = 0, deep: bool = False) -> Recipe:
    """The recipe.

    Args:
        classes: that the network is told of, in the column "label"; 0: none.
        deep: for 20 minutes, in which each picture is seen 190 times: a deeper network, which is told of the level by
            smoother features, dropout, pictures mirrored at random, and guidance by more, by a later network, at fewer
            levels, in more steps of a better solver.
    """
    labels = {"label": classes} if classes else {}
    codec = Image(shape=(3, 32, 32))
    learner = DeepClassifier(
        codec, classes=10, width=64, stages=3, samples=1_500_000, batch=512, lr=5e-3, shift=4, mirror=True
    )
    grid = KarrasGrid(sigma_min=0.005, sigma_max=80)
    sampling = Sampling(DPMpp2M(), grid, steps=18, autoguidance=2.0, weaker=0.25, low=-4.6, high=5.0)
    if deep:
        grid = replace(grid, rho=6)
        sampling = Sampling(UniPC(p=3), grid, steps=24, autoguidance=2.5, weaker=0.4, low=-2.0, high=5.0)
    net = Build(
        UNet,
        channels=3,
        width=64,
        multipliers=(1, 4, 4),
        blocks=(1, 4, 4) if deep else 2,
        attention=(2,),
        head_width=64,
        resample="strided",
        dropout=0.05 if deep else 0.0,
        noise_scale=100.0 if deep else 1000.0,
        labels=labels,
    )
    return Recipe(
        name="cifar10_classes" if labels else "cifar10",
        data=Cifar10(),
        codec=codec,
        conditioner=Labels(labels) if labels else None,
        model=Build(Preconditioned, net=net, parameterization=Edm(sigma_data=0.5)),
        objective=Denoising(density=LogNormalSigma(mean=-1.2, std=1.2), drop=0.1 if labels else 0.0),
        optim=Muon(lr=1.5e-3, rate=Trapezoid(warmup=20_000, decay=0.5)),
        batch=256,
        samples=9_400_000 if deep else 4_650_000,
        sampling=sampling,
        augment=Mirror() if deep else None,
        judge=Several((Distances(), ClassificationAccuracy(learner, count=1000))) if labels else Distances(),
    )
