"""Which of one's own pictures are held out: a share of every class, and never a copy of what is trained on."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from unnoise.data.dataset import permutation


def held_out_rows(
    group: Int64[Tensor, " n"], label: Int64[Tensor, " n"], share: float, seed: int
) -> Bool[Tensor, " n"]:
    """Which items are held out: the share of the groups, as evenly over the classes as it goes, one at the least.

    Of a class of m groups between floor(share m) and ceil(share m) are held out, and one stays to be trained on; which
    ones is random, fixed by `seed`.

    Args:
        group: any number for each item; items of the same number stay together, in the class of the first.
        label: class of each; zeros where there are none.
        share: in [0, 1).
        seed: of the choice.
    """
    numbers, place = torch.unique(group, return_inverse=True)
    first = torch.full((len(numbers),), len(group)).scatter_reduce(0, place, torch.arange(len(group)), "amin")
    kind = label[first]
    order = permutation(len(numbers), seed)
    order = order[kind[order].argsort(stable=True)]
    order = order[kind.bincount()[kind[order]] > 1] if len(order) else order
    ends = (torch.arange(1 + len(order), dtype=torch.float64) * share + 0.5).floor()
    chosen = ends.diff() > 0  # every 1 / share-th of a row in which classes follow each other
    last = kind[order].diff(append=torch.tensor([-1])) != 0
    chosen &= ~(last & (chosen.long().cumsum(0) - _before(chosen, last) == _lengths(last)))
    if share > 0 and len(order) and not bool(chosen.any()):
        chosen[0] = True
    away = torch.zeros(len(numbers), dtype=torch.bool)
    away[order[chosen]] = True
    return away[place]


def _lengths(last: Bool[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """Items up to each in its run; `last` marks the ends of runs."""
    at = torch.arange(1, len(last) + 1)
    return at - _carried(torch.where(last, at, 0))


def _before(chosen: Bool[Tensor, " n"], last: Bool[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """How many were chosen before the run of each."""
    return _carried(torch.where(last, chosen.long().cumsum(0), 0))


def _carried(ends: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """The greatest of what stands before each."""
    return torch.cat([ends.new_zeros(1), ends.cummax(0).values[:-1]]) if len(ends) else ends
