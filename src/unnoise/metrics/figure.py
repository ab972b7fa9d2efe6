"""A measured number beside the same number of real data: as a value, as a table, for a file; and two of them compared.

An error is always a standard error: the standard deviation of the number over measurements like this one.
"""

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
        error: standard error of `samples`; None where it is not known.
        real_error: standard error of `real`; None where it is not known.
    """

    name: str
    samples: float
    real: float | None = None
    error: float | None = None
    real_error: float | None = None

    @property
    def ratio(self) -> float | None:
        """samples / real; None where real data are not clearly above 0: to divide by what is around 0 says nothing."""
        if self.real is None or not (math.isfinite(self.samples) and math.isfinite(self.real)):
            return None
        return self.samples / self.real if self.real > 2 * (self.real_error or 0.0) else None


@dataclass(frozen=True)
class Comparison:
    """One number measured twice.

    Args:
        name: what was measured.
        a: the one figure.
        b: the other.
        difference: b.samples - a.samples.
        error: standard error of the difference; None where a or b has none.
        p: two-sided: how often chance alone makes a difference as large, by a Normal; None without an error.
    """

    name: str
    a: Figure
    b: Figure
    difference: float
    error: float | None
    p: float | None


def figure(
    name: str,
    values: Sequence[float],
    real: float | None,
    errors: Sequence[float] | None = None,
    real_error: float | None = None,
) -> Figure:
    """The figure of repeated measurements.

        samples = sum_i v_i / n, error = sqrt(sum_i (v_i - samples)^2 / (n (n - 1))) for n > 1, errors[0] for n = 1

    Repeats share what they are compared with (the real data, the judge), whose own sampling error they do not show; a
    metric's own standard error may. There is no error for values that are not finite.

    Args:
        name: what was measured.
        values: of n >= 1 repeats.
        real: the same of held-out real data, None where there is no such thing.
        errors: the metric's own standard errors, one a repeat; None where it states none.
        real_error: standard error of `real`.

    Raises:
        ValueError: for no values, or as many errors as there are not values.
    """
    if not values:
        raise ValueError(f"the figure {name!r} needs at least one value")
    if errors is not None and len(errors) != len(values):
        raise ValueError(f"the figure {name!r} has {len(values)} values and {len(errors)} errors")
    error = None
    if all(math.isfinite(v) for v in values):
        if len(values) > 1:
            error = statistics.stdev(values) / math.sqrt(len(values))
        elif errors is not None:
            error = _known(errors[0])
    return Figure(name, sum(values) / len(values), real, error, _known(real_error))


def compare(a: Figure, b: Figure) -> Comparison:
    """Is the second figure another than the first, or does chance explain the difference?

        difference = b - a, error = sqrt(error_a^2 + error_b^2), p = erfc(|difference| / (sqrt(2) error))

    For independent measurements. From few repeats the errors are themselves uncertain and p is too small: at three a
    Normal's 0.05 is Student's 0.12.

    Raises:
        ValueError: where the figures have different names.
    """
    if a.name != b.name:
        raise ValueError(f"{a.name!r} and {b.name!r} are different figures")
    difference = b.samples - a.samples
    if a.error is None or b.error is None:
        return Comparison(a.name, a, b, difference, None, None)
    error = math.hypot(a.error, b.error)
    if error:
        p = math.erfc(abs(difference) / (math.sqrt(2) * error))
    else:
        p = float(difference == 0)
    return Comparison(a.name, a, b, difference, error, p)


def table(figures: Sequence[Figure]) -> str:
    """The figures as text: samples, real data, and the ratio of the two."""
    rows = [["", "samples", "real data", "ratio"]]
    for f in figures:
        ratio = "" if f.ratio is None else f"{f.ratio:.2f}"
        rows.append([f.name, shown(f.samples, f.error), shown(f.real, f.real_error), ratio])
    return _aligned(rows)


def comparison(found: Sequence[Comparison], a: str = "a", b: str = "b") -> str:
    """Comparisons as text, a and b being what the columns are called: both figures, b - a, and p."""
    rows = [["", a, b, "difference", "p"]]
    for c in found:
        p = "" if c.p is None else "< 0.0001" if c.p < 1e-4 else f"{c.p:.4f}"
        numbers = [shown(f.samples, f.error) for f in (c.a, c.b)]
        rows.append([c.name, *numbers, shown(c.difference, c.error), p])
    return _aligned(rows)


def as_json(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    """The figures for a file; `Figure(**row)` reads a row, also of files written before `real_error` was there."""
    return [asdict(f) for f in figures]


def _known(error: float | None) -> float | None:
    return error if error is not None and math.isfinite(error) else None


def shown(value: float | None, error: float | None) -> str:
    """Four decimals, or two more digits than the leading one of what is too small for them."""
    if value is None:
        return ""
    text = f"{value:.4f}" if not value or abs(value) >= 0.01 else f"{value:.2e}"
    if error is None:
        return text
    return f"{text} +- {error:.4f}" if not error or error >= 0.001 else f"{text} +- {error:.1e}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns of text, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in rows
    )
