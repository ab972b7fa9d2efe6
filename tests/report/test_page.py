"""report.html: one file that says everything, whatever the numbers and names are."""

import base64
import io
import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image as Pillow

from unnoise.errors import UserError
from unnoise.metrics.figure import Figure
from unnoise.report import Pairs, Report, write
from unnoise.report.page import POINTS, html
from unnoise.report.style import DARK, LIGHT
from unnoise.report.words import features, meaning, number, ratio

FIGURES = (Figure("recall", 0.9505, 0.977, 0.0021), Figure("fd-1280", 0.1, 0.25), Figure("alone", 3.0))
PLAIN = Report("digits", "2026-01-02", "cpu", FIGURES)
ODD = "<b a=\"1\">&amp; 'x' \x00\ud800 Zoë 漢字 & more"


def page(content: Report) -> ElementTree.Element:
    """The page, which is XML too: unclosed tags, bare & and repeated attributes would not get here."""
    return ElementTree.fromstring(html(content))


def said(element: ElementTree.Element) -> str:
    return " ".join("".join(element.itertext()).split())


def titles(element: ElementTree.Element) -> list[str]:
    return [said(h) for h in element.iter("h2")]


def pixels(image: ElementTree.Element) -> np.ndarray:
    head, _, data = image.get("src", "").partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Pillow.open(io.BytesIO(base64.b64decode(data))))


def pictures(n: int, height: int = 4, width: int = 6, colours: int = 3) -> np.ndarray:
    shape = (n, height, width, colours)
    return (np.arange(math.prod(shape)) * 37 % 251).astype(np.uint8).reshape(shape)


def everything() -> Report:
    lines = [
        {"seen": s, "loss": 1 / s, "held_out": 2 / s, "loss_by_logsnr": [None, *range(9)], "held_out_by_logsnr": None}
        for s in range(100, 2000, 100)
    ]
    return replace(
        PLAIN,
        facts={"Samples seen": 1900},
        pairs=Pairs(pictures(3), pictures(3)[::-1], [2.0, 1.0, 3.0], 1.5, "In pixels."),
        classes={"one": pictures(2), "two": pictures(1), "none": pictures(0)},
        lines=lines,
        history=[{"seen": s, "name": "recall", "value": 0.1 * s, "error": 0.01} for s in (3, 1, 2)],
        protocol={
            "judge": {"$type": "a.b.Judge", "width": 8},
            "low": {"$float": "-inf"},
            "data": [1, 2],
            "on": ["a", "b"],
        },
        protocol_hash="0123abcd",
        measured={"weights": 0.1},
        command="unnoise evaluate runs/digits",
    )


def test_one_file_that_needs_nothing_else(tmp_path: Path) -> None:
    path = write(tmp_path / "deep" / "report.html", everything())
    text = path.read_text(encoding="utf8")
    assert text.startswith("<!DOCTYPE html>") and text == html(everything())
    assert [f.name for f in path.parent.iterdir()] == ["report.html"]
    root = ElementTree.fromstring(text)
    assert root.get("lang") == "en" and said(next(root.iter("title"))) == "digits: evaluation"
    assert not [*root.iter("script")]
    assert all(v.startswith("data:") for e in root.iter() for k, v in e.items() if k in ("src", "href"))
    assert "url(" not in text and "@import" not in text
    (policy,) = [m.get("content") for m in root.iter("meta") if m.get("http-equiv")]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_headings_are_in_order_and_pictures_have_texts() -> None:
    root = page(everything())
    levels = [int(e.tag[1]) for e in root.iter() if e.tag in ("h1", "h2", "h3")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    assert titles(root) == [
        "Figures",
        "Samples beside the nearest training pictures",
        "Samples by class",
        "Loss",
        "Figures over training",
        "Protocol",
        "How it was made",
    ]
    images = [*root.iter("img")]
    assert len(images) == 8 and all(i.get("alt") for i in images)
    drawings = [*root.iter("svg")]
    assert len(drawings) == 3 and all(d.get("role") == "img" and d.get("aria-label") for d in drawings)


def test_the_table_holds_each_figure_with_its_errors_ratio_and_meaning() -> None:
    rows = [[said(c) for c in row] for row in next(page(PLAIN).iter("tbody"))]
    assert [r[1:] for r in rows] == [
        ["0.9505 ± 0.0021", "0.9770", "0.973"],
        ["0.1000", "0.2500", "0.4000"],
        ["3.000", "–", "–"],
    ]
    assert rows[0][0].startswith("recallShare of real items") and rows[1][0].startswith("fd-1280Frechet distance")
    assert rows[2][0] == "alone"


def test_the_error_of_real_data_is_shown_where_a_figure_has_one() -> None:
    figures = [Figure("recall", 0.95, 0.977, 0.002, real_error=0.003)]
    (row,) = next(page(replace(PLAIN, figures=figures)).iter("tbody"))
    assert [said(c) for c in row][1:3] == ["0.9500 ± 0.0020", "0.9770 ± 0.0030"]


def test_every_figure_that_our_judges_name_has_a_sentence() -> None:
    own = {"recall": "Mine."}
    assert meaning(Figure("recall", 1.0), own) == "Mine." and meaning(Figure("other", 1.0), own) == ""
    assert meaning(Figure("other", 1.0, 1.0)).startswith("Measured alike")
    for name, start in {
        "read as asked": "Share of samples that a judge",
        "shape read as asked": "Share of samples that a judge",
        "all read as asked": "Share of samples of which",
        "worst class": "The same share",
        "Frechet distance to half of the real data": "Frechet distance",
        "distance to the nearest training item": "How near",
        "nearest training item": "How near",
        "nearer than 99 % of held-out": "Share of samples so near",
        "fid": "Frechet",
        "fid at infinity": "The distance extrapolated",
        "fd-1280": "Frechet",
        "fd-768 at infinitely many samples": "The distance extrapolated",
        "fd-means8": "Frechet",
        "fd-judge of 50,000": "Frechet",
        "kid-768": "Kernel",
        "precision-1280": "Share of samples",
        "recall-judge": "Share of real items",
        "density": "How many",
        "coverage": "Share of real",
        "1 evaluation: fd-judge": "Frechet",
        "teacher, 17 evaluations: kid-judge": "Kernel",
        "classification accuracy score": "Share of held-out real items read right",
        "classification accuracy score, worst class": "The same share",
        "bits per dimension, 20 steps, low variance": "Code length that the model",
        "bits per dimension of independent elements": "Code length of elements",
        "bound, bits per token": "Code length that the model",
        "bigram of the training text": "Bits per token that counts",
        "autoregressive twin": "Bits per token that the same network",
        "samples read by the trigram": "Bits per token that counts",
        "PSNR of reconstructions, dB": "Peak signal-to-noise ratio. ",
        "PSNR of means of 2x2 pixels, dB": "Peak signal-to-noise ratio of a way",
        "PSNR in dB at augment=0.1": "Peak signal-to-noise ratio. ",
        "PSNR in dB of bilinear upsampling": "Peak signal-to-noise ratio of a way",
        "drift of channel 0": "How far the mean",
        "drift of the mean of channel 2": "How far the mean",
        "distance of the area mean to the small picture": "How far enlarged",
        "1-NNA, chamfer, sphere": "How often",
        "1-NN accuracy, EMD, box": "How often",
        "coverage, Chamfer, std": "Share of held-out",
        "minimum matching distance, EMD, box": "Mean distance",
        "molecule stability": "Share whose",
        "stable atoms": "Share whose",
        "valid": "Share that is chemically",
        "unique among valid": "Share of different",
        "new among valid": "Share of the valid",
        "bond lengths C-H, distance": "Distance between the lengths",
    }.items():
        assert meaning(Figure(name, 1.0)).startswith(start), name


def test_what_surrounds_a_name_is_told_too() -> None:
    assert meaning(Figure("fd-judge of 50,000", 1.0)).endswith(
        "Of all 50,000 samples: real data are fewer, so that none stand beside."
    )
    assert meaning(Figure("1 evaluation: recall-judge", 1.0)).endswith("Samples at 1 evaluation of the network each.")
    assert meaning(Figure("teacher, 17 evaluations: recall-judge", 1.0)).endswith(
        "Samples of the teacher at 17 evaluations of the network each."
    )
    names = ("fid", "fd-1280 at infinity", "kid-means8", "2 evaluations: recall-judge", "fd-own", "fd-1280 of 5,000")
    told = features([Figure(n, 1.0) for n in names])
    assert list(told) == ["fid", "a number", "means8", "judge"]
    assert told["fid"].startswith("2,048 features") and told["means8"].startswith("mean colours in 8 x 8")
    assert "a number, so many features of the Inception network" in said(
        page(replace(PLAIN, figures=[Figure("fd-1280", 1.0)]))
    )


@pytest.mark.parametrize(
    ("figure", "expected"),
    [
        (Figure("a", 0.9886, 0.9945, 0.0015, 0.00075), "0.994"),
        (Figure("a", 0.0834, 0.0445, 0.0188, 0.0183), "1.9"),
        (Figure("a", 467.3, 400.8, 3.45), "1.166"),
        (Figure("a", 1234.0, 10.0, 50.0), "123"),
        (Figure("a", 1.0, 3.0), "0.3333"),
        (Figure("a", 0.0, 0.01, 0.0003, 0.0014), "0.00"),
        (Figure("a", -8.1e-5, 1.0, 1e-6), "−8e−5"),
        (Figure("a", 1e7, 1.0), "1e7"),
        (Figure("a", 0.06, -0.004, 0.02, 0.007), ""),  # an unbiased estimate of 0
        (Figure("a", 0.0004, 0.0004, 0.001, 0.001), ""),
        (Figure("a", 1.0, math.nan), ""),
        (Figure("a", math.inf, 1.0), ""),
        (Figure("a", 1.0), ""),
    ],
)
def test_a_ratio_has_the_digits_of_its_errors(figure: Figure, expected: str) -> None:
    assert ratio(figure) == expected


def test_a_table_without_real_data_has_no_columns_for_them() -> None:
    root = page(replace(PLAIN, figures=[Figure("bound, bits per token", 2.0, None, 0.01), Figure("b", math.nan)]))
    assert [said(h) for h in next(root.iter("thead")).iter("th")] == ["Figure", "Samples"]
    assert [said(row[-1]) for row in next(root.iter("tbody"))] == ["2.000 ± 0.010", "NaN"]
    assert "real data" not in said(root).lower() and "± is a standard error" in said(root)
    assert "±" not in said(page(replace(PLAIN, figures=[Figure("b", 1.0)])))


def test_figures_to_held_out_data_stand_beside_those_of_training_data() -> None:
    told = "those to held-out data beside that of the data trained on"
    near = Figure("fd-1280 to held-out", 0.5, 0.3)
    assert told in said(page(replace(PLAIN, figures=[near]))) and told not in said(page(PLAIN))


def test_large_pictures_are_reduced_until_the_page_is_small() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (24, 256, 192, 3), np.uint8)
    few = noise[:6]
    classes = {f"class {i}": few for i in range(17)}
    for content in (
        replace(everything(), pairs=Pairs(noise, noise, [1.0] * 24), classes=classes),
        replace(everything(), pairs=Pairs(noise, noise, [1.0] * 24), classes={}, samples=np.tile(noise, (4, 1, 1, 1))),
    ):
        text = html(content)
        assert len(text) < 3_000_000 and text.count("pixels here, to keep this page small") == 2
        shapes = {(int(i.get("width", 0)), int(i.get("height", 0))) for i in ElementTree.fromstring(text).iter("img")}
        assert (72, 96) in shapes and min(h for _, h in shapes) == 64  # of noise, which cannot be packed
    one = np.zeros((1, 1000, 3, 1), np.uint8)
    images = [*page(replace(PLAIN, samples=one)).iter("img")]
    assert [i.get("height") for i in images] == ["192"]


def test_samples_without_classes_stand_side_by_side() -> None:
    root = page(replace(PLAIN, samples=pictures(3)))
    assert titles(root) == ["Figures", "Samples"]
    for i, image in enumerate(root.iter("img")):
        assert np.array_equal(pixels(image), pictures(3)[i]) and image.get("alt") == f"Sample {i + 1}"
    assert titles(page(replace(PLAIN, samples=pictures(0)))) == ["Figures"]


@pytest.mark.parametrize(
    ("value", "error", "expected"),
    [
        (0.58701, 0.00103, "0.5870 ± 0.0010"),
        (27.52274, 0.0091, "27.5227 ± 0.0091"),
        (0.38, None, "0.3800"),
        (11.8671, None, "11.87"),
        (1234.56, 71.0, "1,235 ± 71"),
        (54400, None, "54,400"),
        (-0.00021, 0.0004, "−0.00021 ± 0.00040"),
        (1.5e-7, None, "1.500e−07"),
        (3e9, 2e7, "3.000e+09 ± 2.0e+07"),
        (0.0, 0.0, "0.000"),
        (-1e-9, 0.1, "0.00 ± 0.10"),
        (math.nan, None, "NaN"),
        (-math.inf, math.nan, "−∞"),
        (1.0, math.nan, "1.000"),
        (None, None, ""),
    ],
)
def test_numbers_are_as_long_as_their_errors_allow(value: float | None, error: float | None, expected: str) -> None:
    assert number(value, error) == expected


def test_pairs_stand_nearest_first_with_the_pixels_that_were_given() -> None:
    samples, nearest = pictures(4), pictures(4)[::-1]
    root = page(replace(PLAIN, pairs=Pairs(samples, nearest, [2.0, math.nan, 1.0, 3.0], 1.5, "In pixels.")))
    images = [pixels(i) for i in root.iter("img")]
    for place, i in enumerate((2, 0, 3, 1)):
        assert np.array_equal(images[2 * place], samples[i]) and np.array_equal(images[2 * place + 1], nearest[i])
    assert [said(c) for c in root.iter("figcaption")] == [f"distance {d}" for d in ("1.000", "2.000", "3.000", "NaN")]
    assert "median of 1.500. In pixels." in said(root)
    assert "Samples beside the nearest training pictures" not in titles(
        page(replace(PLAIN, pairs=Pairs(pictures(0), pictures(0), [])))
    )


def test_gray_and_wide_pictures_keep_their_shape() -> None:
    """Pitfalls 28 and 29: pictures of one channel, and others than squares."""
    gray = pictures(1, 5, 9, 1)
    (first, _) = page(replace(PLAIN, pairs=Pairs(gray, gray, [0.0]))).iter("img")
    assert np.array_equal(pixels(first), gray[0, :, :, 0])
    assert (first.get("width"), first.get("height")) == ("9", "5")


@pytest.mark.parametrize("count", [1, 102])
def test_any_number_of_classes(count: int) -> None:
    classes = {f"class {i}": pictures(1 + i % 3, 64, 48, 1) for i in range(count)}
    root = page(replace(PLAIN, classes=classes))
    images = [*root.iter("img")]
    assert [said(c) for c in root.iter("figcaption")] == list(classes)
    for image, shown in zip(images, classes.values(), strict=True):
        parts = [pixels(image)[:, 50 * i : 50 * i + 48] for i in range(len(shown))]
        assert np.array_equal(np.stack(parts), shown[..., 0])
    assert images[0].get("alt") == "1 sample of class class 0"


def test_what_is_not_there_has_no_section() -> None:
    assert titles(page(PLAIN)) == ["Figures"]
    assert "Nothing was measured." in said(page(replace(PLAIN, figures=())))
    assert titles(page(replace(PLAIN, lines=[{"seen": 1}, {"loss": None, "seen": 2}, {}]))) == ["Figures"]


def test_odd_names_are_text_everywhere(tmp_path: Path) -> None:
    content = replace(
        everything(),
        recipe=ODD,
        device=ODD,
        figures=[Figure(ODD, 1.0, 2.0)],
        facts={ODD: ODD},
        meanings={ODD: ODD},
        pairs=Pairs(pictures(1), pictures(1), [1.0], None, ODD),
        classes={ODD: pictures(2)},
        history=[{"seen": 1, "name": ODD, "value": 1.0, "error": None}],
        protocol={ODD: {ODD: ODD}},
        protocol_hash=ODD,
        command=ODD,
    )
    text = write(tmp_path / "r.html", content).read_text(encoding="utf8")
    root = ElementTree.fromstring(text)
    shown = ODD.replace("\x00", "\ufffd").replace("\ud800", "\ufffd")
    assert [said(next(root.iter(t))) for t in ("title", "h1", "code", "small")] == [
        f"{shown}: evaluation",
        f"{shown}: evaluation",
        shown,
        shown,
    ]
    assert {e.tag for e in root.iter()}.isdisjoint({"b", "x"})


def test_numbers_that_are_not_finite_are_said_and_break_nothing() -> None:
    bad = math.nan
    figures = [Figure("recall", bad, bad, bad), Figure("kid", math.inf, 0.0, 0.1), Figure("fid", 1.0, bad)]
    levels = [bad, None, math.inf, "x", *[1.0] * 6]
    content = replace(
        everything(),
        figures=figures,
        lines=[{"seen": s, "loss": bad, "held_out": None, "loss_by_logsnr": levels} for s in (1, 2)],
        history=[
            {"seen": 1, "name": "recall", "value": bad, "error": bad},
            {"seen": None, "name": "kid", "value": 1.0},
            {"name": "fid"},
        ],
    )
    root = page(content)
    rows = [[said(c) for c in row][1:] for row in next(root.iter("tbody"))]
    assert rows == [["NaN", "NaN", "–"], ["∞", "0.000", "–"], ["1.000", "NaN", "–"]]
    assert "Figures over training" not in titles(root) and "Loss" in titles(root)


def test_losses_stand_at_their_noise_levels() -> None:
    values = [None, 5.0, 4.0, 3.0, None, 2.0, 2.0, 2.0, 2.0, 9.0]
    lines: list[Mapping[str, Any]] = [
        {"seen": 1, "loss_by_logsnr": [7.0] * 10, "held_out_by_logsnr": [1.0] * 10},
        {"seen": 2, "loss_by_logsnr": values},
    ]
    root = page(replace(PLAIN, lines=lines))
    rows = [[said(c) for c in row] for row in list(root.iter("tbody"))[1]]
    assert rows[0] == ["−inf to −8", "", "1.000"] and rows[1] == ["−8 to −6", "5.000", "1.000"]
    assert rows[9] == ["8 to inf", "9.000", "1.000"] and len(rows) == 10
    dots = [t.text for t in root.iter("title")][1:]
    assert "training: 5 at −7" in dots and "held out: 1 at 9" in dots
    # A log with other bins than ours is not drawn at wrong places.
    assert titles(page(replace(PLAIN, lines=[{"seen": 1, "loss_by_logsnr": [1.0] * 4}]))) == ["Figures"]


def test_a_long_log_is_thinned_to_means() -> None:
    lines = [{"seen": i, "loss": 1.0 + i % 2} for i in range(1, 100_001)]
    text = html(replace(PLAIN, lines=lines))
    assert len(text) < 40_000
    (line,) = [p.get("d", "") for p in ElementTree.fromstring(text).iter("path") if p.get("class") == "line s0"]
    heights = {h for _, h in re.findall(r"[ML]([\d.]+) ([\d.]+)", line)}
    assert line.count("L") + 1 <= POINTS and len(heights) == 1  # each mean is 1.5


def test_the_protocol_is_written_out_to_the_last_entry() -> None:
    tables = [t for t in page(everything()).iter("table") if t.get("class") == "entries"]
    rows = {said(r[0]): said(r[1]) for t in tables for r in t.iter("tr")}
    assert rows == {
        "judge": "Judge",
        "judge.width": "8",
        "low": "-inf",
        "data": "[1, 2]",
        "on": "a, b",
        "weights": "0.1",
    }
    assert "0123abcd" in [c.text for c in page(everything()).iter("code")]


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_contrast_is_enough(colours: Mapping[str, str]) -> None:
    """WCAG 2.1, 1.4.3 and 1.4.11: 4.5 for text, 3 for lines that mean something; we ask 4.5 of these too."""
    for ground in ("page", "panel"):
        for ink in ("ink", "soft", "s0", "s1", "s2", "s3"):
            bright, dark = sorted((_luminance(colours[ground]), _luminance(colours[ink])), reverse=True)
            assert (bright + 0.05) / (dark + 0.05) >= 4.5, (ground, ink)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pairs(pictures(2), pictures(2), [1.0]), "got 2, 2 and 1"),
        (lambda: Pairs(pictures(2) / 255, pictures(2), [1.0, 1.0]), "got float64"),
        (lambda: replace(PLAIN, classes={"a": pictures(2)[0]}), r"got uint8 \[4, 6, 3\]"),
        (lambda: replace(PLAIN, classes={"a": pictures(2, colours=4)}), r"got uint8 \[2, 4, 6, 4\]"),
        (lambda: replace(PLAIN, samples=pictures(2)[0]), r"got uint8 \[4, 6, 3\]"),
    ],
)
def test_what_is_no_picture_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_where_it_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"report\.html could not be written"):
        write(tmp_path / "file" / "report.html", PLAIN)


def test_a_committed_evaluation_makes_a_report() -> None:
    found = json.loads((Path(__file__).parents[2] / "benchmarks/results/demo_evaluation.json").read_text())
    figures = [Figure(**f) for f in found["figures"]]
    ran = found["measured"]
    content = Report("digits", "2026-01-02", ran["device"], figures, protocol=found["protocol"], measured=ran)
    root = page(content)
    rows = [said(row[1]) for row in next(root.iter("tbody"))]
    assert len(rows) == len(figures) and rows[0] == f"{figures[0].samples:.4f} \u00b1 {figures[0].error:.4f}"
    assert "sampling.grid" in [said(th) for th in root.iter("th")]
