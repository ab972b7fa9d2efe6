"""Processes of tokens: marginals, exact sampling and bounds with exact denoisers, guidance, rare tokens."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from unnoise.core.density import LogitNormalTime, UniformTime
from unnoise.core.discrete import Absorbing, UniformTokens, certain, draw, keep
from unnoise.core.estimate import Estimate
from unnoise.core.exact_tokens import MarkovChain
from unnoise.core.level import CLEAN, Level
from unnoise.core.objective import MaskedTokens
from unnoise.core.rng import Rng
from unnoise.core.schedule import Cosine, Masking
from unnoise.sample import Ancestral
from unnoise.sample.driver import sample
from unnoise.sample.grids import RollingGrid, UniformGrid

D = torch.float64
V, N = 3, 3
START = torch.tensor([0.4, 0.25, 0.35], dtype=D)
STEP = torch.tensor([[0.1, 0.6, 0.3], [0.7, 0.05, 0.25], [0.2, 0.2, 0.6]], dtype=D)
CHAIN = MarkovChain(START, STEP)
ALL = torch.tensor(list(itertools.product(range(V), repeat=N)))
P = CHAIN.log_prob(ALL).exp()
EVERYWHERE = (-math.inf, math.inf)
FRAMES = [Level.of(0.6, 0.8), Level.of(0.75, 1.0), Level.of(0.3, 0.4)]
"""One level in three frames: keep = 0.36."""
T, S, R = (Level.of(math.sqrt(k), math.sqrt(1 - k)) for k in (0.3, 0.55, 0.8))
"""From noisy to clean."""


def chi_square(counts: Tensor, p: Tensor) -> float:
    """Pearson's statistic in standard deviations: (chi^2 - f) / sqrt(2 f), f = the cells that may occur, less one."""
    assert not bool(counts[p == 0].any())
    expected = counts.sum() * p[p > 0]
    assert float(expected.min()) >= 5
    freedom = len(expected) - 1
    return float((((counts[p > 0] - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom))


def count(x: Tensor, size: int = V) -> Tensor:
    """How often each sequence occurs, in the order of `itertools.product`."""
    digits = size ** torch.arange(x.shape[1] - 1, -1, -1)
    return (x * digits).sum(1).bincount(minlength=size ** x.shape[1]).double()


def run(process: Any, denoise: Any, levels: Level, n: int, shape: tuple[int, ...] = (N,), seed: int = 0) -> Tensor:
    rng = Rng.of(range(seed, seed + n))
    x = process.forward(torch.zeros(n, *shape, dtype=torch.int64), CLEAN, levels.at(0), rng.fold(10**6))
    *_, last = sample(Ancestral(), process, denoise, x, levels, rng)
    return last.x


def grid(steps: int) -> Level:
    return UniformGrid(Masking())(steps, EVERYWHERE)


class Independent:
    """The exact denoiser of independent tokens with probabilities p [V] under uniform noise, by Bayes' rule."""

    def __init__(self, p: Tensor) -> None:
        self.p = p

    def __call__(self, x: Tensor, level: Level, cond: Any = None, *, to: Any = None) -> Estimate:
        k = keep(level, x).unsqueeze(-1)
        return Estimate((self.p * (k * torch.nn.functional.one_hot(x, len(self.p)) + (1 - k) / len(self.p))).log())


# Kernels ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", FRAMES, ids=str)
def test_the_forward_marginals_are_those_of_the_papers_in_any_frame(level: Level) -> None:
    """Masked with 1 - keep; uniform: keep [x = x0] + (1 - keep) / V. The same draws in every frame."""
    n = 10_000
    x0 = torch.full((n, 1), 2)
    masked = Absorbing(V).forward(x0, CLEAN, level, Rng.of(range(n)))
    assert abs(chi_square(masked[:, 0].bincount(minlength=4).double(), torch.tensor([0, 0, 0.36, 0.64], dtype=D))) < 4
    other = UniformTokens(V).forward(x0, CLEAN, level, Rng.of(range(n)))
    p = torch.full((V,), 0.64 / 3, dtype=D)
    p[2] += 0.36
    assert abs(chi_square(other[:, 0].bincount(minlength=3).double(), p)) < 4
    for process, got in ((Absorbing(V), masked), (UniformTokens(V), other)):
        assert torch.equal(process.forward(x0, CLEAN, FRAMES[0], Rng.of(range(n))), got)


@pytest.mark.parametrize("process", [Absorbing(V), UniformTokens(V)], ids=str)
def test_forward_composes(process: Any) -> None:
    """q(t | s) q(s | 0) = q(t | 0), and the ends are exact: nothing is lost at s = t, nothing left at t = 1."""
    n = 15_000
    x0, rng = torch.randint(V, (n, 1), generator=torch.Generator().manual_seed(0)), Rng.of(range(n))
    halfway = process.forward(x0, CLEAN, S, rng.fold(1))
    twice = process.forward(halfway, S, T, rng.fold(2))
    p = torch.zeros(V, 4, dtype=D)
    p[:, :V] = 0.3 * torch.eye(V, dtype=D) + (0.7 / V if isinstance(process, UniformTokens) else 0)
    p[:, V] = 0.7 if isinstance(process, Absorbing) else 0
    joint = (x0 * 4 + twice)[:, 0].bincount(minlength=4 * V).double()
    assert abs(chi_square(joint, (p * (x0.flatten().bincount().double() / n)[:, None]).flatten())) < 4
    assert torch.equal(process.forward(halfway, S, S, rng), halfway)
    assert torch.equal(process.forward(x0, CLEAN, CLEAN, rng), x0)
    noise = process.forward(x0, CLEAN, Level.of(0.0, 1.0), rng)
    if isinstance(process, Absorbing):
        assert bool((noise == V).all())
    else:
        assert abs(chi_square(noise[:, 0].bincount().double(), torch.full((V,), 1 / V, dtype=D))) < 4


@pytest.mark.parametrize("process", [Absorbing(V), UniformTokens(V)], ids=str)
def test_backward_with_the_truth_undoes_forward(process: Any) -> None:
    """sum over x_t of q(s | t, x0) q(t | x0) = q(s | x0), jointly with x_t: the two ways of drawing the pair agree."""
    n = 20_000
    x0, rng = torch.full((n, 1), 1), Rng.of(range(n))
    s = process.forward(x0, CLEAN, S, rng.fold(1))
    t = process.forward(s, S, T, rng.fold(2))
    pairs = (s * 4 + t)[:, 0].bincount(minlength=16).double()
    t = process.forward(x0, CLEAN, T, rng.fold(3))
    truth = Estimate(certain(x0, torch.zeros(n, 1, V)))
    s = process.backward(t, truth, T, S, rng.fold(4))
    again = (s * 4 + t)[:, 0].bincount(minlength=16).double()
    both = pairs + again
    chi = ((pairs - again) ** 2 / both.clamp(min=1)).sum()
    assert not bool((both[pairs == 0] > 0).any()) and not bool((both[again == 0] > 0).any())
    freedom = int((both > 0).sum()) - 1
    assert float(chi) < freedom + 4 * math.sqrt(2 * freedom)


def test_backward_of_uniform_noise_is_bayes_rule() -> None:
    """One step against the sum over x0 of p(x0 | x_t) q(x_s | x_t, x0), written with matrices."""
    n, p0 = 20_000, torch.tensor([0.2, 0.5, 0.3], dtype=D)
    eye = torch.eye(V, dtype=D)
    q_s, q_t, q_ts = (k * eye + (1 - k) / V for k in (0.55, 0.3, 0.3 / 0.55))
    for x_t in range(V):
        posterior = p0 * q_t[:, x_t]
        posterior = posterior / posterior.sum()
        want = torch.einsum("i,ij,j->j", posterior / q_t[:, x_t], q_s, q_ts[:, x_t])
        est = Estimate(posterior.log().expand(n, 1, V))
        got = UniformTokens(V).backward(torch.full((n, 1), x_t), est, T, S, Rng.of(range(n)))
        assert abs(chi_square(got[:, 0].bincount(minlength=V).double(), want)) < 4


@pytest.mark.parametrize("process", [Absorbing(V), UniformTokens(V)], ids=str)
def test_elements_that_do_not_exist_stay_as_they_are(process: Any) -> None:
    real = torch.tensor([[True, True, False, False], [True, False, False, False]])
    x, rng = torch.tensor([[0, 1, 7, -5], [2, 9, 9, 9]]), Rng.of(range(2))
    bound = process.bind(real)
    noisy = bound.forward(x, CLEAN, Level.of(0.0, 1.0), rng)
    assert torch.equal(noisy[~real], x[~real])
    back = bound.backward(noisy, Estimate(torch.zeros(2, 4, V)), Level.of(0.0, 1.0), CLEAN, rng)
    assert torch.equal(back[~real], x[~real]) and bool((back[real] < V).all())


# Sampling -----------------------------------------------------------------------------------------------------------


def test_one_token_at_a_time_the_sampler_is_exact_and_all_at_once_it_is_not() -> None:
    """All 27 sequences. A single step draws tokens independently of each other: its marginals are right, it is not."""
    n = 20_000
    rolling = RollingGrid(count=N, grid=UniformGrid(Masking()), lag=1)(1, EVERYWHERE)
    exact = run(Absorbing(V), CHAIN, rolling, n)
    assert abs(chi_square(count(exact), P)) < 4
    at_once = run(Absorbing(V), CHAIN, grid(1), n)
    assert chi_square(count(at_once), P) > 50
    last = torch.linalg.matrix_power(STEP, N - 1)
    assert abs(chi_square(at_once[:, -1].bincount().double(), START @ last)) < 4


def test_many_steps_approach_the_chain_as_one_over_their_number() -> None:
    n = 10_000
    off = [chi_square(count(run(Absorbing(V), CHAIN, grid(k), n, seed=n * k)), P) for k in (1, 6, 40)]
    assert off[0] > 5 * off[1] > 0 and abs(off[2]) < 4


@pytest.mark.parametrize("steps", [1, 3, 20])
@pytest.mark.parametrize("schedule", [Masking(), Cosine()], ids=str)
def test_independent_tokens_are_exact_in_any_number_of_steps(steps: int, schedule: Any) -> None:
    """Each process, from whatever noise: the backward kernel marginalises over the estimate exactly."""
    n, p = 8_000, torch.tensor([0.05, 0.25, 0.7], dtype=D)
    levels = UniformGrid(schedule)(steps, EVERYWHERE)
    x = run(UniformTokens(V), Independent(p), levels, n, (2,))
    assert abs(chi_square(count(x), torch.outer(p, p).flatten())) < 4
    alone = MarkovChain(p, p.expand(V, V))
    x = run(Absorbing(V), alone, levels, n, (2,))
    assert abs(chi_square(count(x), torch.outer(p, p).flatten())) < 4


def test_sampling_does_not_depend_on_the_frame() -> None:
    levels = grid(7)
    scaled = Level(levels.alpha * 3.7, levels.sigma * 3.7)
    for process, denoise in ((Absorbing(V), CHAIN), (UniformTokens(V), Independent(START))):
        assert torch.equal(run(process, denoise, scaled, 500), run(process, denoise, levels, 500))


# The bound ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "density",
    [UniformTime(Masking(), 1e-4), UniformTime(Cosine(), 1e-3), LogitNormalTime(Masking(), -0.5, 1.5)],
    ids=lambda d: str(d)[:30],
)
def test_the_bound_of_the_exact_denoiser_is_the_likelihood_whatever_the_density(density: Any) -> None:
    """In continuous time the bound is tight for the exact denoiser; a wrong one pays for it."""
    n = 20_000
    x0 = ALL[torch.multinomial(P, n, replacement=True, generator=torch.Generator().manual_seed(1))]
    exact = -CHAIN.log_prob(x0) / N

    def excess(denoise: Any) -> tuple[float, float]:
        loss = MaskedTokens(Absorbing(V), density)(
            {"model": denoise}, {"x": x0, "position": torch.arange(n)}, Rng.of(range(n)), 0
        )
        over = loss.weight * loss.value - exact
        return float(over.mean()), float(over.std()) / math.sqrt(n)

    mean, error = excess(CHAIN)
    assert error < 0.02 and abs(mean) < 4 * error
    flat = torch.full((V, V), 1 / V, dtype=D)
    mean, error = excess(MarkovChain(flat[0], flat))
    assert mean - 4 * error > 0.05
    assert mean == pytest.approx(math.log(V) - float(exact.mean()), abs=4 * error)


def test_the_weight_is_one_over_the_masked_share() -> None:
    """d keep / (1 - keep) = dt / t on the schedule of Masking."""
    density = UniformTime(Masking(), 1e-4)
    u = torch.tensor([0.0, 0.1, 0.5, 0.999], dtype=D)
    loss = MaskedTokens(Absorbing(V), density).at(u, {"model": CHAIN}, {"x": ALL[:4]}, Rng.of(range(4)))
    t = 1e-4 + u * (1 - 1e-4)
    torch.testing.assert_close(loss.weight, (1 - 1e-4) / t, rtol=1e-9, atol=0, check_dtype=False)


# Estimates ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", [Absorbing(V), UniformTokens(V)], ids=str)
def test_guidance_is_a_product_of_powers_and_forbidden_stays_forbidden(process: Any) -> None:
    p, q = torch.tensor([[[0.2, 0.5, 0.3]]], dtype=D), torch.tensor([[[0.6, 0.4, 0.0]]], dtype=D)
    for w in (0.5, 1.0, 3.0, -1.0):
        got = process.mix([Estimate(q.log()), Estimate(p.log())], [1 - w, w]).x0.exp()
        want = (q[..., :2] ** (1 - w)) * (p[..., :2] ** w)
        torch.testing.assert_close(got[..., :2], want / want.sum(), rtol=1e-12, atol=0)
        assert float(got[..., 2]) == 0.0
    scale = torch.tensor([[[2.0]]], dtype=D)
    one = process.mix([Estimate(q.log()), Estimate(p.log())], [1 - scale, scale])
    torch.testing.assert_close(one.x0, process.mix([Estimate(q.log()), Estimate(p.log())], [-1.0, 2.0]).x0)


@pytest.mark.parametrize("process", [Absorbing(V), UniformTokens(V)], ids=str)
def test_pin_and_mix_commute(process: Any) -> None:
    """What is pinned before and after guidance is the same to the bit, and so is the rest."""
    rng = Rng.of(range(5))
    a, b = (Estimate(rng.fold(k).normal(torch.zeros(5, N, V)).log_softmax(-1)) for k in (1, 2))
    y, mask = ALL[10:15], torch.tensor([[True, False, True]]).expand(5, N)
    before = process.mix([process.pin(a, y, mask), process.pin(b, y, mask)], [-1.5, 2.5])
    after = process.pin(process.mix([a, b], [-1.5, 2.5]), y, mask)
    assert torch.equal(before.x0, after.x0)
    assert torch.equal(process.pin(after, y, mask).x0, after.x0)
    assert after.x0[mask].exp().tolist() == torch.nn.functional.one_hot(y, V)[mask].tolist()


# Drawing ------------------------------------------------------------------------------------------------------------


def test_rare_tokens_are_as_rare_as_they_should_be() -> None:
    """Pitfall 12: the tail is not cut, be it of float32 log-probabilities: one number in a million finds its token."""
    n, rare = 4_000_000, [1e-5, 3e-6, 1e-6]
    p = torch.tensor([rare[0], rare[1], 1 - sum(rare), rare[2]], dtype=D)

    class Even(Rng):
        def uniform(self, like: Tensor) -> Tensor:
            return ((torch.arange(n, dtype=D) + 0.5) / n).reshape(like.shape)

    counts = (
        draw(p.log().float().expand(1, n, 4), Even(torch.zeros(1, 2, dtype=torch.int64)))
        .flatten()
        .bincount(minlength=4)
        .double()
    )
    assert float((counts - n * p).abs().max()) <= 1
    n = 1_000_000
    counts = draw(p.log().float().expand(1, n, 4), Rng.of(5)).flatten().bincount(minlength=4).double()
    assert abs(float(counts[[0, 1, 3]].sum()) - n * sum(rare)) < 4 * math.sqrt(n * sum(rare))


def test_what_is_impossible_is_never_drawn_wherever_it_stands() -> None:
    n = 20_000
    for zero in ([0], [V - 1], [0, V - 1], [1]):
        log_p = torch.zeros(n, 1, V)
        log_p[..., zero] = -torch.inf
        x = draw(log_p, Rng.of(range(n)))
        assert not set(x.unique().tolist()) & set(zero)
    tiny = torch.tensor([-torch.inf, -700.0, -torch.inf]).expand(n, 1, V)  # denormal in float32
    assert draw(tiny, Rng.of(range(n))).unique().tolist() == [1]


def test_a_point_at_the_very_end_is_still_a_token() -> None:
    """The uniform number nearest to 1, on a sum that rounding leaves above or below 1."""

    class Last(Rng):
        def uniform(self, like: Tensor) -> Tensor:
            return torch.full_like(like, 1 - 2.0**-53)

    last = Last(torch.zeros(50, 2, dtype=torch.int64))
    for v in (1, 2, 3, 7, 1000):
        p = torch.rand(50, 1, v, dtype=D, generator=torch.Generator().manual_seed(v))
        p[..., -1] = 0 if v > 2 else p[..., -1]
        x = draw(p.log(), last)
        assert bool((x < v).all()) and bool((p.gather(-1, x.unsqueeze(-1)) > 0).all())


def test_drawing_follows_the_rows_not_the_batch() -> None:
    log_p = Rng.of(range(6)).normal(torch.zeros(6, 5, V))
    x = draw(log_p, Rng.of(range(6)))
    for i in range(6):
        assert torch.equal(draw(log_p[i : i + 1], Rng.of(i)), x[i : i + 1])
