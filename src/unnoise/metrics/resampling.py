"""Standard errors of single measurements: what they would vary by over other samples alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Bool, Float64, Integer
from torch import Tensor


class Estimate(NamedTuple):
    """A number and its standard error.

    Args:
        value: what was measured.
        error: standard deviation of the value over measurements like this one.
    """

    value: float
    error: float


def jackknife(left_out: Float64[Tensor, " g"]) -> float:
    """Variance of a statistic, from its values with each of G >= 2 equal groups of rows left out, [G].

        (G - 1) / G sum_g (v_g - mean)^2

    Source: Efron and Stein 1981, "The jackknife estimate of variance"; it is too large rather than too small.

    Raises:
        ValueError: for fewer than 2 groups.
    """
    if len(left_out) < 2:
        raise ValueError(f"a jackknife needs at least 2 groups, got {len(left_out)}")
    return ((len(left_out) - 1) / len(left_out) * (left_out - left_out.mean()).square().sum()).item()


def share(right: Bool[Tensor, " n"]) -> Estimate:
    """Share of rows that are True, of N >= 1 independent ones.

        error = sqrt(p (1 - p) / n), p = (r + 2) / (n + 4): not 0 where all or none are True

    Source: Agresti and Coull 1998, "Approximate is better than 'exact' for interval estimation".

    Raises:
        ValueError: for no rows.
    """
    n = len(right)
    if not n:
        raise ValueError("a share needs at least one row")
    value = int(right.sum()) / n
    return Estimate(value, share_error(value, n))


def share_error(value: float, n: int) -> float:
    """Standard error of a share in [0, 1] of n independent rows, as `share` states it."""
    p = (value * n + 2) / (n + 4)
    return math.sqrt(p * (1 - p) / n)


def worst_share(right: Bool[Tensor, " n"], classes: Integer[Tensor, " n"]) -> tuple[int, Estimate]:
    """The class with the least share of True rows, and that share; the first of several.

    The least of many shares lies below the least true share by chance alone; its error does not say so.

    Raises:
        ValueError: for no rows.
    """
    found: Sequence[tuple[int, Estimate]] = [
        (int(c), share(right[classes == c])) for c in sorted(set(classes.tolist()))
    ]
    if not found:
        raise ValueError("a share needs at least one row")
    return min(found, key=lambda pair: pair[1].value)
