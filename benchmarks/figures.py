"""The charts of the pages in docs, drawn from what was measured: python benchmarks/figures.py

Reads benchmarks/results, writes docs/images/*.svg, which follow the reader's light or dark scheme.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unnoise.report.chart import Series, chart
from unnoise.report.style import CSS

ROOT = Path(__file__).resolve().parents[1]
LETTERS = ".chart { font-family: system-ui, sans-serif; }"
RULES = "\n".join(line for line in CSS.splitlines() if line.startswith((".chart ", ":root", "@media (prefers")))


TOLD = ("12_minutes", "20_minutes", "20_minutes_seed_1", "20_minutes_seed_2", "20_minutes_seed_3")
"""Trainings of `cifar10_classes`."""
PEER = ("minute", "minutes", "20_minutes")
"""Trainings of diffusers' U-Net."""


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


def quality_against_time() -> str:
    """FD-1280 of CIFAR-10 over minutes: unguided, with autoguidance, told the class, of each training, and a peer's."""
    lines: dict[str, list[tuple[float, Mapping[str, Any]]]] = {"unguided": [], "guided": []}
    for name in ("cifar10_minutes.json", "cifar10_20_minutes_seed_1.json"):
        for point in results(name)["points"]:
            for guided, figure in distances(point):
                lines["guided" if guided else "unguided"].append((point["minutes"], figure))
    lines["told the class"] = []
    for name in TOLD:
        [point] = results(f"cifar10_classes_{name}.json")["points"]
        best = min((figure for guided, figure in distances(point) if guided), key=lambda figure: figure["samples"])
        lines["told the class"].append((point["minutes"], best))
    points = [point for name in PEER for point in results(f"cifar10_peer_{name}.json")["points"]]
    lines["diffusers"] = [(point["minutes"], point["figures"][0]) for point in points]
    series = [Series(k, [(x, f["samples"]) for x, f in v], [f["error"] for _, f in v]) for k, v in lines.items()]
    return chart("FD-1280 of CIFAR-10", "minutes of training on one H200", "FD-1280 of 10,000 samples", series)


def distances(point: Mapping[str, Any]) -> list[tuple[bool, Mapping[str, Any]]]:
    """Of 10,000 samples, each way: whether it has autoguidance, and the first figure."""
    return [("autoguidance" in m, m["figures"][0]) for m in point["measured"] if m["samples"] == 10_000]


def main() -> None:
    for draw in (learning_rate, quality_against_time):
        svg = draw().replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" width="460" ', 1)
        head, rest = svg.split(">", 1)
        path = ROOT / "docs/images" / f"{draw.__name__}.svg"
        path.write_text(f"{head}>\n<style>\n{RULES}\n{LETTERS}\n</style>{rest}\n", encoding="utf8")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
