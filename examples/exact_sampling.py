"""Every sampler on data whose perfect denoiser is known: no network, no training, only the samplers' own error.

    python examples/exact_sampling.py

Three normal blobs in the plane, of unequal weight. `core.exact.Mixture` is E[x0 | x] in closed form; so a sampler's
samples must have the mixture's mean, covariance and weights, up to the noise of 4,000 samples.
"""

import math

import torch

from unnoise import core, sample
from unnoise.core.exact import Mixture
from unnoise.core.level import CLEAN
from unnoise.core.process import Gaussian
from unnoise.core.rng import Rng
from unnoise.sample.driver import sample as walk
from unnoise.sample.grids import LogSnrGrid

N, STEPS = 4000, 60

means = torch.tensor([[-2.0, 0.0], [1.0, 1.5], [1.5, -1.5]])
stds = torch.tensor([0.2, 0.4, 0.3])
weights = torch.tensor([0.5, 0.3, 0.2])
denoise = Mixture(means, stds, weights)

# The moments of the mixture in closed form: the mean of the means, and the spread within plus the spread between.
mean = weights @ means
between = (means - mean).T @ torch.diag(weights) @ (means - mean)
covariance = between + (weights * stds**2).sum() * torch.eye(2)

process = Gaussian()
levels = LogSnrGrid(low=-10.0, high=10.0)(STEPS, (-math.inf, math.inf))
rng = Rng.of(range(N))
start = process.forward(
    torch.zeros(N, 2), CLEAN, core.level.Level(levels.alpha[0], levels.sigma[0]).to(dtype=torch.float32), rng.fold(0)
)

print(
    f"{'sampler':10} {'mean':>8} {'covariance':>11} {'weights':>8}   largest errors of {N} samples after {STEPS} steps"
)
for name in sample.__all__:
    if name == "Consistency":  # its jumps are those of a network that looks at where it is to go
        continue
    sampler = getattr(sample, name)()
    *_, last = walk(sampler, process, denoise, start, levels, rng.fold(1))
    nearest = torch.cdist(last.x, means).argmin(1)
    shares = torch.bincount(nearest, minlength=3) / N
    errors = [
        float((got - exactly).abs().max())
        for got, exactly in ((last.x.mean(0), mean), (last.x.T.cov(), covariance), (shares, weights))
    ]
    print(f"{name:10} {errors[0]:8.4f} {errors[1]:11.4f} {errors[2]:8.4f}")
    # Four standard errors of the mean and of a share are 0.10 and 0.03; the covariance has the solver's error besides.
    assert errors[0] < 0.10, f"{name}: the mean is off by {errors[0]:.3f}"
    assert errors[1] < 0.15, f"{name}: the covariance is off by {errors[1]:.3f}"
    assert errors[2] < 0.03, f"{name}: the weights are off by {errors[2]:.3f}"
