"""The charts of the pages in docs, drawn from what was measured: python benchmarks/figures.py

Reads benchmarks/results, writes docs/images/*.svg, which follow the reader's light or dark scheme.
"""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

from unnoise.report.chart import Series, chart
from unnoise.report.style import CSS

ROOT = Path(__file__).resolve().parents[1]
RULES = "\n".join(line for line in CSS.splitlines() if line.startswith((".chart ", ":root", "@media (prefers")))


def results(name: str) -> Any:
    """A file of benchmarks/results."""
    return json.loads((ROOT / "benchmarks/results" / name).read_text())


def learning_rate() -> str:
    """The held-out loss of the digits over the learning rate, under two optimisers; means of two seeds."""
    arms = results("optimisers_digits.json")["arms"]
    series = []
    for optim in ("AdamW", "Muon"):
        found: dict[float, list[float]] = {}
        for arm in arms:
            if arm["optim"] == optim:
                found.setdefault(arm["lr"], []).append(arm["held_out"]["1.0"])
        series.append(Series(optim, [(math.log10(lr), statistics.mean(v)) for lr, v in sorted(found.items())]))
    return chart("Held-out loss of the digits", "log10 of the learning rate", "held-out loss", series)


def main() -> None:
    for draw in (learning_rate,):
        svg = draw().replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" width="460" ', 1)
        head, rest = svg.split(">", 1)
        path = ROOT / "docs/images" / f"{draw.__name__}.svg"
        path.write_text(f"{head}>\n<style>\n{RULES}\n</style>{rest}\n", encoding="utf8")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
