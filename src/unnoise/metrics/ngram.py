"""N-gram models of tokens: the bits per token that a model of text must go below, and a judge of sampled text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor


class Bits(NamedTuple):
    """Bits per token of a text.

    Args:
        mean: over its tokens.
        standard_error: of that mean, from the spread of contiguous blocks: neighbouring tokens are not independent.
    """

    mean: float
    standard_error: float


@dataclass(frozen=True)
class Ngram:
    """Interpolated Kneser-Ney smoothing with one discount d.

        p_n(w | c) = max(C(c w) - d, 0) / C(c) + d N(c) / C(c) p_{n-1}(w | c without its first token),   C(c) > 0
        p_n(w | c) = p_{n-1}(w | c without its first token),                                            else
        p_0(w) = 1 / size

    C counts, for the full order, occurrences in the text, and below it the different tokens seen before (continuation
    counts); C(c) = sum_w C(c w), and N(c) is the number of different tokens after c. Each p_n sums to 1 over the
    vocabulary and is positive.

    Source: Kneser and Ney 1995, Improved backing-off for m-gram language modeling; interpolated: Chen and Goodman 1999,
    An empirical study of smoothing techniques for language modeling.

    Args:
        order: n >= 1: a token depends on the n - 1 before it.
        smoothing: the discount d in (0, 1).

    Raises:
        ValueError: for an order or a discount out of range.
    """

    order: int
    smoothing: float = 0.75

    def __post_init__(self) -> None:
        if self.order < 1:
            raise ValueError(f"order must be at least 1, got {self.order}")
        if not 0 < self.smoothing < 1:
            raise ValueError(f"smoothing must lie in (0, 1), got {self.smoothing}")

    def fit(self, ids: Int64[Tensor, " n"], size: int) -> Fitted:
        """The model of a text.

        Args:
            ids: [N] in 0..size - 1, N >= order.
            size: of the vocabulary.

        Raises:
            ValueError: if the text is too short, an id is out of range, or size^order exceeds 64 bits.
        """
        if len(ids) < self.order:
            raise ValueError(f"an {self.order}-gram needs at least {self.order} tokens, got {len(ids)}")
        if self.order * math.log2(size) >= 63:
            raise ValueError(f"{size}^{self.order} n-grams have no 64-bit number: take a lower order")
        _require_known(ids, size)
        # below the full order, each different token seen before an n-gram counts once
        seen = [torch.unique(_codes(ids, n + 1, size)) % size**n for n in range(1, self.order)]
        seen.append(_codes(ids, self.order, size))
        return Fitted(self, size, tuple(_Level.of(grams, size) for grams in seen))


@dataclass(frozen=True, eq=False)
class Fitted:
    """An n-gram model of a text; made by `Ngram.fit`.

    Args:
        model: what was fitted.
        size: of the vocabulary.
        levels: the counts of the orders 1 to model.order.
    """

    model: Ngram
    size: int
    levels: tuple[_Level, ...]

    def token_bits(self, ids: Int64[Tensor, " n"]) -> Float64[Tensor, " n"]:
        """-log2 p of each token given those before it, [N]; the first order - 1 tokens by the lower orders.

        Raises:
            ValueError: for an id out of range.
        """
        _require_known(ids, self.size)
        p = torch.full((len(ids),), 1 / self.size, dtype=torch.float64, device=ids.device)
        for n, level in enumerate(self.levels, 1):
            if n <= len(ids):
                p[n - 1 :] = level.interpolate(_codes(ids, n, self.size), p[n - 1 :], self.model.smoothing, self.size)
        return -p.log2()

    def bits(self, ids: Int64[Tensor, " n"], blocks: int = 20) -> Bits:
        """Bits per token of a held-out text.

            standard_error = std of the means of the blocks / sqrt(blocks)

        Args:
            ids: [N] in 0..size - 1, N >= blocks.
            blocks: contiguous, of equal length (up to one token); >= 2.

        Raises:
            ValueError: for fewer tokens than blocks, fewer than 2 blocks or an id out of range.
        """
        if not 2 <= blocks <= len(ids):
            raise ValueError(f"blocks must lie in [2, {len(ids)}] for {len(ids)} tokens, got {blocks}")
        found = self.token_bits(ids)
        means = torch.stack([b.mean() for b in found.tensor_split(blocks)])
        return Bits(found.mean().item(), (means.std() / math.sqrt(blocks)).item())


@dataclass(frozen=True, eq=False)
class _Level:
    """Counts of one order: of n-grams by their sorted codes, and of the contexts that they begin with."""

    codes: Int64[Tensor, " k"]
    counts: Int64[Tensor, " k"]
    contexts: Int64[Tensor, " c"]
    totals: Int64[Tensor, " c"]
    kinds: Int64[Tensor, " c"]

    @staticmethod
    def of(grams: Int64[Tensor, " m"], size: int) -> _Level:
        codes, counts = torch.unique(grams, return_counts=True)
        contexts, which, kinds = torch.unique(codes // size, return_inverse=True, return_counts=True)
        return _Level(codes, counts, contexts, torch.zeros_like(contexts).index_add_(0, which, counts), kinds)

    def interpolate(
        self, codes: Int64[Tensor, " m"], lower: Float64[Tensor, " m"], discount: float, size: int
    ) -> Float64[Tensor, " m"]:
        """p_n of n-grams, given p_{n-1}."""
        count = _look_up(codes, self.codes, self.counts)
        total = _look_up(codes // size, self.contexts, self.totals)
        kinds = _look_up(codes // size, self.contexts, self.kinds)
        p = ((count - discount).clamp(min=0) + discount * kinds * lower) / total.clamp(min=1)
        return torch.where(total > 0, p, lower)


def _codes(ids: Tensor, order: int, size: int) -> Tensor:
    """The number of each n-gram of a text, [N - order + 1]: its tokens as digits, the last one lowest."""
    codes = torch.zeros_like(ids[order - 1 :])
    for i in range(order):
        codes = codes * size + ids[i : len(ids) - order + 1 + i]
    return codes


def _look_up(codes: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The value of each code, 0 for one that is no key; float64, keys sorted."""
    at = torch.searchsorted(keys, codes).clamp(max=len(keys) - 1)
    return torch.where(keys[at] == codes, values[at], 0).double()


def _require_known(ids: Tensor, size: int) -> None:
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < size:
        raise ValueError(f"ids must lie in [0, {size - 1}], got {int(ids.min())}..{int(ids.max())}")
