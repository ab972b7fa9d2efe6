"""Class-conditional MNIST at 28 pixels, made for ten minutes on two cores, or a minute of one GPU.

    unnoise train mnist                                # 8 min 26 s on two cores
    unnoise evaluate runs/mnist                        # 5,000 samples
    unnoise evaluate runs/mnist -n 50000               # the classification accuracy score too: for a GPU

Of 5,000 samples 98.9 +- 0.2 % are read as asked (real test digits: 99.45 %), the worst class 98.3 %, with a recall of
0.955 (0.957), seed 0, PyTorch 2.13: benchmarks/results/mnist_cpu_evaluation.json.

On one H200 `unnoise train mnist --minutes 0.85 -s model.net.width=24 -s model.net.head_width=24 -s batch=1024 -s
optim.lr=4e-3 -s optim.rate.warmup=80000` took 53 s, 13 of them imports (1.6 M parameters); of 3 x 5,000 samples at
`--guidance 1.5` 99.41 +- 0.06 % are read as asked, with a recall of 0.948 (real 0.957). Trained for 3.3 minutes with
`--compile`, a classifier that learned from 50,000 samples at guidance 1 only reads 99.46 % of the test digits (99.63 %
after 50,000 real ones): benchmarks/results/mnist_cuda.json.

The judge reads 99.45 % of the 10,000 test digits; its weights come with the package (benchmarks/results/judges.json).
"""

from dataclasses import replace

from unnoise.core.denoiser import Preconditioned
from unnoise.core.density import LogNormalSigma
from unnoise.core.objective import Denoising
from unnoise.core.parameterization import Edm
from unnoise.data import Mnist
from unnoise.judges import ClassificationAccuracy, Classifier, Several
from unnoise.modality import Image, Labels
from unnoise.nets import UNet
from unnoise.optim import AdamW, Trapezoid
from unnoise.recipe import Recipe, Sampling
from unnoise.sample import Heun
from unnoise.sample.grids import KarrasGrid
from unnoise.spec import Build


def recipe() -> Recipe:
    """The recipe."""
    codec = Image(shape=(1, 28, 28))
    net = Build(
        UNet,
        channels=1,
        width=16,
        multipliers=(1, 2, 4),
        blocks=1,
        attention=(4,),
        head_width=16,
        resample="strided",
        labels={"label": 10},
    )
    judge = Classifier(
        codec,
        classes=10,
        width=24,
        stages=3,
        samples=140_000,
        batch=64,
        lr=3e-3,
        shift=2,
        count=5000,
    )
    learner = replace(judge, width=32, samples=500_000, batch=128)
    return Recipe(
        name="mnist",
        data=Mnist(),
        codec=codec,
        conditioner=Labels({"label": 10}),
        model=Build(Preconditioned, net=net, parameterization=Edm(sigma_data=0.6)),
        objective=Denoising(density=LogNormalSigma(mean=-0.7, std=1.2), drop=0.1),
        optim=AdamW(lr=2e-3, rate=Trapezoid(warmup=4000, decay=0.5)),
        batch=64,
        samples=200_000,
        sampling=Sampling(sampler=Heun(), grid=KarrasGrid(sigma_min=0.01, sigma_max=40), steps=8, guidance=1.4),
        judge=Several((judge, ClassificationAccuracy(learner, count=5000))),
    )
