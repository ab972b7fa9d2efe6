"""N-grams: the definition word by word, chains of known entropy, and Shakespeare."""

import gzip
import math
import os
from pathlib import Path

import pytest
import torch

from unnoise.metrics.ngram import Ngram


def draw(n: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(size, (n,), generator=torch.Generator().manual_seed(seed))


def by_definition(text: list[int], context: tuple[int, ...], w: int, order: int, d: float, size: int) -> float:
    """Kneser-Ney by sets of n-grams, token by token."""

    def grams(n: int) -> list[tuple[int, ...]]:
        return [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]

    def p(context: tuple[int, ...]) -> float:
        n = len(context) + 1
        seen = grams(n) if n == order else [g[1:] for g in set(grams(n + 1))]
        lower = p(context[1:]) if context else 1 / size
        counts = [seen.count((*context, t)) for t in range(size)]
        if not sum(counts):
            return lower
        kinds = sum(c > 0 for c in counts)
        return (max(counts[w] - d, 0) + d * kinds * lower) / sum(counts)

    return p(context)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_agreement_with_the_definition(order: int) -> None:
    text, held_out = draw(20, 4), draw(40, 5, seed=1)  # token 4 is never seen
    found = Ngram(order, 0.6).fit(text, 5).token_bits(held_out)
    for i, bits in enumerate(found.tolist()):
        context = tuple(held_out[max(0, i - order + 1) : i].tolist())
        p = by_definition(text.tolist(), context, int(held_out[i]), order, 0.6, 5)
        assert 2**-bits == pytest.approx(p, rel=1e-12), i


@pytest.mark.parametrize("order", [1, 2, 4])
def test_probabilities_sum_to_one_after_every_context(order: int) -> None:
    fitted = Ngram(order).fit(draw(50, 3), 4)
    for context in torch.cartesian_prod(*[torch.arange(4)] * 3):
        p = [2 ** -fitted.token_bits(torch.cat([context, torch.tensor([w])]))[-1].item() for w in range(4)]
        assert sum(p) == pytest.approx(1, abs=1e-12)
        assert min(p) > 0


def test_bigrams_by_hand() -> None:
    """Text 0 0 1 0: after 0 come 0 and 1, once each; after 1 comes 0. Seen before 0: 0 and 1; before 1: 0."""
    d = 0.5
    p_0 = (2 - d + d * 2 / 2) / 3
    p_00 = (1 - d) / 2 + d * 2 / 2 * p_0
    p_10 = (1 - d) / 1 + d * 1 / 1 * p_0
    found = Ngram(2, d).fit(torch.tensor([0, 0, 1, 0]), 2).token_bits(torch.tensor([0, 0, 1, 0]))
    assert (2**-found).tolist() == pytest.approx([p_0, p_00, 1 - p_00, p_10])


def test_a_chain_of_known_entropy() -> None:
    """Each token is the one before it plus 0 (probability 1/2), 1 or 2 (1/4 each): 1.5 bits for a bigram or more, and
    log2(16) = 4 without context."""
    step = torch.tensor([0, 0, 1, 2])
    train, held_out = (step[draw(100_000, 4, seed=s)].cumsum(0) % 16 for s in (1, 2))
    for order, entropy in ((1, 4.0), (2, 1.5), (3, 1.5)):
        bits = Ngram(order).fit(train, 16).bits(held_out)
        assert bits.mean == pytest.approx(entropy, abs=0.01)
    independent = math.sqrt(0.25 / 100_000)  # the bits of a token are 1 or 2, equally often
    assert Ngram(2).fit(train, 16).bits(held_out, 100).standard_error == pytest.approx(independent, rel=0.25)


def test_names_of_tokens_do_not_matter() -> None:
    train, held_out, renamed = draw(500, 6).cumsum(0) % 6, draw(100, 6, 1), torch.tensor([3, 5, 0, 1, 4, 2])
    assert Ngram(3).fit(train, 6).bits(held_out) == pytest.approx(
        Ngram(3).fit(renamed[train], 6).bits(renamed[held_out])
    )


@pytest.mark.parametrize(("order", "bits"), [(1, 4.829), (2, 3.583), (3, 2.945), (5, 2.260)])
def test_shakespeare(order: int, bits: float) -> None:
    """Characters of tinyshakespeare, the last tenth held out. Counts with one added give 3.581 for bigrams; a tenth
    added, 2.951 for trigrams."""
    if not os.environ.get("UNNOISE_DATA"):
        pytest.skip("UNNOISE_DATA names no folder of data")
    with gzip.open(Path(os.environ["UNNOISE_DATA"]) / "text" / "tinyshakespeare.txt.gz") as f:
        raw = torch.frombuffer(bytearray(f.read()), dtype=torch.uint8)
    characters, ids = raw.unique(return_inverse=True)
    n = len(ids) * 9 // 10
    found = Ngram(order).fit(ids[:n], len(characters)).bits(ids[n:])
    assert found.mean == pytest.approx(bits, abs=0.001)
    assert {2: abs(found.mean - 3.58), 3: abs(found.mean - 2.95)}.get(order, 0) < 0.03
    assert 0.01 < found.standard_error < 0.05


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="order must be at least 1"):
        Ngram(0)
    for d in (0.0, 1.0):
        with pytest.raises(ValueError, match=r"smoothing must lie in \(0, 1\)"):
            Ngram(2, d)
    x = draw(30, 3)
    with pytest.raises(ValueError, match="needs at least 4 tokens, got 3"):
        Ngram(4).fit(x[:3], 3)
    with pytest.raises(ValueError, match="no 64-bit number"):
        Ngram(8).fit(x, 50_000)
    with pytest.raises(ValueError, match=r"ids must lie in \[0, 1\], got 0..2"):
        Ngram(2).fit(x, 2)
    with pytest.raises(ValueError, match="blocks must lie in"):
        Ngram(2).fit(x, 3).bits(x, 1)
    with pytest.raises(ValueError, match=r"got -1..0"):
        Ngram(2).fit(x, 3).bits(torch.tensor([0, -1]), 2)
