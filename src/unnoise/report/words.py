"""Figures and numbers in words: what a figure means, and a number in as many digits as it has."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from html import escape
from typing import Any

from unnoise.metrics.figure import Figure

MEANINGS: Mapping[str, str] = {
    r"infinit": "The distance extrapolated to infinitely many samples, so that their number no longer matters.",
    r"^fid|^fd|frechet": "Frechet distance between Normals fitted to features of samples and of real data. "
    "Lower is better; few samples raise it.",
    r"^kid": "Kernel distance of features (squared maximum mean discrepancy). Lower is better; an unbiased estimate, "
    "so around 0 it can be negative.",
    r"worst class": "The class that the judge reads least often as asked.",
    r"read as asked|agreement": "Share of samples that a judge, trained on real data, reads as what was asked for.",
    r"accuracy score|\bcas\b": "Share of real test items read right by a network that was trained on samples alone.",
    r"precision": "Share of samples that lie where real data lie. Higher is better: it falls with implausible samples.",
    r"recall": "Share of real items that lie where samples lie. Higher is better: it falls with missing variety.",
    r"density": "How many real neighbourhoods a sample lies in, on average; real data have about 1.",
    r"coverage": "Share of real items with a sample in their neighbourhood. Higher is better.",
    r"nearest neighbour.*accura|1-nna": "How often nearest neighbours tell samples from real data: 0.5 is not at all.",
    r"nearest|memori": "How near samples come to training items. Far below real data is copying, above is straying.",
    r"bits per": "Code length that the model needs for held-out data. Lower is better.",
    r"psnr": "Peak signal-to-noise ratio. Higher is better.",
    r"drift": "How far the mean of a channel is off. 0 is best.",
    r"stab": "Share whose bonds add up to allowed valences. Higher is better.",
    r"valid": "Share that is chemically valid. Higher is better.",
    r"unique": "Share of different ones among the valid. Higher is better.",
}
"""What a figure means, by a pattern that its name contains; the first that fits."""


def meaning(figure: Figure, own: Mapping[str, str] | None = None) -> str:
    """A sentence on what a figure means: one's own by its name, or else the first of `MEANINGS` that fits."""
    if own and figure.name in own:
        return own[figure.name]
    for pattern, sentence in MEANINGS.items():
        if re.search(pattern, figure.name, re.IGNORECASE):
            return sentence
    return "" if figure.real is None else "Measured alike on samples and on held-out real data: the nearer, the better."


def number(value: float | None, error: float | None = None) -> str:
    """A number as the table shows it: to two digits of its standard error, or else to four; "" for None.

    Integers of more digits are written out; beyond a million and below a ten thousandth there is an exponent.
    """
    if value is None:
        return ""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "\u221e" if value > 0 else "\u2212\u221e"
    has_error = error is not None and math.isfinite(error) and error > 0
    size = max(abs(value), error if has_error and error else 0.0)
    if size and not 1e-4 <= size < 1e6:
        shown = f"{value:.3e}" + (f" \u00b1 {error:.1e}" if has_error else "")
    else:
        last = math.floor(math.log10(error)) - 1 if has_error and error else math.floor(math.log10(size or 1)) - 3
        digits = min(8, max(0, -last))
        shown = f"{value:,.{digits}f}" + (f" \u00b1 {error:,.{digits}f}" if has_error else "")
    return shown.replace("-", "\u2212")


def finite(value: Any) -> bool:
    """Whether a chart can show it: a number, not NaN, not beyond what differences of floats can hold."""
    return isinstance(value, int | float) and math.isfinite(value) and abs(value) < 1e250


def short(value: float) -> str:
    """A number in few characters: 54400 is 54.4k, 0.00025 is 0.00025, 1e-7 is 1e-07."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if unit <= abs(value) < 1e3 * unit:
            return f"{value / unit:.4g}{name}".replace("-", "\u2212")
    return f"{0.0 if abs(value) < 1e-300 else value:.4g}".replace("-", "\u2212")


def escaped(value: Any) -> str:
    """Anything as text of a page, with a mark in the place of what neither XML nor UTF-8 can hold."""
    return escape(re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", "\ufffd", str(value)))
