"""The exact denoiser of a Markov chain against sums over all its sequences."""

import itertools

import pytest
import torch

from unnoise.core.exact_tokens import MarkovChain
from unnoise.core.level import Level

D = torch.float64
START = torch.tensor([0.5, 0.2, 0.3], dtype=D)
STEP = torch.tensor([[0.1, 0.6, 0.3], [0.7, 0.0, 0.3], [0.25, 0.25, 0.5]], dtype=D)
CHAIN = MarkovChain(START, STEP)
ALL = torch.tensor(list(itertools.product(range(3), repeat=4)))
P = START[ALL[:, 0]] * STEP[ALL[:, 0], ALL[:, 1]] * STEP[ALL[:, 1], ALL[:, 2]] * STEP[ALL[:, 2], ALL[:, 3]]
HALF = Level.of(0.6, 0.8)


def test_the_posterior_is_bayes_rule_over_all_sequences() -> None:
    """Every way of masking every possible sequence."""
    possible = ALL[P > 0]
    for hidden in itertools.product([False, True], repeat=4):
        x = possible.masked_fill(torch.tensor(hidden), 3)
        fits = ((x[:, None] == ALL) | (x[:, None] == 3)).all(-1) * P  # [rows, sequences]
        one_hot = torch.nn.functional.one_hot(ALL, 3).to(D)
        want = torch.einsum("rs,snv->rnv", fits, one_hot) / fits.sum(1)[:, None, None]
        torch.testing.assert_close(CHAIN(x, HALF).x0.exp(), want, rtol=1e-12, atol=1e-14)


def test_the_likelihood_is_that_of_each_sequence_and_a_sum_where_tokens_are_masked() -> None:
    torch.testing.assert_close(CHAIN.log_prob(ALL).exp(), P, rtol=1e-13, atol=0)
    x = torch.tensor([[3, 3, 3, 3], [0, 3, 3, 2], [3, 1, 3, 3]])
    fits = ((x[:, None] == ALL) | (x[:, None] == 3)).all(-1)
    torch.testing.assert_close(CHAIN.log_prob(x).exp(), (fits * P).sum(1), rtol=1e-13, atol=0)


def test_what_is_certain_is_certain_to_the_bit_and_levels_say_nothing() -> None:
    x = torch.tensor([[0, 3, 2, 3]])
    log_p = CHAIN(x, HALF).x0
    assert log_p[0, 0].tolist() == [0.0, -torch.inf, -torch.inf] and float(log_p[0, 2, 2]) == 0.0
    each = Level(torch.tensor([[0.9, 0.1, 0.5, 0.0]]), torch.tensor([[0.1, 0.9, 0.5, 1.0]]))
    assert torch.equal(CHAIN(x, each).x0, log_p)


def test_a_long_sequence_does_not_underflow() -> None:
    x = torch.full((1, 3000), 3)
    x[0, 1500] = 1
    log_p = CHAIN(x, HALF).x0
    ahead = START
    for _ in range(1499):
        ahead = ahead @ STEP
    want = ahead * STEP[:, 1]
    torch.testing.assert_close(log_p[0, 1499].exp(), want / want.sum(), rtol=1e-10, atol=0)
    torch.testing.assert_close(log_p[0, 1501].exp(), STEP[1], rtol=1e-10, atol=1e-14)


def test_what_are_not_probabilities_is_refused() -> None:
    with pytest.raises(ValueError, match="transition must hold probabilities"):
        MarkovChain(START, STEP * 2)
    with pytest.raises(ValueError, match="start must hold probabilities"):
        MarkovChain(torch.tensor([1.5, -0.5, 0.0], dtype=D), STEP)
