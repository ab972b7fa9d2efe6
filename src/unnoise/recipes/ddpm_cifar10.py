"""CIFAR-10 by DDPM as published (Ho et al. 2020, arXiv:2006.11239), unconditional, for whoever has the hours.

The network of appendix B (35.7 M parameters, dropout 0.1); beta from 1e-4 to 0.02 in T = 1000 steps, of which each row
draws one; L_simple on eps; Adam at 2e-4 after a warm-up of 5,000 steps, gradients of norm 1 at most; batches of 128,
pictures mirrored at random; 800,000 steps, 102.4 M pictures. Samples are drawn in all 1,000 steps with sigma^2 = beta.
The paper states a FID of 3.17 (50,000 samples, training set). Here its first 7 minutes were trained (3.33 M pictures on
one H200, compiled and captured, in bf16): FD-1280 of 10,000 samples is 1.382 +- 0.013, recall 0.398
(benchmarks/results/ddpm_cifar10_7_minutes.json); at that rate all of it takes 3.6 hours.

Where it differs from the published code:
- weights are averaged with a relative width of 0.0125: after 800,000 steps the standard deviation of the profile is
  10,000 steps, as that of the decay 0.9999, and the profile, t^77, is nearly an exponential; earlier in the run the
  average is shorter in proportion;
- estimates of x0 are not clipped to [-1, 1] in sampling;
- the network is told the index itself by sines and cosines of frequencies 10000^(-k / 64), there 10000^(-k / 63); its
  other differences are those of `nets.published.ddpm_cifar10`, and fresh weights are drawn as torch draws them.
"""

import torch

from unnoise.core.denoiser import Preconditioned
from unnoise.core.hybrid import Steps
from unnoise.core.noise import TableIndex
from unnoise.core.objective import Denoising
from unnoise.core.parameterization import Eps
from unnoise.core.schedule import Linear
from unnoise.data import Cifar10, Mirror
from unnoise.judges import Distances
from unnoise.modality import Image
from unnoise.nets import UNet
from unnoise.nets.published import ddpm_cifar10
from unnoise.optim import AdamW, Constant
from unnoise.recipe import Recipe, Sampling
from unnoise.sample import Ancestral
from unnoise.sample.grids import TrailingGrid
from unnoise.spec import Build, fields_of


def recipe() -> Recipe:
    """The recipe."""
    table, batch = Linear(start=1e-4, end=0.02, steps=1000), 128
    with torch.device("meta"):  # its arguments, without the cost of its weights
        net = Build(UNet, **fields_of(ddpm_cifar10())).replace(noise_scale=1.0)  # told an index, not index / 1000
    return Recipe(
        name="ddpm_cifar10",
        data=Cifar10(),
        codec=Image(shape=(3, 32, 32)),
        model=Build(Preconditioned, net=net, parameterization=Eps(), noise=TableIndex(table)),
        objective=Denoising(density=Steps(table, table.steps), drop=0.0, stratify=False),
        optim=AdamW(lr=2e-4, betas=(0.9, 0.999), rate=Constant(warmup=5_000 * batch), clip=1.0),
        batch=batch,
        samples=800_000 * batch,
        widths=(0.0125, 0.05),
        average=0.0125,
        sampling=Sampling(sampler=Ancestral(variance="large"), grid=TrailingGrid(table), steps=table.steps),
        judge=Distances(count=50_000),
        augment=Mirror(),
    )
