"""Charts: lines where the numbers are, round ticks, and no number that breaks them."""

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from unnoise.report.chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Series, chart
from unnoise.report.words import escaped, finite, short


def drawn(*series: Series, **settings: object) -> ElementTree.Element:
    return ElementTree.fromstring(chart("title", "x", "y", series, **settings))  # type: ignore[arg-type]


def points(svg: ElementTree.Element, kind: str = "s0") -> list[tuple[float, float]]:
    (line,) = [p for p in svg.iter("path") if p.get("class") == f"line {kind}" and "h26" not in p.get("d", "")]
    return [(float(a), float(b)) for a, b in re.findall(r"[ML]([\d.]+) ([\d.]+)", line.get("d", ""))]


def ticks(svg: ElementTree.Element, anchor: str) -> list[str]:
    return [t.text or "" for t in svg.iter("text") if t.get("text-anchor") == anchor]


def test_a_straight_line_is_straight_and_fills_the_plot() -> None:
    found = points(drawn(Series("a", [(x, 3 * x - 1) for x in range(5)])))
    width, height = (WIDTH - LEFT - RIGHT) / 1.1, (HEIGHT - TOP - BOTTOM) / 1.1
    for i, (x, y) in enumerate(found):
        assert x == pytest.approx(LEFT + width * (0.05 + i / 4), abs=0.06)
        assert y == pytest.approx(HEIGHT - BOTTOM - height * (0.05 + i / 4), abs=0.06)


def test_a_power_is_straight_on_the_logarithmic_axis_that_it_gets() -> None:
    svg = drawn(Series("a", [(x, 10.0**-x) for x in range(5)]))
    heights = [y for _, y in points(svg)]
    steps = [b - a for a, b in pairwise(heights)]
    assert steps == pytest.approx([steps[0]] * 4, abs=0.11) and steps[0] > 0
    assert ticks(svg, "end") == ["0.0001", "0.001", "0.01", "0.1", "1"]
    assert any((t.text or "") == "y, log scale" for t in svg.iter("text"))
    assert not any("log scale" in (t.text or "") for t in drawn(Series("a", [(0, 1), (1, 29)])).iter("text"))
    assert not any("log scale" in (t.text or "") for t in drawn(Series("a", [(0, -1), (1, 99)])).iter("text"))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        (-0.5, 0.5, ["−0.4", "−0.2", "0", "0.2", "0.4"]),
        (-1000, 54_400, ["0", "20k", "40k"]),
        (1000, 54_400, ["1k", "2k", "5k", "10k", "20k", "50k"]),
        (2.5e6, 9.9e6, ["4M", "6M", "8M", "10M"]),
    ],
)
def test_ticks_are_round(low: float, high: float, expected: list[str]) -> None:
    assert ticks(drawn(Series("a", [(0, low), (1, high)])), "end") == expected


def test_gaps_part_the_line_and_lone_points_are_kept() -> None:
    values = [1.0, 2.0, None, 3.0, math.nan, math.inf, 2.0, 1.0, "x"]
    svg = drawn(Series("a", list(enumerate(values))))
    (line,) = [p.get("d", "") for p in svg.iter("path") if p.get("class") == "line s0"]
    assert [part.count("L") for part in line.split("M")[1:]] == [1, 0, 1]
    assert len(points(svg)) == len([*svg.iter("circle")]) == 5


def test_error_bars_reach_one_standard_error_each_way() -> None:
    svg = drawn(Series("a", [(0, 0.0), (1, 10.0), (2, 5.0)], [None, 0.0, 2.0]))
    (bar,) = [p.get("d", "") for p in svg.iter("path") if p.get("class") == "bar s0"]
    x, low, high = (float(v) for v in re.findall(r"[\d.]+", bar))
    (_, zero), (_, ten), (last, five) = points(svg)
    assert x == last
    assert low - five == pytest.approx(0.2 * (zero - ten), abs=0.11)
    assert five - high == pytest.approx(0.2 * (zero - ten), abs=0.11)
    with pytest.raises(ValueError, match="1 errors for 2 points"):
        Series("a", [(0, 0.0), (1, 10.0)], [1.0])


def test_two_lines_have_a_legend_and_differ_in_shape() -> None:
    svg = drawn(Series("first", [(0, 1.0), (1, 2.0)]), Series("second <&", [(0, 2.0), (1, 1.0)]))
    texts = [t.text for t in svg.iter("text")]
    assert "first" in texts and "second <&" in texts
    assert len([*svg.iter("circle")]) == 3 and len([p for p in svg.iter("path") if p.get("class") == "dot s1"]) == 3
    assert "second <&: 2 at 0" in [t.text for t in svg.iter("title")]
    alone = drawn(Series("first", [(0, 1.0)]))
    assert "first" not in [t.text for t in alone.iter("text")]
    # A line that cannot be shown leaves its place, not its colour, to others.
    second = drawn(Series("first", [(0, None)]), Series("second", [(0, 1.0)]))
    assert points(second, "s1")


@pytest.mark.parametrize(
    "values",
    [
        [0.0],
        [5.0, 5.0],
        [0.0, 0.0, 0.0],
        [1e-320, 0.0],
        [1e249, -1e249],
        [1e-300, 1e249],
        [1e20, 1e20 + 16384],
        [True, False],
        [-1e-9, 1e-9],
        list(range(10_000)),
    ],
    ids=str,
)
def test_no_number_breaks_a_chart(values: list[float]) -> None:
    svg = drawn(Series("a", list(enumerate(values))))
    assert len(points(svg)) == len(values)
    for x, y in points(svg):
        assert LEFT <= x <= WIDTH - RIGHT and TOP <= y <= HEIGHT - BOTTOM
    assert 1 <= len(ticks(svg, "end")) <= 10


def test_nothing_to_show_is_no_chart() -> None:
    for series in ([], [Series("a", [])], [Series("a", [(0, None), (None, 1.0), (1, math.nan), (2, 1e300)])]):
        assert chart("title", "x", "y", series) == ""


def test_numbers_and_names_are_safe() -> None:
    assert [short(v) for v in (54_400, 1.5e6, -2e9, 0.00025, 1e-7, 0.0, -0.5)] == [
        "54.4k",
        "1.5M",
        "−2G",
        "0.00025",
        "1e−7",
        "0",
        "−0.5",
    ]
    assert [finite(v) for v in (1, 0.5, None, "1", math.nan, -math.inf, 1e300)] == [True, True, *[False] * 5]
    assert escaped("<a b=\"c\" d='e'>&\x00\ud800é漢") == (
        "&lt;a b=&quot;c&quot; d=&#x27;e&#x27;&gt;&amp;\ufffd\ufffdé漢"
    )
