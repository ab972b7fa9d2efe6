"""States of several parts: a number and a token that know of each other, exactly."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from unnoise.core.discrete import Absorbing, UniformTokens
from unnoise.core.estimate import Estimate
from unnoise.core.level import CLEAN, Level, part
from unnoise.core.process import Gaussian
from unnoise.core.product import Product
from unnoise.core.rng import Rng
from unnoise.core.schedule import Cosine, Masking
from unnoise.core.space import Padded
from unnoise.guide import Cfg, Known
from unnoise.sample import Ancestral
from unnoise.sample.driver import sample
from unnoise.sample.grids import UniformGrid

D = torch.float64
P = torch.tensor([0.5, 0.2, 0.3], dtype=D)
MEANS = torch.tensor([-1.0, 0.5, 2.0], dtype=D)
STD = 0.3
BOTH = Product({"place": Gaussian(), "kind": Absorbing(3)})
EVERYWHERE = (-math.inf, math.inf)


class Atoms:
    """The exact denoiser of independent elements: kind k ~ P, place ~ N(MEANS[k], STD^2), each [B, N].

    p(k | both) ~ P[k] [kind is masked or k] N(place; alpha MEANS[k], alpha^2 STD^2 + sigma^2).
    """

    def __init__(self, p: Tensor = P) -> None:
        self.p = p

    def __call__(self, x: Any, level: Any, cond: Any = None, *, to: Any = None) -> dict[str, Estimate]:
        at, place = part(level, "place").like(x["place"]).to(dtype=D), x["place"].unsqueeze(-1)
        alpha, sigma = (a.unsqueeze(-1) if a.ndim else a for a in (at.alpha, at.sigma))
        total = alpha**2 * STD**2 + sigma**2
        kind = x["kind"].unsqueeze(-1)
        may = torch.where((kind == 3) | (kind == torch.arange(3)), 0.0, -torch.inf).to(D)
        log_p = (self.p.log() + may - (place - alpha * MEANS) ** 2 / (2 * total)).log_softmax(-1)
        mean = MEANS + STD**2 * alpha / total * (place - alpha * MEANS)
        var = STD**2 * sigma**2 / total
        p = log_p.exp()
        x0 = (p * mean).sum(-1)
        return {"place": Estimate(x0, (p * (var + mean**2)).sum(-1) - x0**2), "kind": Estimate(log_p)}


def start(n: int, levels: Any, process: Any = BOTH) -> tuple[Any, Rng]:
    rng = Rng.of(range(n))
    blank = {"place": torch.zeros(n, 1, dtype=D), "kind": torch.zeros(n, 1, dtype=torch.int64)}
    top = {k: part(levels, k).at(0) for k in blank}
    return process.forward(blank, CLEAN, top, rng.fold(10**6)), rng


def run(denoise: Any, levels: Any, n: int, process: Any = BOTH) -> Any:
    x, rng = start(n, levels, process)
    *_, last = sample(Ancestral(variance="learned"), process, denoise, x, levels, rng)
    return last.x


def together(steps: int = 50) -> Level:
    return UniformGrid(Cosine(0.0))(steps, EVERYWHERE)


def check(x: Any, p: Tensor = P) -> None:
    """Shares of the kinds, and mean and width of the places of each kind."""
    kind, place = x["kind"].flatten(), x["place"].flatten()
    n = len(kind)
    counts = kind.bincount(minlength=3).double()
    assert float((((counts - n * p) / (n * p * (1 - p)).sqrt()).abs()).max()) < 4
    for k in range(3):
        own = place[kind == k]
        assert float(own.mean()) == pytest.approx(float(MEANS[k]), abs=4 * STD / math.sqrt(len(own)) + 0.01)
        assert float(own.std()) == pytest.approx(STD, rel=4 / math.sqrt(2 * len(own)) + 0.02)


def test_both_parts_at_one_level_are_drawn_jointly() -> None:
    check(run(Atoms(), together(), 4_000))


@pytest.mark.parametrize("first", ["place", "kind"])
def test_a_part_may_go_ahead_of_the_other(first: str) -> None:
    """Levels of its own for each part: one is clean before the other begins; it waits, to the bit."""
    grid, k = UniformGrid(Cosine(0.0))(40, EVERYWHERE), 40
    early, late = (Level(*(g[i] for g in grid[:2])) for i in _turns(k))  # type: ignore[index]
    second = {"place": "kind", "kind": "place"}[first]
    levels = {first: early, second: late}
    x, rng = start(4_000, levels)
    states = [s.x for s in sample(Ancestral(variance="learned"), BOTH, Atoms(), x, levels, rng)]
    assert torch.equal(states[k - 1][second], x[second])
    assert torch.equal(states[k - 1][first], states[-1][first])
    check(states[-1])


def _turns(k: int) -> tuple[Tensor, Tensor]:
    i = torch.arange(2 * k + 1)
    return i.clamp(max=k), (i - k).clamp(min=0)


def test_parts_have_randomness_and_kernels_of_their_own() -> None:
    x, rng = {"place": torch.zeros(4, 5), "kind": torch.zeros(4, 5, dtype=torch.int64)}, Rng.of(range(4))
    level = {"place": Level.of(0.6, 0.8), "kind": Level.of(0.3, 0.9)}
    noisy = BOTH.forward(x, CLEAN, level, rng)
    assert torch.equal(noisy["place"], Gaussian().forward(x["place"], CLEAN, level["place"], rng.fold(0)))
    assert torch.equal(noisy["kind"], Absorbing(3).forward(x["kind"], CLEAN, level["kind"], rng.fold(1)))
    est = {"place": Estimate(torch.ones(4, 5)), "kind": Estimate(torch.zeros(4, 5, 3))}
    back = BOTH.backward(noisy, est, level, CLEAN, rng, eta=0.5)
    want = Gaussian().backward(noisy["place"], est["place"], level["place"], CLEAN, rng.fold(0), eta=0.5)
    assert torch.equal(back["place"], want)


def test_guidance_acts_on_every_part() -> None:
    """Against the formula of each: means are extrapolated, probabilities multiplied."""
    flat = torch.full((3,), 1 / 3, dtype=D)

    class Told:
        def __call__(self, x: Any, level: Any, cond: Any = None, *, to: Any = None) -> Any:
            return Atoms(P if bool(cond["said"].all()) else flat)(x, level)

    x, _ = start(20, together())
    level, cond = Level.of(0.5, 0.8), {"said": torch.ones(20, dtype=torch.bool)}
    got = Cfg(Told(), BOTH, lambda c: {"said": ~c["said"]}, 2.5)(x, level, cond)
    with_p, with_flat = Atoms(P)(x, level), Atoms(flat)(x, level)
    torch.testing.assert_close(got["place"].x0, 2.5 * with_p["place"].x0 - 1.5 * with_flat["place"].x0)
    want = (2.5 * with_p["kind"].x0 - 1.5 * with_flat["kind"].x0).exp()
    torch.testing.assert_close(got["kind"].x0.exp(), want / want.sum(-1, keepdim=True))


def test_what_is_known_of_one_part_is_told_to_the_other() -> None:
    """Kinds pinned: places are those of the kind. Places pinned: to the bit."""
    n = 3_000
    y = torch.randint(3, (n, 1), generator=torch.Generator().manual_seed(0))
    everywhere = torch.ones(n, 1, dtype=torch.bool)
    x = run(Known(Atoms(), BOTH, {"kind": y}, {"kind": everywhere}), together(), n)
    assert torch.equal(x["kind"], y)
    check(x, y.flatten().bincount().double() / n)
    place = torch.linspace(-2, 3, n, dtype=D)[:, None]
    x = run(Known(Atoms(), BOTH, {"place": place}, {"place": everywhere}), together(), n)
    assert torch.equal(x["place"], place)


def test_pinning_both_leaves_nothing_open_and_nests_with_guidance() -> None:
    n = 50
    y = {"place": torch.linspace(-2, 3, n, dtype=D)[:, None], "kind": torch.arange(n)[:, None] % 3}
    mask = {k: torch.arange(n)[:, None] < 30 for k in y}

    def null(cond: Any) -> Any:
        return cond

    a = run(Known(Cfg(Atoms(), BOTH, null, 2.0), BOTH, y, mask), together(10), n)
    b = run(Cfg(Known(Atoms(), BOTH, y, mask), BOTH, null, 2.0), together(10), n)
    for k in y:
        assert torch.equal(a[k][:30], y[k][:30])
        torch.testing.assert_close(b[k], a[k], rtol=1e-12, atol=1e-12)
        assert not torch.equal(a[k][30:], y[k][30:])


def test_binding_reaches_every_part() -> None:
    product = Product({"place": Gaussian(Padded()), "kind": UniformTokens(3)})
    mask = torch.tensor([[True, True, False], [True, False, False]])
    x = {"place": torch.zeros(2, 3, 1), "kind": torch.full((2, 3), 7)}
    for bound in (product.bind(mask), product.bind({"place": mask, "kind": mask})):
        noisy = bound.forward(x, CLEAN, Level.of(0.0, 1.0), Rng.of(range(2)))
        assert not bool(noisy["place"][~mask].any()) and bool(noisy["place"][mask].all())
        assert bool((noisy["kind"][~mask] == 7).all()) and bool((noisy["kind"][mask] < 3).all())


def test_errors_are_each_parts_own() -> None:
    x0 = {"place": torch.tensor([[1.0, 2.0]]), "kind": torch.tensor([[0, 2]])}
    x = {"place": torch.zeros(1, 2), "kind": torch.tensor([[3, 2]])}
    est = {"place": Estimate(torch.tensor([[0.5, 2.0]])), "kind": Estimate(P.float().log().expand(1, 2, 3))}
    errors = BOTH.error(est, x0, x)
    assert errors["place"].tolist() == [[0.25, 0.0]]
    torch.testing.assert_close(errors["kind"], torch.tensor([[math.log(2), 0.0]]))


def test_masking_schedules_serve_both_parts_through_one_level() -> None:
    """A level says keep = alpha^2 / (alpha^2 + sigma^2) to tokens and (alpha, sigma) to numbers."""
    n, level = 20_000, Masking()(torch.tensor(0.3, dtype=D))
    x = {"place": torch.ones(n, 1, dtype=D), "kind": torch.zeros(n, 1, dtype=torch.int64)}
    noisy = BOTH.forward(x, CLEAN, level, Rng.of(range(n)))
    assert float((noisy["kind"] == 3).double().mean()) == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / n))
    assert float(noisy["place"].mean()) == pytest.approx(math.sqrt(0.7), abs=4 * math.sqrt(0.3 / n))
    assert float(noisy["place"].var()) == pytest.approx(0.3, rel=4 * math.sqrt(2 / n))
