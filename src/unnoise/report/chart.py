"""Line charts as SVG text: an axis below, an axis at the left, a legend; colours are the page's, by class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unnoise.report.words import escaped, finite, short

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 80, 22, 34, 50
"""Margins around the plot; the legend lies in the upper one."""
KEY, LETTER, GAP = 44, 7.2, 16
"""What a series takes in the legend, what each letter of its name adds, and what lies between two where it fits."""
DOTTED = 40
"""Series of more points than this are lines without dots."""
KINDS = 4
"""Of colours, dashes and dots: further lines begin anew."""
DOTS = {"s1": (-3.5, -3.5, "h7v7h-7z"), "s2": (0, -3.5, "l3.5 7h-7z"), "s3": (0, -4.5, "l4 4.5l-4 4.5l-4-4.5z")}
"""Where the path of a dot begins, from its middle, and how it goes on; s0 is a circle."""
DECADE = 30.0
"""Positive values whose largest is so many times the smallest have a logarithmic axis."""


@dataclass(frozen=True)
class Series:
    """A line of a chart.

    Args:
        name: for the legend.
        points: (x, y), x not falling; None and what is not finite is a gap.
        errors: standard errors of y, one a point, None for a point without; empty for a line without.
    """

    name: str
    points: Sequence[tuple[Any, Any]]
    errors: Sequence[Any] = ()

    def __post_init__(self) -> None:
        if self.errors and len(self.errors) != len(self.points):
            raise ValueError(f"{self.name}: {len(self.errors)} errors for {len(self.points)} points")


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    log: bool = False

    @staticmethod
    def over(values: Sequence[float], log: bool) -> _Axis:
        """Holds all values, with a margin; never empty."""
        low, high = min(values), max(values)
        if log:
            margin = high**0.05 / low**0.05
            return _Axis(max(low / margin, 5e-324), high * margin, True)
        margin = 0.05 * (high - low)
        if high - low <= max(1e-9 * max(abs(low), abs(high)), 1e-290):
            margin = 0.1 * abs(low) if abs(low) > 1e-290 else 1.0
        return _Axis(low - margin, high + margin)

    def __call__(self, value: float) -> float:
        """Where a value lies, from 0 to 1."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(max(value, low))
        return min(1.0, max(0.0, (value - low) / (high - low)))

    def ticks(self) -> list[float]:
        """Two to ten round numbers within."""
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            if last - first > 3:
                powers = [10.0**k for k in range(first, last + 1, math.ceil((last - first) / 6))]
            else:
                powers = [m * 10.0**k for k in range(first, last + 1) for m in (1, 2, 5)]
            return [v for v in powers if self.low <= v <= self.high]
        raw = (self.high - self.low) / 6
        unit = 10.0 ** math.floor(math.log10(raw))
        step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= raw * (1 - 1e-9))
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [k * step for k in range(first, last + 1)]


def chart(
    title: str, x: str, y: str, series: Sequence[Series], ticks: Sequence[float] | None = None, log: bool = True
) -> str:
    """The lines as an SVG element, "" where there is nothing that can be shown.

    Positive values that span more than `DECADE` may get a logarithmic y axis, which then says so. Dots carry their
    numbers as tooltips. Line i is of class s<i>, from 0 on.

    Args:
        title: what it shows, for those who cannot see it.
        x: what is on the axis below.
        y: what is on the axis at the left.
        series: the lines.
        ticks: of the axis below, in the place of round numbers.
        log: whether the axis at the left may be logarithmic: not of shares, say.
    """
    shown = [s for s in series if any(finite(a) and finite(b) for a, b in s.points)]
    if not shown:
        return ""
    pairs = [(a, b, e) for s in shown for a, b, e in _rows(s) if finite(a) and finite(b)]
    values = [b for _, b, _ in pairs]
    log = log and 0 < DECADE * min(values) < max(values)
    spread = [v for _, b, e in pairs for v in (b - e, b + e) if v > 0 or not log]
    across, up = _Axis.over([a for a, _, _ in pairs], False), _Axis.over(spread, log)
    at_bottom = list(ticks) if ticks is not None else across.ticks()
    said = f"{title}. {y} over {x}: " + "; ".join(_summary(s) for s in shown)
    above = 0 if len(shown) > 1 else TOP - 12
    parts = [
        f'<svg class="chart" viewBox="0 {above} {WIDTH} {HEIGHT - above}" role="img" aria-label="{escaped(said)}">',
        *(_tick_left(up, v) for v in up.ticks()),
        *(_tick_below(across, v) for v in at_bottom if across.low <= v <= across.high),
        f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>',
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escaped(x)}</text>',
        f'<text transform="translate(14 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">'
        f"{escaped(y)}{', log scale' if up.log else ''}</text>",
    ]
    takes = [KEY + LETTER * len(s.name) for s in shown]
    gap = max(0.0, min(GAP, (WIDTH - sum(takes)) / len(takes)))
    start = max(0.0, min(LEFT, WIDTH - sum(takes) - gap * len(takes)))
    for s, width in zip(shown, takes, strict=True):
        kind = f"s{series.index(s) % KINDS}"
        parts += _line(s, kind, across, up)
        if len(shown) > 1:
            parts.append(f'<path class="line {kind}" d="M{start:.1f} 14h26"/>{_dot(kind, start + 13, 14, "")}')
            parts.append(f'<text x="{start + 34:.1f}" y="18">{escaped(s.name)}</text>')
            start += width + gap
    return "\n".join([*parts, "</svg>"])


def _rows(s: Series) -> list[tuple[Any, Any, float]]:
    errors = s.errors or [0.0] * len(s.points)
    return [(a, b, float(e) if finite(e) else 0.0) for (a, b), e in zip(s.points, errors, strict=True)]


def _summary(s: Series) -> str:
    found = [(a, b) for a, b in s.points if finite(a) and finite(b)]
    (a, first), (b, last) = found[0], found[-1]
    return f"{s.name} {short(first)} at {short(a)}, {short(last)} at {short(b)}"


def _x(axis: _Axis, value: float) -> float:
    return LEFT + axis(value) * (WIDTH - LEFT - RIGHT)


def _y(axis: _Axis, value: float) -> float:
    return HEIGHT - BOTTOM - axis(value) * (HEIGHT - TOP - BOTTOM)


def _tick_left(axis: _Axis, value: float) -> str:
    y = _y(axis, value)
    return (
        f'<path class="rule" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
        f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{short(value)}</text>'
    )


def _tick_below(axis: _Axis, value: float) -> str:
    x = _x(axis, value)
    return (
        f'<path class="axis" d="M{x:.1f} {HEIGHT - BOTTOM}v5"/>'
        f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 19}" text-anchor="middle">{short(value)}</text>'
    )


def _line(s: Series, kind: str, across: _Axis, up: _Axis) -> list[str]:
    path, out, drawing = "", [], False
    for a, b, e in _rows(s):
        if not (finite(a) and finite(b)):
            drawing = False
            continue
        x, y = _x(across, a), _y(up, b)
        # A point between two gaps is a line of no length, which its round ends make visible.
        path += f"L{x:.1f} {y:.1f}" if drawing else f"M{x:.1f} {y:.1f}h0"
        drawing = True
        if e > 0:
            out.append(f'<path class="bar {kind}" d="M{x:.1f} {_y(up, b - e):.1f}V{_y(up, b + e):.1f}"/>')
        if len(s.points) <= DOTTED:
            error = f" \u00b1 {short(e)}" if e > 0 else ""
            out.append(_dot(kind, x, y, f"{s.name}: {short(b)}{error} at {short(a)}"))
    return [f'<path class="line {kind}" d="{path}"/>', *out]


def _dot(kind: str, x: float, y: float, said: str) -> str:
    """Lines differ by the shape of their dots too, for those who do not tell the colours apart."""
    title = f"<title>{escaped(said)}</title>" if said else ""
    if kind == "s0":
        return f'<circle class="dot s0" cx="{x:.1f}" cy="{y:.1f}" r="3.5">{title}</circle>'
    across, down, shape = DOTS[kind]
    return f'<path class="dot {kind}" d="M{x + across:.1f} {y + down:.1f}{shape}">{title}</path>'
