"""What sampling starts from: noise around zero, or around the mean of the data; closed forms, and real photographs."""

import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from exact import Exact

from unnoise import recipes
from unnoise.core.exact import Empirical, Normal
from unnoise.data import Digits, Flowers
from unnoise.data.strips import halved
from unnoise.errors import UserError
from unnoise.modality import Characters, Image, Plain
from unnoise.model import Model
from unnoise.override import override
from unnoise.recipe import Sampling
from unnoise.sample import Heun
from unnoise.sample.grids import Grid, KarrasGrid, LogSnrGrid


@pytest.mark.parametrize(
    "grid", [KarrasGrid(0.01, 2.0), LogSnrGrid(-1.0, 9.0, frame="vp")], ids=lambda g: type(g).__name__
)
def test_noise_around_the_mean_leaves_little_of_what_noise_around_zero_takes_from_it(grid: Grid) -> None:
    """Of N(m, v), from the level (a, s): off by -a m sqrt(v / w), w = a^2 v + s^2, and by a^2 v / w of that."""
    mean, std, n = 0.8, 0.5, 20_000
    sampling = Sampling(sampler=Heun(), grid=grid, steps=40)
    model = Model(Exact(Normal(mean, std)), Plain((4,)), sampling=sampling)
    top = grid(40, (-math.inf, math.inf)).at(0)
    total = float(top.alpha) ** 2 * std**2 + float(top.sigma) ** 2
    off = -float(top.alpha) * mean * std / math.sqrt(total)
    error = 4 * std / math.sqrt(4 * n)
    assert abs(off) > 10 * error
    assert float(model.sample(n, batch=n).raw.mean()) == pytest.approx(mean + off, abs=error)
    model.sampling = replace(sampling, start="mean")
    share = (float(top.alpha) * std) ** 2 / total
    assert share < 0.25
    assert float(model.sample(n, batch=n).raw.mean()) == pytest.approx(mean + share * off, abs=error)


@pytest.mark.skipif(not os.environ.get("UNNOISE_DATA"), reason="UNNOISE_DATA names no folder of data sets")
def test_photographs_are_as_bright_as_they_are_and_not_grayer() -> None:
    """By the exact denoiser of 200 flowers, darker than middle gray, from a level at which that shows."""
    raw = Flowers(size=32, limit=200).load().train["x"]
    raw = halved(halved(raw))
    codec = Image((3, 8, 8))
    sampling = Sampling(sampler=Heun(), grid=KarrasGrid(0.02, 5.0), steps=8)
    model = Model(Exact(Empirical(codec.encode(raw))), codec, sampling=sampling)
    n, brightness = 400, raw.float().mean((1, 2, 3))
    error = 4 * float(brightness.std()) / math.sqrt(n)

    def off() -> float:
        return float(model.sample(n, batch=100).raw.float().mean() - brightness.mean())

    assert off() > 1.5 * error
    model.sampling = replace(sampling, start="mean")
    assert abs(off()) < 0.75 * error


def test_seeds_keep_their_pictures(tiny: Path) -> None:
    """The noise is moved, not drawn again; interpolation ends on the samples; the ODE's inverse is as it was."""
    model = Model.load(tiny)
    model.codec = Image((1, 8, 8), 0, 16, dtype="float32")
    before, noise = model.sample(20, steps=6, label="all"), model.encode(Digits().load().train["x"][:2].float())
    model.sampling = replace(model.sampling, start="mean", grid=replace(model.sampling.grid, sigma_max=10.0))
    moved = model.sample(20, steps=6, label="all")
    pairs = np.corrcoef(np.asarray(before).reshape(20, -1), np.asarray(moved).reshape(20, -1))[:20, 20:]
    assert (pairs.argmax(1) == np.arange(20)).mean() > 0.9
    way = model.interpolate(3, 8, 3, steps=6, label=2)
    for place, seed in ((0, 3), (2, 8)):
        assert np.abs(np.asarray(way[place]) - np.asarray(model.sample(1, seed=seed, steps=6, label=2)[0])).max() < 0.02
    model.sampling = replace(model.sampling, grid=replace(model.sampling.grid, sigma_max=40.0))
    assert torch.equal(model.encode(Digits().load().train["x"][:2].float()), noise)


def test_it_is_of_states_that_are_numbers() -> None:
    model = Model(Exact(Normal()), Characters("ab", 4), sampling=Sampling(start="mean"))
    with pytest.raises(UserError, match=r"those of Characters are not: leave sampling\.start at zero"):
        model.sample(2)
    recipe = override(recipes.load("shakespeare")[0], "sampling.start=mean")
    with pytest.raises(UserError, match="those of Characters are not"):  # and not after hours of training
        recipe.components()


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="around zero or mean, got 'noise'"):
        Sampling(start="noise")  # type: ignore[arg-type]
