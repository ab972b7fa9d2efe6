"""Cell nuclei under the microscope at 64 pixels, unconditional.

The smallest credible network; not tuned. The masks of the nuclei are in the data, but the network is not told them.
Fluorescent ones are nearly black, stained ones nearly white: sampling starts around the mean and from more noise than
elsewhere, or too many would be white (docs/tuning.md).
"""

from unnoise.core.denoiser import Preconditioned
from unnoise.core.density import LogNormalSigma
from unnoise.core.objective import Denoising
from unnoise.core.parameterization import Edm
from unnoise.data import Nuclei
from unnoise.judges import Distances
from unnoise.modality import Image
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
        blocks=1,
        attention=(8,),
        head_width=32,
        resample="strided",
        dropout=0.1,
    )
    return Recipe(
        name="nuclei",
        data=Nuclei(size=64),
        codec=Image(shape=(3, 64, 64)),
        model=Build(Preconditioned, net=net, parameterization=Edm(sigma_data=0.68)),
        objective=Denoising(density=LogNormalSigma(mean=-0.8, std=1.4), drop=0.0),
        optim=AdamW(lr=1e-3, rate=Trapezoid(warmup=10_000, decay=0.5)),
        batch=128,
        samples=600_000,
        sampling=Sampling(sampler=Heun(), grid=KarrasGrid(sigma_min=0.005, sigma_max=160), steps=18, start="mean"),
        judge=Distances(count=1000),
    )
