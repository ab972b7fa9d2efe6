"""Figures and numbers in words: what a figure means, and a number in as many digits as it has."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from unnoise.metrics.figure import Figure

MEANINGS: Mapping[str, str] = {
    r"accuracy score.*worst class": "The same share in the class where it is lowest.",
    r"accuracy score|\bcas\b": "Share of held-out real items read right by a classifier that learned from samples "
    "alone; beside it, by one that learned from as many real items. What samples lack it does not learn.",
    r"worst class": "The same share in the class that the judge reads least often as asked.",
    r"^all read as asked": "Share of samples of which a judge, trained on real data, reads every attribute as asked.",
    r"read as asked|agreement": "Share of samples that a judge, trained on real data, reads as what was asked for.",
    r"infinit": "The distance extrapolated to infinitely many samples, so that their number no longer matters; "
    "around 0 it can be negative.",
    r"to half of the real": "Frechet distance between Normals fitted to features of samples and of random halves of "
    "the real data; beside it, between two halves. Lower is better.",
    r"\bfid\b|\bfd\b|frechet": "Frechet distance between Normals fitted to features of samples and of real data. "
    "Lower is better; few samples raise it.",
    r"\bkid\b": "Kernel distance of features (squared maximum mean discrepancy). Lower is better; an unbiased "
    "estimate, so around 0 it can be negative.",
    r"nearest neighbour.*accura|1-nn": "How often nearest neighbours tell samples from real data: 0.5 is not at all.",
    r"minimum matching": "Mean distance of held-out items to the sample nearest to each. Lower is better.",
    r"\bprecision\b": "Share of samples that lie where real data lie. Higher is better: it falls with implausible "
    "samples.",
    r"\brecall\b": "Share of real items that lie where samples lie. Higher is better: it falls with missing variety.",
    r"\bdensity\b": "How many real neighbourhoods a sample lies in, on average; real data have about 1.",
    r"coverage, ": "Share of held-out items that are nearest to some sample. Higher is better.",
    r"\bcoverage\b": "Share of real items with a sample in their neighbourhood. Higher is better.",
    r"\bnearer than": "Share of samples so near to a training item as only the nearest few of held-out items are. "
    "Well above real data is copying.",
    r"\bnearest\b|memori": "How near samples come to training items: the median distance, of pictures reduced to at "
    "most 16 pixels a side. Far below real data is copying, above is straying.",
    r"bits per .*independent": "Code length of elements that do not know of each other: what a model has to beat.",
    r"bits per": "Code length that the model needs for held-out data. Lower is better.",
    r"read by the .*gram": "Bits per token that counts of neighbouring tokens need for samples: far below real text is "
    "trite, above is garbled.",
    r"gram of the training": "Bits per token that counts of neighbouring tokens need for held-out text: what a model "
    "has to beat.",
    r"autoregressive": "Bits per token that the same network, trained to guess each next token, needs for held-out "
    "text.",
    r"psnr .*(\bmeans\b|upsampling)": "Peak signal-to-noise ratio of a way that learns nothing: what a model has to "
    "beat.",
    r"psnr": "Peak signal-to-noise ratio. Higher is better.",
    r"\bdrift\b": "How far the mean of a channel is off. 0 is best.",
    r"area mean": "How far enlarged pictures, made small again, are from the small ones. 0 is best.",
    r"bond lengths": "Distance between the lengths of these bonds and those in training molecules, in angstrom. "
    "Lower is better.",
    r"\bstab": "Share whose bonds add up to allowed valences. Higher is better.",
    r"\bunique\b": "Share of different ones among the valid. Higher is better.",
    r"\bnew\b": "Share of the valid that are no training item.",
    r"\bvalid": "Share that is chemically valid. Higher is better.",
}
"""What a figure means, by a pattern that its name contains; the first that fits."""

FEATURES: Mapping[str, str] = {
    r"judge": "the last layer of the judge, a classifier that learned from the real data",
    r"means(\d+)": "mean colours in {0} x {0} cells, which tell composition and nothing of what is shown",
    r"\d+": "so many features of the Inception network",
    r"fid": "2,048 features of the Inception network",
}
"""What a figure compares, by what its name ends in: see `features`."""

COMPARED = re.compile(r"\b(?:fd|kid|precision|recall|density|coverage)-([A-Za-z0-9_]+)|\b(fid)\b", re.IGNORECASE)
AT_COST = re.compile(r"^(teacher, )?([\d,]+) evaluations?: ")
OF_ALL = re.compile(r"^f.*\bof ([\d,]+)$")


def meaning(figure: Figure, own: Mapping[str, str] | None = None) -> str:
    """A sentence on what a figure means: one's own by its name, or else the first of `MEANINGS` that fits.

    What stands before and after the measure's own name is told in sentences of its own: of how many evaluations of the
    network the samples are, and of how many samples the distance.
    """
    if own and figure.name in own:
        return own[figure.name]
    cost, name = AT_COST.match(figure.name), AT_COST.sub("", figure.name)
    known = next((v for k, v in MEANINGS.items() if re.search(k, name, re.IGNORECASE)), "")
    if not known and figure.real is not None:
        known = "Measured alike on samples and on held-out real data: the nearer, the better."
    said = [known] if known else []
    if found := OF_ALL.match(name):
        said.append(f"Of all {found[1]} samples: real data are fewer, so that none stand beside.")
    if cost:
        count = f"{cost[2]} evaluation{'' if cost[2] == '1' else 's'} of the network"
        said.append(f"{'Samples of the teacher' if cost[1] else 'Samples'} at {count} each.")
    return " ".join(said)


def is_distance(name: str) -> bool:
    """Whether a figure goes by orders of magnitude as training goes on; shares do not."""
    return bool(re.search(r"\b(fid|fd|kid)\b|distance", name, re.IGNORECASE))


def features(figures: Sequence[Figure]) -> dict[str, str]:
    """What the figures compare, by what their names end in, in the order of the table; only what is known."""
    out: dict[str, str] = {}
    for f in figures:
        for name in ("".join(groups) for groups in COMPARED.findall(f.name)):
            for pattern, said in FEATURES.items():
                if found := re.fullmatch(pattern, name):
                    out.setdefault("a number" if name.isdecimal() else name, said.format(*found.groups()))
                    break
    return out


def ratio(figure: Figure) -> str:
    """`Figure.ratio` in as many digits as the errors of both allow; "" for None."""
    value, b = figure.ratio, figure.real
    if value is None or b is None:
        return ""
    error = math.hypot((figure.error or 0.0) / b, value * (figure.real_error or 0.0) / b)
    if value and not 1e-3 <= abs(value) < 1e5:
        return re.sub(r"e([+-])0", r"e\1", f"{value:.0e}").replace("e+", "e").replace("-", "\u2212")
    if not 0 < error < math.inf:
        return number(value)
    digits = min(4, max(0, -math.floor(math.log10(error))))
    return f"{value:,.{digits}f}".replace("-", "\u2212")


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
        shown = f"{round(value, digits) + 0.0:,.{digits}f}" + (f" \u00b1 {error:,.{digits}f}" if has_error else "")
    return shown.replace("-", "\u2212")


def finite(value: Any) -> bool:
    """Whether a chart can show it: a number, not NaN, not beyond what differences of floats can hold."""
    return isinstance(value, int | float) and math.isfinite(value) and abs(value) < 1e250


def short(value: float) -> str:
    """A number in few characters: 54400 is 54.4k, 0.00025 is 0.00025, 1e-7 is 1e-7."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if unit <= abs(value) < 1e3 * unit:
            return f"{value / unit:.4g}{name}".replace("-", "\u2212")
    text = re.sub(r"e([+-])0", r"e\1", f"{0.0 if abs(value) < 1e-300 else value:.4g}")
    return text.replace("e+", "e").replace("-", "\u2212")


def escaped(value: Any) -> str:
    """Anything as text of a page, with a mark in the place of what neither XML nor UTF-8 can hold."""
    return escape(re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", "\ufffd", str(value)))
