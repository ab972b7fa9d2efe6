"""In-painting in data space: what is known comes back to the bit, what is not is drawn from what may be there."""

import math
from typing import Any

import pytest
import torch
from exact import Exact
from torch import Tensor

from unnoise.core.exact import Mixture
from unnoise.core.rng import Rng
from unnoise.data import Digits
from unnoise.errors import UserError
from unnoise.modality import Image, Latent
from unnoise.model import Model
from unnoise.nets import Autoencoder
from unnoise.recipe import Sampling
from unnoise.sample import Ancestral, DPMpp2M, Heun, UniPC
from unnoise.sample.grids import KarrasGrid, ResampledGrid

CODEC = Image((1, 8, 8), 0, 16)
GRID = KarrasGrid(sigma_min=0.01, sigma_max=40)


def mixture(x: Tensor, std: float = 0.05, weights: Any = None) -> Exact:
    """The closed-form denoiser of a mixture of pictures (or latents), each with a little width."""
    return Exact(Mixture(x, torch.full((len(x),), std), weights))


def digits(n: int) -> Tensor:
    return Digits().load().train["x"][:n]


def holes() -> dict[str, Tensor]:
    """Masks, True = known: a half, a hole that splits patches, scattered pixels, all, nothing."""
    half, hole = torch.zeros(1, 8, 8, dtype=torch.bool), torch.ones(1, 8, 8, dtype=torch.bool)
    half[:, :4] = True
    hole[:, 3:6, 1:4] = False
    scattered = Rng.of(3).uniform(torch.zeros(1, 1, 8, 8))[0] < 0.5
    return {
        "half": half,
        "hole": hole,
        "scattered": scattered,
        "all": torch.ones_like(half),
        "nothing": torch.zeros_like(half),
    }


def latents() -> Latent:
    torch.manual_seed(2)
    codec = Latent(CODEC, Autoencoder(channels=1, latent=2, width=4, multipliers=(1, 2)))
    codec.measure(digits(200))
    return codec


@pytest.mark.parametrize("hole", ["half", "hole", "scattered", "all", "nothing"])
@pytest.mark.parametrize(
    "sampler", [Heun(), DPMpp2M(), UniPC(), Ancestral()], ids=["heun", "dpmpp", "unipc", "ancestral"]
)
@pytest.mark.parametrize("kind", ["pixels", "latents"])
def test_pitfall_31_known_pixels_come_back_to_the_bit(kind: str, sampler: Any, hole: str) -> None:
    """diffusers #261: the last composite is made in data space, after decoding and rounding, even of a bad codec."""
    codec: Any = CODEC if kind == "pixels" else latents()
    raw, mask = digits(6), holes()[hole]
    model = Model(mixture(codec.encode(digits(20))), codec, sampling=Sampling(sampler, GRID, 6))
    out = model.inpaint(raw, mask).raw
    known = mask.expand_as(raw)
    assert out.dtype == torch.uint8 and torch.equal(out[known], raw[known])
    assert torch.equal(out, raw) or hole != "all"


@pytest.mark.parametrize("kind", ["pixels", "latents"])
def test_what_lies_under_the_hole_is_not_looked_at(kind: str) -> None:
    codec: Any = CODEC if kind == "pixels" else latents()
    raw, mask = digits(4), holes()["hole"]
    model = Model(mixture(codec.encode(digits(20))), codec, sampling=Sampling(Heun(), GRID, 6))
    other = torch.where(mask, raw, 16 - raw)
    assert torch.equal(model.inpaint(raw, mask).raw, model.inpaint(other, mask).raw)


def test_going_back_lets_what_is_known_decide() -> None:
    """Of twenty digits each is told by its upper half. A perfect denoiser, pinned once a level, finds few of the lower
    ones: early steps settle them while the upper half says little. Resampled, it finds most."""
    raw, mask = digits(20), holes()["half"]
    model = Model(mixture(CODEC.encode(raw)), CODEC)

    def right(repeats: int) -> float:
        there_and_back = ResampledGrid(GRID, repeats)
        out = model.inpaint(
            raw.repeat(2, 1, 1, 1), mask, seed=5, sampler=Heun(), grid=there_and_back, steps=12
        ).raw.float()
        nearest = (out[:, None] - raw.float()).square().flatten(2).sum(2).argmin(1)
        return float((nearest == torch.arange(40) % 20).double().mean())

    once, often = right(1), right(8)
    assert often > 0.75 and often > once + 0.2


def test_a_grid_that_goes_back_is_the_grid_where_it_goes_once() -> None:
    plain = GRID(4, (-9, 9))
    assert torch.equal(ResampledGrid(GRID, 1)(4, (-9, 9)).sigma, plain.sigma)
    again = ResampledGrid(GRID, 2)(4, (-9, 9))
    assert torch.equal(again.sigma, plain.sigma[[0, 1, 0, 1, 2, 1, 2, 3, 2, 3, 4]])
    assert torch.equal(again.alpha, torch.ones(11, dtype=torch.float64))
    assert torch.equal(ResampledGrid(GRID, 7)(1, (-9, 9)).sigma, GRID(1, (-9, 9)).sigma)
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        ResampledGrid(GRID, 0)


@pytest.mark.parametrize("sampler", [Heun(), Ancestral()], ids=["heun", "ancestral"])
def test_it_draws_from_the_conditional_distribution(sampler: Any) -> None:
    """Two digits of one upper half, of weights 1 and 3: given that half, the lower ones are drawn as 1 to 3.

    Where the known half says nothing at any level, pinning is exact."""
    n, x = 600, CODEC.encode(digits(2))
    x[1, :, :4] = x[0, :, :4]
    model = Model(mixture(x, weights=torch.tensor([1.0, 3.0])), CODEC, sampling=Sampling(sampler, GRID, 20))
    raw = CODEC.decode(x)[:1].expand(n, -1, -1, -1)
    out = CODEC.encode(model.inpaint(raw, holes()["half"], seed=9).raw)
    second = (out - x[1]).square().flatten(1).sum(1) < (out - x[0]).square().flatten(1).sum(1)
    assert float(second.double().mean()) == pytest.approx(0.75, abs=4.5 * math.sqrt(0.75 * 0.25 / n))
    nearest = torch.stack([(out - x[k]).square().flatten(1).mean(1) for k in range(2)]).amin(0)
    assert float(nearest.mean()) < 2 * (0.05**2 + (1 / 16) ** 2 / 3)  # of the mixture's width and the rounding


def test_rows_are_their_own_and_seeds_differ() -> None:
    raw, mask = digits(4), holes()["hole"]
    model = Model(mixture(CODEC.encode(digits(20)), std=0.3), CODEC, sampling=Sampling(Heun(), GRID, 6))
    out = model.inpaint(raw, mask, seed=7).raw
    alone = model.inpaint(raw[2:3], mask, seed=9).raw
    assert int((out[2:3].int() - alone.int()).abs().max()) <= 1
    assert not torch.equal(out, model.inpaint(raw, mask, seed=70).raw)


def test_a_mask_that_does_not_fit() -> None:
    model = Model(mixture(CODEC.encode(digits(2))), CODEC)
    with pytest.raises(UserError, match=r"mask of shape \(1, 4, 4\) does not fit data of \(2, 1, 8, 8\)"):
        model.inpaint(digits(2), torch.ones(1, 4, 4, dtype=torch.bool))
