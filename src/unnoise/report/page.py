"""report.html: what a run's samples are like, in one file that needs nothing else to be read.

Pictures are inside as PNG, charts as SVG, the style as CSS. There is no script, and no address is ever asked.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from unnoise.core.objective import EDGES
from unnoise.errors import UserError
from unnoise.metrics.figure import Figure
from unnoise.report.chart import Series, chart
from unnoise.report.pictures import Pairs, classes_section, pairs_section, require_pictures, samples_section
from unnoise.report.style import CSS
from unnoise.report.words import escaped, features, finite, is_distance, meaning, number, ratio

POINTS = 300
"""A line of a chart over training has at most so many points, each the mean of as many lines of the log."""
NAMED = 28
"""Figures of so long a name, or shorter, name the axis of their chart."""


@dataclass(frozen=True, eq=False)
class Report:
    """What a report says. Only recipe, date, device and figures are always there.

    Args:
        recipe: its name.
        date: of the measurement.
        device: that it was made on.
        figures: the table.
        facts: more for the head, by name: samples seen, data, licence.
        meanings: a sentence on a figure by its name, in the place of that of `MEANINGS`.
        pairs: samples beside their nearest training pictures.
        classes: samples by the name of their class, uint8 [N, H, W, 1 or 3] each.
        samples: samples that have no class, uint8 [N, H, W, 1 or 3].
        lines: of metrics.jsonl, as `unnoise.log.read_lines` gives them.
        history: figures as training went on: mappings of "seen", "name", "value" and "error" (or None).
        protocol: the ruler: judge, data, counts; mappings within are written out with dots.
        protocol_hash: of the protocol: numbers compare where it agrees.
        measured: what the ruler was laid on, and with what: weights, sampler, seeds.
        command: that made the report.
    """

    recipe: str
    date: str
    device: str
    figures: Sequence[Figure]
    facts: Mapping[str, Any] = field(default_factory=dict)
    meanings: Mapping[str, str] = field(default_factory=dict)
    pairs: Pairs | None = None
    classes: Mapping[str, np.ndarray] = field(default_factory=dict)
    samples: np.ndarray | None = None
    lines: Sequence[Mapping[str, Any]] = ()
    history: Sequence[Mapping[str, Any]] = ()
    protocol: Mapping[str, Any] = field(default_factory=dict)
    protocol_hash: str = ""
    measured: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""

    def __post_init__(self) -> None:
        for pictures in (*self.classes.values(), *(() if self.samples is None else (self.samples,))):
            require_pictures(pictures)


def write(path: Path, content: Report) -> Path:
    """Write the report as one HTML file, in one replacement, and return its path; Raises UserError where it cannot."""
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(html(content), encoding="utf8")
        part.replace(path)
    except OSError as e:
        raise UserError(f"{path} could not be written: {e}") from e
    return path


def html(content: Report) -> str:
    """The report as text: HTML 5 that is well-formed XML too."""
    sections = [
        ("Figures", _figures(content)),
        ("Samples beside the nearest training pictures", pairs_section(content.pairs)),
        ("Samples by class", classes_section(content.classes)),
        ("Samples", samples_section(content.samples)),
        ("Loss", _loss(content.lines)),
        ("Figures over training", _history(content)),
        ("Protocol", _protocol(content)),
        ("How it was made", f"<pre><code>{_words(content.command)}</code></pre>" if content.command else ""),
    ]
    body = "\n".join(f"<section>\n<h2>{title}</h2>\n{text}\n</section>" for title, text in sections if text)
    facts = {"Recipe": content.recipe, "Date": content.date, "Device": content.device, **content.facts}
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<meta name="color-scheme" content="light dark"/>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'"/>
<link rel="icon" href="data:,"/>
<title>{escaped(content.recipe)}: evaluation</title>
<style>
{CSS}</style>
</head>
<body>
<header>
<h1>{escaped(content.recipe)}: evaluation</h1>
<dl class="facts">
{"".join(f"<div><dt>{escaped(k)}</dt><dd>{escaped(v)}</dd></div>" for k, v in facts.items())}
</dl>
</header>
<main>
{body}
</main>
</body>
</html>
"""


def _figures(content: Report) -> str:
    figures = content.figures
    if not figures:
        return "<p>Nothing was measured.</p>"
    beside = any(f.real is not None for f in figures)
    rows = []
    for f in figures:
        said = escaped(meaning(f, content.meanings))
        cells = [number(f.samples, f.error), *([number(f.real, f.real_error), ratio(f)] if beside else [])]
        rows.append(
            f'<tr role="row"><th role="rowheader" scope="row">{escaped(f.name)}'
            + (f"<small>{said}</small>" if said else "")
            + "</th>"
            + "".join(f'<td role="cell">{c or "–"}</td>' for c in cells)
            + "</tr>"
        )
    heads = ("Figure", "Samples", *(("Real data", "Ratio") if beside else ()))
    # The roles say again what the elements say: a narrow page lays them out as other than a table.
    return (
        f"<p>{_about(figures, beside)}</p>\n"
        '<table class="figures" role="table"><thead role="rowgroup"><tr role="row">'
        + "".join(f'<th role="columnheader" scope="col">{h}</th>' for h in heads)
        + '</tr></thead>\n<tbody role="rowgroup">\n'
        + "\n".join(rows)
        + "\n</tbody></table>"
    )


def _about(figures: Sequence[Figure], beside: bool) -> str:
    """How the table is read, of what there is in it."""
    said = []
    if beside:
        other = "; those to held-out data beside that of the data trained on"
        more = other if any("to held-out" in f.name for f in figures) else ""
        said.append(f"Each figure of the samples stands beside the same figure of held-out real data{more}.")
    if any(e is not None for f in figures for e in (f.error, f.real_error)):
        said.append("\u00b1 is a standard error.")
    if beside:
        said.append("The ratio is that of samples to real data, where these are clearly above 0.")
    names = features(figures)
    if names:
        said.append("Names end in what is compared: " + "; ".join(f"{k}, {v}" for k, v in names.items()) + ".")
    return escaped(" ".join(said) or "Figures of the samples.")


def _loss(lines: Sequence[Mapping[str, Any]]) -> str:
    (levels, numbers), training = _loss_by_level(lines), _loss_over_training(lines)
    if not levels:
        return _charts([("Over training", training)])
    return (
        "<p>Held-out data are met at fixed noise levels with fixed noise. By noise level the loss is that before "
        "weighting; where held-out data clearly lose more than training data, the network has learned these by "
        f"heart.</p>\n{_charts([('By noise level', levels), ('Over training', training)])}\n{numbers}"
    )


def _loss_by_level(lines: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """The chart of the last losses by noise level, and its numbers; both "" where there are none."""
    ends = [EDGES[0] - (EDGES[1] - EDGES[0]), *EDGES, EDGES[-1] + (EDGES[-1] - EDGES[-2])]
    middles = [(a + b) / 2 for a, b in pairwise(ends)]
    series = []
    for name, key in (("training", "loss_by_logsnr"), ("held out", "held_out_by_logsnr")):
        values: list[Any] = next((line[key] for line in reversed(lines) if isinstance(line.get(key), list)), [])
        if len(values) == len(middles):
            series.append(Series(name, list(zip(middles, values, strict=True))))
    drawn = chart("Loss by noise level", "log-SNR: noise left, data right", "loss", series, EDGES[::2])
    if not drawn:
        return "", ""
    names = ["-inf", *(f"{e:g}" for e in EDGES), "inf"]
    rows = []
    for i, (low, high) in enumerate(pairwise(names)):
        values = [s.points[i][1] for s in series]
        if any(finite(v) for v in values):
            between = f"{low} to {high}".replace("-", "\u2212")
            rows.append((between, *(number(v) if finite(v) else "" for v in values)))
    return drawn, _numbers("Loss by noise level in numbers", ("log-SNR", *(s.name for s in series)), rows)


def _loss_over_training(lines: Sequence[Mapping[str, Any]]) -> str:
    series = []
    for name, key in (("training", "loss"), ("held out", "held_out")):
        points = [(line.get("seen"), line[key]) for line in lines if finite(line.get("seen")) and key in line]
        series.append(Series(name, _thinned(points)))
    return chart("Loss over training", "samples seen", "weighted loss", series)


def _thinned(points: Sequence[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """At most `POINTS` of them, each the mean of neighbours; what is not finite is left out of means."""
    size = math.ceil(len(points) / POINTS)
    if size <= 1:
        return list(points)
    out = []
    for start in range(0, len(points), size):
        part = [v for _, v in points[start : start + size] if finite(v)]
        seen = points[start : start + size][-1][0]
        out.append((seen, sum(part) / len(part) if part else None))
    return out


def _history(content: Report) -> str:
    real = {f.name: f.real for f in content.figures}
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for entry in content.history:
        by_name.setdefault(str(entry.get("name", "")), []).append(entry)
    charts = []
    for name, entries in by_name.items():
        entries = sorted((e for e in entries if finite(e.get("seen"))), key=lambda e: e["seen"])
        points = [(e["seen"], e.get("value")) for e in entries]
        series = [Series("samples", points, [e.get("error") for e in entries])]
        if entries and real.get(name) is not None:
            series.append(Series("real data", [(entries[i]["seen"], real[name]) for i in (0, -1)]))
        y = name if len(name) <= NAMED else "value"
        charts.append((name, chart(name, "samples seen", y, series, log=is_distance(name))))
    drawn = _charts(charts)
    return f"<p>Of samples as training went on; bars are standard errors.</p>\n{drawn}" if drawn else ""


def _charts(named: Sequence[tuple[str, str]]) -> str:
    """Charts with their names, side by side where there is room; "" where all are empty."""
    out = [f"<figure><figcaption>{escaped(k)}</figcaption>{v}</figure>" for k, v in named if v]
    return "\n".join(['<div class="charts">', *out, "</div>"]) if out else ""


def _protocol(content: Report) -> str:
    out = []
    if content.protocol or content.protocol_hash:
        out.append("<h3>The ruler</h3>")
        if content.protocol_hash:
            said = escaped(content.protocol_hash)
            out.append(f"<p>Its hash is <code>{said}</code>: two figures compare where it agrees.</p>")
        out.append(_entries(content.protocol))
    if content.measured:
        out.append(f"<h3>What was measured</h3>\n{_entries(content.measured)}")
    return "\n".join(out)


def _entries(values: Mapping[str, Any]) -> str:
    rows = [f'<tr><th scope="row">{_breakable(k)}</th><td>{escaped(v)}</td></tr>' for k, v in _flat(values)]
    return "\n".join(['<table class="entries"><tbody>', *rows, "</tbody></table>"]) if rows else ""


def _words(command: str) -> str:
    """A command that goes on in the next line between words, and not after the hyphens of an option."""
    return " ".join(f"<span>{escaped(w)}</span>" for w in command.split(" "))


def _breakable(name: str) -> str:
    """A dotted name that may go on in the next line after each dot."""
    return escaped(name).replace(".", ".<wbr/>")


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, value) of everything inside; types go by their names, special numbers as they are written."""
    for key, inner in value.items():
        name = prefix + str(key)
        if isinstance(inner, Mapping) and "$float" in inner:
            yield name, str(inner["$float"])
        elif isinstance(inner, Mapping) and inner:
            if "$type" in inner:
                yield name, str(inner["$type"]).rpartition(".")[2]
            yield from _flat({k: v for k, v in inner.items() if k != "$type"}, f"{name}.")
        else:
            yield name, _shown(inner)


def _shown(value: Any) -> str:
    """A value as text: names without the marks of JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and value and all(isinstance(v, str) for v in value):
        return ", ".join(value)
    return json.dumps(value, default=str, ensure_ascii=False)


def _numbers(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of a chart's numbers, folded away."""
    head = "".join(f'<th scope="col">{escaped(h)}</th>' for h in heads)
    body = "\n".join(
        f'<tr><th scope="row">{escaped(first)}</th>{"".join(f"<td>{escaped(c)}</td>" for c in rest)}</tr>'
        for first, *rest in rows
    )
    return (
        f"<details><summary>{escaped(title)}</summary>\n<table><thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody></table></details>"
    )
