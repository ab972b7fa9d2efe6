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
    ("began", "name", "recipe"),
    [
        (cifar10.recipe(), "cifar10_7_minutes_seed_1", cifar10.recipe()),
        (cifar10.recipe(), "cifar10_20_minutes_seed_1", cifar10_deep.recipe()),
        (cifar10_classes.recipe(), "cifar10_classes_20_minutes_seed_3", cifar10_classes.recipe()),
    ],
    ids=["cifar10", "cifar10_deep", "cifar10_classes"],
)
def test_a_recipe_is_what_was_measured(began: Recipe, name: str, recipe: Recipe) -> None:
    """The settings of the command and of the best way of the results that its docstring cites."""
    found = json.loads((RESULTS / f"{name}.json").read_text())
    words = shlex.split(found["command"])
    for key, value in pairwise(words):
        if key == "-s":
            began = override(began, value)
    measured = [m for m in found["points"][0]["measured"] if m["samples"] == 10_000]
    best = min(measured, key=lambda m: m["figures"][0]["samples"])["way"]
    ways = dict(value.split(":", 1) for key, value in pairwise(words) if key == "--way")
    for setting in ways[best].split(";"):
        began = override(began, f"sampling.{setting.strip()}")
    assert differing(began, recipe) <= {"name", "samples"}


def test_only_the_classes_differ() -> None:
    plain, told = cifar10_deep.recipe(), cifar10_classes.recipe()
    assert differing(plain, told) == {"name", "conditioner", "model", "objective", "sampling", "judge"}
    assert told.sampling == replace(plain.sampling, autoguidance=3.0, weaker=0.5)
    assert (plain.conditioner, told.conditioner) == (None, Labels({"label": 10}))
    nets: list[Any] = [r.components()["model"].net for r in (plain, told)]
    assert [n.labels for n in nets] == [{}, {"label": 10}]
    assert [r.objective.drop for r in (plain, told)] == [0.0, 0.1]  # type: ignore[attr-defined]
