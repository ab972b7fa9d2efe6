"""Splits that keep together what belongs together: tiles of one picture, variants of one drawing, duplicates."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from unnoise.data.dataset import permutation
from unnoise.errors import UserError


def duplicates(x: Shaped[Tensor, "n ..."]) -> Int64[Tensor, " n"]:
    """For each item the number of the first one with the same bytes, int64 [N]: its own where it is the first."""
    first: dict[bytes, int] = {}
    return torch.tensor([first.setdefault(row.tobytes(), i) for i, row in enumerate(x.numpy())], dtype=torch.int64)


def split_groups(
    columns: Mapping[str, Tensor], group: Int64[Tensor, " n"], held_out: float, seed: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Train and held-out parts; a share of the groups, rounded, in a random order fixed by `seed`, is held out whole.

    Args:
        columns: raw data of N items.
        group: any number for each item; items of the same number go to the same part.
        held_out: share of the groups in [0, 1).
        seed: of the order.

    Raises:
        UserError: for a share that is none.
    """
    if not 0 <= held_out < 1:
        raise UserError(f"held_out is a share in [0, 1), got {held_out}")
    numbers, place = torch.unique(group, return_inverse=True)
    away = torch.zeros(len(numbers), dtype=torch.bool)
    away[permutation(len(numbers), seed)[: round(len(numbers) * held_out)]] = True
    return take(columns, ~away[place]), take(columns, away[place])


def take(columns: Mapping[str, Tensor], rows: Shaped[Tensor, " n"]) -> dict[str, Tensor]:
    """These rows of every column; `rows` are numbers or a mask."""
    return {k: v[rows] for k, v in columns.items()}


def limited(columns: Mapping[str, Tensor], limit: int | None, seed: int) -> dict[str, Tensor]:
    """So many items, chosen at random by `seed`, in their order; all where `limit` is None or not less than these."""
    n = len(columns["x"])
    if limit is None or limit >= n:
        return dict(columns)
    return take(columns, permutation(n, seed, 1)[:limit].sort().values)


def require_limit(limit: int | None) -> None:
    """Refuse a number of training pictures that is none; Raises UserError."""
    if limit is not None and limit < 1:
        raise UserError(f"limit is a number of training pictures >= 1, or None for all, got {limit}")
