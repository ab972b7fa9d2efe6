"""DDPM as published: its network, its table, its loss, its sampler, written a second time by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from unnoise.core.level import Level
from unnoise.core.process import posterior
from unnoise.core.rng import Rng
from unnoise.data.stream import batches
from unnoise.nets import UNet
from unnoise.nets.embedding import noise_features
from unnoise.optim import gamma_of_width
from unnoise.recipe import Recipe
from unnoise.recipes import ddpm_cifar10
from unnoise.runtime import Runtime
from unnoise.spec import Build
from unnoise.state import State
from unnoise.train import train

BETAS = np.linspace(1e-4, 0.02, 1000, dtype=np.float64)
ALPHAS_BAR = np.cumprod(1 - BETAS)
"""As in `diffusion_utils.py` of the published code."""


def shrunk() -> Recipe:
    """The recipe with a network for a CPU, without dropout, so that a loss can be computed twice."""
    recipe: Any = ddpm_cifar10.recipe()
    net = recipe.model.args["net"].replace(width=8, multipliers=(1, 2), blocks=1, dropout=0.0)
    return replace(recipe, model=recipe.model.replace(net=net), batch=4, samples=16)


def pictures(n: int) -> torch.Tensor:
    return (Rng.of(range(n)).uniform(torch.zeros(n, 3, 8, 8)) * 255).to(torch.uint8)


def test_the_network_is_the_published_one() -> None:
    recipe: Any = ddpm_cifar10.recipe()
    net = recipe.model.args["net"]
    assert isinstance(net, Build) and net.cls is UNet and net.args["dropout"] == 0.1
    with torch.device("meta"):
        assert sum(p.numel() for p in net().parameters()) == 35_746_307


def test_the_levels_are_those_of_the_published_table() -> None:
    recipe: Any = ddpm_cifar10.recipe()
    level, _ = recipe.objective.density((torch.arange(1000, dtype=torch.float64) + 0.5) / 1000)
    assert float((level.alpha**2 - torch.from_numpy(ALPHAS_BAR)).abs().max()) < 1e-6
    torch.testing.assert_close(level.alpha**2 + level.sigma**2, torch.ones(1000, dtype=torch.float64))
    index = recipe.model.args["noise"](level)
    torch.testing.assert_close(index, torch.arange(1000, dtype=torch.float64), rtol=0, atol=1e-6)
    features = noise_features(index, 128, recipe.model.args["net"].args["noise_scale"])
    torch.testing.assert_close(features, noise_features(index / 1000, 128, 1000.0), rtol=0, atol=1e-6)


def test_the_loss_is_the_mean_square_of_eps() -> None:
    """Algorithm 1: t uniform, eps normal, |eps - eps_theta(sqrt(ab) x0 + sqrt(1 - ab) eps, t)|^2."""
    recipe: Any = shrunk()
    torch.manual_seed(0)
    parts = recipe.components()
    for p in parts["model"].parameters():
        nn.init.normal_(p, std=0.1)
    raw, rng, t = pictures(4), Rng.of(range(4)), np.array([0, 3, 421, 999])
    u = (torch.from_numpy(t) + 0.5) / 1000
    with torch.no_grad():
        loss = recipe.objective.at(u, parts, {"x": raw}, rng)

    x0 = raw.float() / 127.5 - 1
    eps = rng.fold(1).normal(x0)
    ab = torch.from_numpy(ALPHAS_BAR[t]).float().view(-1, 1, 1, 1)
    with torch.no_grad():
        out = parts["model"].net(ab.sqrt() * x0 + (1 - ab).sqrt() * eps, torch.from_numpy(t).float())
    want = (eps - out).square().mean((1, 2, 3))
    torch.testing.assert_close(loss.value, want, rtol=1e-4, atol=1e-5)
    assert float(loss.mean) == pytest.approx(float(want.mean()), rel=1e-4)


def test_every_step_is_drawn_as_often_and_independently() -> None:
    recipe: Any = ddpm_cifar10.recipe()
    assert not recipe.objective.stratify
    level, _ = recipe.objective.density(torch.arange(20_000, dtype=torch.float64) / 20_000)
    _, counts = level.alpha.unique(return_counts=True)
    assert len(counts) == 1000 and int(counts.min()) >= 19 and int(counts.max()) <= 21


def test_sampling_walks_all_steps_with_the_variance_beta() -> None:
    recipe = ddpm_cifar10.recipe()
    grid = recipe.sampling.levels((-10.2, 9.3))
    assert isinstance(grid, Level) and len(grid.alpha) == 1001 and float(grid.sigma[-1]) == 0
    assert float((grid.alpha[:-1].flip(0) ** 2 - torch.from_numpy(ALPHAS_BAR)).abs().max()) < 1e-6
    steps = [posterior(grid.at(k), grid.at(k + 1)).large for k in range(999)]
    np.testing.assert_allclose(torch.stack(steps).flip(0).numpy(), BETAS[1:], rtol=1e-9)
    assert recipe.sampling.sampler.variance == "large" and recipe.sampling.sampler.eta == 1  # type: ignore[attr-defined]


def test_the_clock_is_that_of_the_paper() -> None:
    recipe = ddpm_cifar10.recipe()
    assert recipe.samples == 800_000 * recipe.batch == 102_400_000
    assert [recipe.optim.lr_at(128 * k, None) for k in (2_500, 5_000, 700_000)] == pytest.approx([1e-4, 2e-4, 2e-4])
    assert recipe.average * 800_000 == pytest.approx(1 / (1 - 0.9999)) and round(gamma_of_width(recipe.average)) == 77
    assert recipe.optim.clip == 1 and recipe.optim.weight_decay == 0 and recipe.optim.betas == (0.9, 0.999)


def test_a_few_steps_of_a_shrunk_version_run() -> None:
    recipe = shrunk()
    state = State(recipe, 0, torch.device("cpu"), recipe.samples)
    before = {k: x.clone() for k, x in state.named.items()}
    columns = {"x": pictures(8)}
    losses = [float(p.loss) for p in train(recipe, state, batches(columns, 4, seed=0), Runtime())]
    assert len(losses) == 4 and all(0.5 < x < 2 for x in losses)  # 1 at initialisation: eps_hat is 0
    assert any(not torch.equal(before[k], x) for k, x in state.named.items())
