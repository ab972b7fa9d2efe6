"""What is known: conditional distributions of tokens, values held to the bit, guidance inside and outside."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from unnoise.core.discrete import Absorbing, UniformTokens
from unnoise.core.estimate import Estimate
from unnoise.core.exact import Normal
from unnoise.core.exact_tokens import MarkovChain
from unnoise.core.level import Level
from unnoise.core.process import Gaussian
from unnoise.core.rng import Rng
from unnoise.core.schedule import Cosine, Masking
from unnoise.guide import Cfg, Known
from unnoise.sample import Ancestral, Euler
from unnoise.sample.driver import sample
from unnoise.sample.grids import RollingGrid, UniformGrid

D = torch.float64
EVERYWHERE = (-math.inf, math.inf)
START = torch.tensor([0.4, 0.25, 0.35], dtype=D)
STEPS = [
    torch.tensor([[0.1, 0.6, 0.3], [0.7, 0.05, 0.25], [0.2, 0.2, 0.6]], dtype=D),
    torch.tensor([[0.5, 0.3, 0.2], [0.3, 0.4, 0.3], [0.0, 0.2, 0.8]], dtype=D),
]
CHAINS = [MarkovChain(START, step) for step in STEPS]
ALL = torch.tensor(list(itertools.product(range(3), repeat=4)))
MASK = torch.tensor([[False, True, False, True]])
Y = torch.tensor([[9, 2, 9, 0]])  # what stands where nothing is known does not count


class Told:
    """The chain of the class that is asked for; "nothing said" is the other one."""

    def __call__(self, x: Tensor, level: Any, cond: Any = None, *, to: Any = None) -> Estimate:
        both = torch.stack([chain(x, level).x0 for chain in CHAINS])
        return Estimate(both[cond["label"], torch.arange(len(x))])


def null(cond: Any) -> dict[str, Tensor]:
    return {"label": torch.ones_like(cond["label"])}


def run(denoise: Any, levels: Level, n: int, process: Any = Absorbing(3)) -> Tensor:
    x = process.forward(torch.zeros(n, 4, dtype=torch.int64), levels.at(-1), levels.at(0), Rng.of(range(n)).fold(9))
    cond = {"label": torch.zeros(n, dtype=torch.int64)}
    *_, last = sample(Ancestral(), process, denoise, x, levels, Rng.of(range(n)), cond)
    return last.x


def known(denoise: Any, n: int, process: Any = Absorbing(3), y: Tensor = Y, mask: Tensor = MASK) -> Known:
    return Known(denoise, process, y.expand(n, -1), mask.expand(n, -1))


def in_turn() -> Level:
    return RollingGrid(count=4, grid=UniformGrid(Masking()))(1, EVERYWHERE)


def close(x: Tensor, p: Tensor) -> None:
    """The sequences occur as often as p says: Pearson's chi^2 within 4 standard deviations."""
    counts = (x * torch.tensor([27, 9, 3, 1])).sum(1).bincount(minlength=81).double()
    assert not bool(counts[p == 0].any())
    expected = len(x) * p[p > 0]
    chi, freedom = float(((counts[p > 0] - expected) ** 2 / expected).sum()), len(expected) - 1
    assert float(expected.min()) > 5 and abs(chi - freedom) < 4 * math.sqrt(2 * freedom)


def given(log_p: Tensor) -> Tensor:
    """p(sequence | what is known)."""
    fits = ((ALL == Y) | ~MASK).all(1)
    p = log_p.exp() * fits
    return p / p.sum()


def test_in_filling_draws_from_the_chain_given_what_is_known() -> None:
    x = run(known(Told(), 8_000), in_turn(), 8_000)
    close(x, given(CHAINS[0].log_prob(ALL)))


def test_guided_in_filling_is_the_same_in_either_nesting() -> None:
    """To the bit; and it is not the unguided one."""
    process, levels, n = Absorbing(3), in_turn(), 2_000
    x = run(known(Cfg(Told(), process, null, 2.0), n), levels, n)
    assert bool((x[:, MASK[0]] == Y[:, MASK[0]]).all())
    assert torch.equal(x, run(Cfg(known(Told(), n), process, null, 2.0), levels, n))
    assert not torch.equal(x, run(known(Told(), n), levels, n))


def test_guidance_at_the_last_unknown_token_is_the_product_of_powers() -> None:
    """With all but one known: p(x_3 | rest) of the class squared over that without."""
    mask, y = torch.tensor([[True, True, False, True]]), torch.tensor([[1, 2, 0, 1]])
    n = 8_000
    x = run(known(Cfg(Told(), Absorbing(3), null, 2.0), n, y=y, mask=mask), in_turn(), n)
    p, q = (step[2] * step[:, 1] for step in STEPS)
    assert q.tolist()[0] == 0 and not bool((x[:, 2] == 0).any())  # what one of the two forbids stays forbidden
    want = (p**2 / q)[1:]
    expected = n * want / want.sum()
    counts = x[:, 2].bincount(minlength=3).double()[1:]
    assert float(((counts - expected) ** 2 / expected).sum()) < 16


def test_known_tokens_are_seen_from_the_start_and_kept_under_any_noise() -> None:
    for process in (Absorbing(3), UniformTokens(3)):
        seen: list[Tensor] = []

        def spy(x: Tensor, level: Any, cond: Any = None, *, to: Any = None, seen: Any = seen) -> Estimate:
            seen.append(x)
            return Estimate(torch.zeros(*x.shape, 3).log_softmax(-1))

        x = run(known(spy, 50, process), UniformGrid(Masking())(5, EVERYWHERE), 50, process)
        assert bool((x[:, MASK[0]] == Y[:, MASK[0]]).all()) and bool((x < 3).all())
        assert len(seen) == 5 and all(bool((s[:, MASK[0]] == Y[:, MASK[0]]).all()) for s in seen)


@pytest.mark.parametrize("sampler", [Ancestral(), Ancestral(eta=0.0), Euler()], ids=str)
def test_gaussian_states_end_in_what_is_known_to_the_bit_in_either_nesting(sampler: Any) -> None:
    class Means:
        def __call__(self, x: Tensor, level: Any, cond: Any = None, *, to: Any = None) -> Estimate:
            return Normal(cond["c"][:, None], 0.4)(x, level)

    def nothing(cond: Any) -> dict[str, Tensor]:
        return {"c": torch.zeros_like(cond["c"])}

    process, rng = Gaussian(), Rng.of(range(3))
    y = rng.fold(1).normal(torch.zeros(3, 4, dtype=D))
    mask, cond = MASK.expand(3, 4), {"c": torch.tensor([0.5, -1.0, 2.0], dtype=D)}
    levels = Cosine(0.0)(torch.linspace(1, 0, 9, dtype=D))
    x = rng.fold(2).normal(y)
    ends = []
    for denoise in (
        Known(Cfg(Means(), process, nothing, 2.0), process, y, mask),
        Cfg(Known(Means(), process, y, mask), process, nothing, 2.0),
        Cfg(Means(), process, nothing, 2.0),
    ):
        *_, last = sample(sampler, process, denoise, x, levels, rng, cond)
        ends.append(last.x)
    assert torch.equal(ends[0][mask], y[mask])
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-13, atol=1e-13)
    assert torch.equal(ends[0][~mask], ends[2][~mask])  # independent elements: the rest is as if nothing were known
    assert not torch.equal(ends[2][mask], y[mask])


def test_the_trained_interval_is_that_of_what_is_inside() -> None:
    class Trained(Told):
        interval = (-3.0, 4.0)

    assert known(Trained(), 1).interval == (-3.0, 4.0) and known(Told(), 1).interval is None
