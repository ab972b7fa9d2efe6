"""Rolling grids: levels an element, order of arrival, exact distributions of tokens and of real moving pictures."""

import itertools
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unnoise.core.discrete import Absorbing
from unnoise.core.estimate import Estimate
from unnoise.core.exact_tokens import MarkovChain
from unnoise.core.level import CLEAN, Level
from unnoise.core.process import Gaussian
from unnoise.core.rng import Rng
from unnoise.core.schedule import Masking
from unnoise.sample import Ancestral, Heun
from unnoise.sample.driver import sample
from unnoise.sample.grids import KarrasGrid, RollingGrid, UniformGrid
from unnoise.sample.plan import plan

D = torch.float64
EVERYWHERE = (-math.inf, math.inf)
CHAIN = MarkovChain(
    torch.tensor([0.4, 0.25, 0.35], dtype=D),
    torch.tensor([[0.1, 0.6, 0.3], [0.7, 0.05, 0.25], [0.2, 0.2, 0.6]], dtype=D),
)
VIDEO = Path(os.environ.get("UNNOISE_DATA", "."), "sprites_video", "sprites_video.npz")


def test_each_element_walks_the_grid_later_than_the_one_before() -> None:
    inner = KarrasGrid(0.01, 10)(5, EVERYWHERE)
    levels = RollingGrid(count=3, grid=KarrasGrid(0.01, 10), lag=2, axis=2, ndim=5)(5, EVERYWHERE)
    assert levels.sigma.shape == (5 + 2 * 2 + 1, 1, 1, 3, 1, 1)
    for i in range(3):
        own = levels.sigma[:, 0, 0, i, 0, 0]
        assert torch.equal(own[2 * i : 2 * i + 6], inner.sigma)
        assert bool((own[: 2 * i] == inner.sigma[0]).all()) and bool((own[2 * i + 6 :] == 0).all())
    together = RollingGrid(count=3, grid=KarrasGrid(0.01, 10), lag=0)(5, EVERYWHERE)
    assert torch.equal(together.sigma, inner.sigma[:, None, None].expand(6, 1, 3))


def test_arguments_that_cannot_be_and_samplers_that_look_ahead_are_refused() -> None:
    for bad in ({"count": 0}, {"count": 2, "lag": -1}, {"count": 2, "axis": 0}, {"count": 2, "axis": 2}):
        with pytest.raises(ValueError, match=str(bad[next(reversed(bad))])):
            RollingGrid(**bad)
    with pytest.raises(ValueError, match="scalar levels"):
        RollingGrid(count=2, grid=RollingGrid(count=2))(3, EVERYWHERE)
    with pytest.raises(ValueError, match="Heun evaluates at the level that a step reaches"):
        plan(Heun(), RollingGrid(count=2)(3, EVERYWHERE))


def test_tokens_come_in_order_and_exactly() -> None:
    """Token by token, in as many steps each as one likes, the sampler draws from the chain itself."""
    n, count = 10_000, 3
    rng = Rng.of(range(n))
    x = torch.full((n, count), 3)
    levels = RollingGrid(count=count, grid=UniformGrid(Masking()), lag=2)(2, EVERYWHERE)
    states = [step.x for step in sample(Ancestral(), Absorbing(3), CHAIN, x, levels, rng)]
    for k, state in enumerate(states, start=1):
        there = k // 2  # tokens that have arrived; those after the next have not begun
        assert bool((state[:, :there] < 3).all()) and bool((state[:, there + 1 :] == 3).all())
        assert torch.equal(state[:, :there], states[-1][:, :there])
    p = CHAIN.log_prob(torch.tensor(list(itertools.product(range(3), repeat=count)))).exp()
    got = (states[-1] * torch.tensor([9, 3, 1])).sum(1).bincount(minlength=27).double()
    chi = float(((got - n * p) ** 2 / (n * p)).sum())
    assert float(n * p.min()) > 5 and chi < 26 + 4 * math.sqrt(2 * 26)


class Frames:
    """The exact denoiser of x [B, C, T, H, W], pixels independent of each other, each normal over time.

    With every frame at its own level: E[x0 | x] = mean + C A (A C A + S)^-1 (x - A mean), A = diag(alpha_t),
    S = diag(sigma_t^2), and the variance is the diagonal of C - C A (A C A + S)^-1 A C.

    Args:
        mean: [C, T, H, W].
        covariance: [C, H, W, T, T].
    """

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        self.mean, self.covariance = mean, covariance

    def __call__(self, x: Tensor, level: Level, cond: Any = None, *, to: Any = None) -> Estimate:
        level, t = level.like(x), x.shape[2]
        alpha, sigma = (a.expand(*(1,) * 2, t, 1, 1).reshape(t).to(x) for a in (level.alpha, level.sigma))
        seen = alpha[:, None] * self.covariance * alpha + torch.diag(sigma**2 + 1e-12)
        gain = torch.linalg.solve(seen, alpha[:, None] * self.covariance).mT
        off = (x - alpha[:, None, None] * self.mean).permute(1, 3, 4, 2, 0)  # [C, H, W, T, B]
        x0 = self.mean + (gain @ off).permute(4, 0, 3, 1, 2)
        var = (self.covariance - gain @ (alpha[:, None] * self.covariance)).diagonal(dim1=-2, dim2=-1)
        return Estimate(x0, var.clamp(min=0).permute(0, 3, 1, 2).expand_as(x))


@pytest.fixture(scope="module")
def clips() -> Tensor:
    """[clips, C, T, H, W] float64: real clips at a quarter of their resolution, in [-1, 1]."""
    if not os.environ.get("UNNOISE_DATA"):
        pytest.skip("UNNOISE_DATA names no folder of data")
    with np.load(VIDEO) as z:
        video = torch.from_numpy(z["video"][:400, :5, 20:52:8, 16:48:8]).to(D)
    return (video / 127.5 - 1).permute(0, 4, 1, 2, 3)


@pytest.fixture(scope="module")
def frames(clips: Tensor) -> Frames:
    mean = clips.mean(0)
    off = (clips - mean).permute(1, 3, 4, 2, 0)
    return Frames(mean, off @ off.mT / clips.shape[0] + 0.01 * torch.eye(clips.shape[2], dtype=D))


def film(frames: Frames, levels: Level, n: int, variance: str = "learned") -> list[Tensor]:
    rng = Rng.of(range(n))
    x = Gaussian().forward(torch.zeros(n, *frames.mean.shape, dtype=D), CLEAN, levels.at(0), rng.fold(10**6))
    return [s.x for s in sample(Ancestral(variance=variance), Gaussian(), frames, x, levels, rng)]  # type: ignore[arg-type]


def test_a_moving_picture_comes_frame_by_frame_and_with_its_own_statistics(frames: Frames) -> None:
    """Frame t arrives with step 12 (t + 1), not before, and is held to the bit from there on."""
    n, t, steps = 400, frames.mean.shape[1], 12
    levels = RollingGrid(count=t, grid=KarrasGrid(0.005, 40), lag=steps, axis=2, ndim=5)(steps, EVERYWHERE)
    states = film(frames, levels, n)
    last = states[-1]
    for i in range(t):
        arrival = steps * (i + 1) - 1
        for k, state in enumerate(states):
            assert torch.equal(state[:, :, i], last[:, :, i]) == (k >= arrival)
    assert torch.equal(states[0][:, :, 1:], states[steps - 1][:, :, 1:])  # those that wait are held, too
    off = last - frames.mean
    width = frames.covariance.diagonal(dim1=-2, dim2=-1).permute(0, 3, 1, 2).sqrt()
    z = off.mean(0) / width * math.sqrt(n)
    assert float(z.abs().max()) < 5 and float((z**2).mean()) == pytest.approx(1, abs=0.35)
    flat = (off / width).permute(1, 3, 4, 2, 0)
    got = flat @ flat.mT / n
    scale = width.permute(0, 2, 3, 1)
    want = frames.covariance / (scale.unsqueeze(-1) * scale.unsqueeze(-2))
    assert float((got - want).abs().max()) < 6 / math.sqrt(n)
    assert float((got - want).mean().abs()) < 0.05


def test_frames_drawn_in_turn_follow_from_those_before(frames: Frames) -> None:
    """Neighbouring frames of the samples resemble each other as those of the clips do, and not as independent ones."""
    t = frames.mean.shape[1]
    levels = RollingGrid(count=t, grid=KarrasGrid(0.005, 40), lag=6, axis=2, ndim=5)(24, EVERYWHERE)
    off = film(frames, levels, 300)[-1] - frames.mean
    got = float((off[:, :, 1:] - off[:, :, :-1]).square().mean())
    c = frames.covariance
    one, apart = c.diagonal(dim1=-2, dim2=-1), c.diagonal(offset=1, dim1=-2, dim2=-1)
    want = float((one[..., 1:] + one[..., :-1] - 2 * apart).mean())
    assert got == pytest.approx(want, rel=0.15)
    assert want < 0.7 * float((one[..., 1:] + one[..., :-1]).mean())


@pytest.mark.parametrize("kind", ["tokens", "picture"])
def test_two_strengths_in_a_batch_are_the_two_runs_alone(kind: str) -> None:
    """Rows at levels of their own, from half and from almost all noise, to the bit."""
    process: Any
    if kind == "tokens":
        process, denoise, clean = Absorbing(3), CHAIN, torch.tensor([[0, 1, 0, 2, 2], [2, 2, 1, 0, 1]])
    else:
        mean = torch.linspace(-1, 1, 3 * 2 * 4, dtype=D).reshape(3, 2, 2, 2)
        c = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=D).expand(3, 2, 2, 2, 2)
        process, denoise = Gaussian(), Frames(mean, c)
        clean = torch.stack([mean + 0.3, mean - 0.2])
    path = UniformGrid(Masking())(10, EVERYWHERE)
    strengths = [0.5, 0.95]
    alone = [path_from(s) for s in strengths]
    both = Level(*(torch.stack([getattr(g, k) for g in alone], 1) for k in ("alpha", "sigma")))
    assert both.alpha.shape == (len(path.alpha), 2)

    def go(levels: Level, x0: Tensor, rows: slice) -> Tensor:
        rng = Rng.of(range(2))[rows]
        x = process.forward(x0, CLEAN, levels.at(0), rng.fold(10**6))
        *_, step = sample(Ancestral(), process, by_row(denoise), x, levels, rng)
        return step.x

    together = go(both, clean, slice(0, 2))
    for i in range(2):
        assert torch.equal(together[i : i + 1], go(alone[i], clean[i : i + 1], slice(i, i + 1)))
    assert not torch.equal(together[:1], go(alone[1], clean[:1], slice(0, 1)))  # the strength does matter


def path_from(strength: float) -> Level:
    return Masking()(torch.linspace(strength, 0, 11, dtype=D))


def by_row(denoise: Any) -> Any:
    """Each row by itself, as matrix products of other sizes may round otherwise."""

    def each(x: Tensor, level: Level, cond: Any = None, *, to: Any = None) -> Estimate:
        rows = [
            denoise(x[i : i + 1], level if level.alpha.ndim == 0 else level.at(slice(i, i + 1))).x0
            for i in range(len(x))
        ]
        return Estimate(torch.cat(rows))

    return each
