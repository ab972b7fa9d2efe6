"""CIFAR-10, unconditional: small photographs at 32 pixels, made for minutes of one GPU.

    unnoise train cifar10 --minutes 7 --compile --capture    # on one H200 up to 4.65 M pictures, as many as stand here
    unnoise evaluate runs/cifar10 -n 10000 --repeats 3

Tuned for quality after minutes: little work at 32 pixels and more below, Muon, a decay over the second half, samples
guided by the network as it was after a quarter of its training (autoguidance), but where there is almost nothing but
noise and almost none. After 7 minutes of one H200, compilation apart, FD-1280 of 3 x 10,000 samples against the 50,000
training pictures is 0.518 +- 0.004 (0.847 +- 0.008 without that guidance; the real test set is at 0.196):
benchmarks/results/cifar10_7_minutes_seed_1.json. `cifar10_deep` is for 20 minutes, `cifar10_classes` is told the class.
"""

from unnoise.core.denoiser import Preconditioned
from unnoise.core.density import LogNormalSigma
from unnoise.core.objective import Denoising
from unnoise.core.parameterization import Edm
from unnoise.data import Cifar10
from unnoise.judges import Distances
from unnoise.modality import Image
from unnoise.nets import UNet
from unnoise.optim import Muon, Trapezoid
from unnoise.recipe import Recipe, Sampling
from unnoise.sample import DPMpp2M
from unnoise.sample.grids import KarrasGrid
from unnoise.spec import Build

NET = Build(
    UNet, channels=3, width=64, multipliers=(1, 4, 4), blocks=2, attention=(2,), head_width=64, resample="strided"
)
MODEL = Build(Preconditioned, net=NET, parameterization=Edm(sigma_data=0.5))
DENSITY = LogNormalSigma(mean=-1.2, std=1.2)
GRID = KarrasGrid(sigma_min=0.005, sigma_max=80)


def recipe() -> Recipe:
    """The recipe."""
    return Recipe(
        name="cifar10",
        data=Cifar10(),
        codec=Image(shape=(3, 32, 32)),
        model=MODEL,
        objective=Denoising(DENSITY, drop=0.0),
        optim=Muon(lr=1.5e-3, rate=Trapezoid(warmup=20_000, decay=0.5)),
        batch=256,
        samples=4_650_000,
        sampling=Sampling(
            sampler=DPMpp2M(),
            grid=GRID,
            steps=18,
            autoguidance=2.0,
            weaker=0.25,
            low=-4.6,
            high=5.0,
        ),
        judge=Distances(),
    )
