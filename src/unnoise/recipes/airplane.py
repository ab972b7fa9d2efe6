"""Airplanes as sets of 256 points (ModelNet40), by a transformer that knows no order.

Measured by `unnoise train airplane` and `unnoise evaluate runs/airplane` (seed 0, two CPU cores, PyTorch 2.13), after
4.4 minutes of training, of 100 clouds against the 100 of the test split, beside 100 of the training split against it:
1-NN accuracy (50 % is perfect) by Chamfer distance 80.5 % (54.2 %) with each cloud in the unit box and 81.0 % (54.5 %)
with each of unit spread, by earth mover's distance 59.5 % (53.8 %) and 63.5 % (53.3 %); coverage by Chamfer distance,
box, 0.40 (0.52). With `--samples 38400` 79.0 % (`python benchmarks/recipes.py`).
"""

from unnoise.core.denoiser import Preconditioned
from unnoise.core.density import LogNormalSigma
from unnoise.core.objective import Denoising
from unnoise.core.parameterization import Edm
from unnoise.data import Points
from unnoise.judges import NearestNeighbour
from unnoise.modality import PointSet
from unnoise.nets import Transformer
from unnoise.optim import AdamW, Trapezoid
from unnoise.recipe import Recipe, Sampling
from unnoise.sample import Heun
from unnoise.sample.grids import KarrasGrid
from unnoise.spec import Build


def recipe() -> Recipe:
    """The recipe."""
    net = Build(Transformer, channels=3, width=64, depth=5, head_width=32, positions=False, inducing=16)
    return Recipe(
        name="airplane",
        data=Points("airplane", count=2048),
        codec=PointSet(count=256, scale=0.315),
        model=Build(Preconditioned, net=net, parameterization=Edm(sigma_data=1.0)),
        objective=Denoising(density=LogNormalSigma(mean=0.0, std=1.3)),
        optim=AdamW(lr=2e-3, rate=Trapezoid(warmup=3200, decay=0.5)),
        batch=16,
        samples=25_600,
        sampling=Sampling(sampler=Heun(), grid=KarrasGrid(sigma_min=0.01, sigma_max=80), steps=18),
        judge=NearestNeighbour(),
    )
