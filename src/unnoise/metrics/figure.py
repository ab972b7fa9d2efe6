"""A measured number beside the same number of real data: as a value, as a table, for a file."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """A measured number beside that of real data.

    Args:
        name: what was measured.
        samples: of the samples: the mean over repeats.
        real: of held-out real data; None where there is no such thing.
        error: standard error of `samples` over repeats; None for a single one.
    """

    name: str
    samples: float
    real: float | None = None
    error: float | None = None


def figure(name: str, values: Sequence[float], real: float | None) -> Figure:
    """The figure of repeated measurements.

        samples = sum_i v_i / n, error = sqrt(sum_i (v_i - samples)^2 / (n (n - 1)))

    There is no error for n = 1 and for values that are not finite.

    Args:
        name: what was measured.
        values: of n >= 1 repeats.
        real: the same of held-out real data, None where there is no such thing.

    Raises:
        ValueError: for no values.
    """
    if not values:
        raise ValueError(f"the figure {name!r} needs at least one value")
    finite = all(math.isfinite(v) for v in values)
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 and finite else None
    return Figure(name, sum(values) / len(values), real, error)


def table(figures: Sequence[Figure]) -> str:
    """The figures as text: samples, real data, and the ratio of the two."""
    width = max(len(f.name) for f in figures)
    lines = [f"{'':{width}}  {'samples':>17}  {'real data':>9}  {'ratio':>6}"]
    for f in figures:
        error = f" +- {f.error:.4f}" if f.error is not None else ""
        real = f"{f.real:9.4f}" if f.real is not None else ""
        ratio = f"{f.samples / f.real:6.2f}" if f.real else ""
        lines.append(f"{f.name:{width}}  {f.samples:.4f}{error:>11}  {real:>9}  {ratio:>6}")
    return "\n".join(lines)


def as_json(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    """The figures for a file."""
    return [asdict(f) for f in figures]
