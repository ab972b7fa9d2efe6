"""CIFAR-10 for 7 minutes, for 20, and told the class: one recipe but for what is said to differ."""

import json
import shlex
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from unnoise.modality import Labels
from unnoise.override import override
from unnoise.recipe import Recipe
from unnoise.recipes import cifar10, cifar10_classes, cifar10_deep

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks/results"


def differing(a: Recipe, b: Recipe) -> set[str]:
    return {f.name for f in fields(a) if getattr(a, f.name) != getattr(b, f.name)}


@pytest.mark.parametrize(
    ("recipe", "names"),
    [
        (cifar10.recipe(), ["cifar10_7_minutes", "cifar10_7_minutes_seed_1"]),
        (cifar10_deep.recipe(), ["cifar10_20_minutes_seed_1"]),
    ],
    ids=["cifar10", "cifar10_deep"],
)
def test_a_recipe_is_what_was_measured(recipe: Recipe, names: list[str]) -> None:
    """`cifar10`, changed as the commands behind the figures change it, and sampled in the best way of the last."""
    measured = cifar10.recipe()
    for name in names:
        found = json.loads((RESULTS / f"{name}.json").read_text())
        options = [*pairwise(shlex.split(found["command"]))]
        for key, value in options:
            if key == "-s":
                measured = override(measured, value)
    points = [m for m in found["points"][0]["measured"] if m["samples"] == 10_000]
    best = min(points, key=lambda m: m["figures"][0]["samples"])["way"]
    [way] = [value for key, value in options if key == "--way" and value.startswith(f"{best}:")]
    for setting in way.partition(":")[2].split(";"):
        measured = override(measured, f"sampling.{setting.strip()}")
    assert differing(measured, recipe) <= {"name", "samples"}


def test_only_the_classes_differ() -> None:
    plain, told = cifar10_deep.recipe(), cifar10_classes.recipe()
    assert differing(plain, told) == {"name", "conditioner", "model", "objective", "sampling", "judge"}
    assert told.sampling == replace(plain.sampling, autoguidance=3.0, weaker=0.5)
    assert (plain.conditioner, told.conditioner) == (None, Labels({"label": 10}))
    nets: list[Any] = [r.components()["model"].net for r in (plain, told)]
    assert [n.labels for n in nets] == [{}, {"label": 10}]
    assert [r.objective.drop for r in (plain, told)] == [0.0, 0.1]  # type: ignore[attr-defined]
