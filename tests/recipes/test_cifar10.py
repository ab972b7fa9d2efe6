"""CIFAR-10 without and with classes, for 7 and for 20 minutes: one recipe but for what is said to differ."""

import re
import shlex
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from unnoise.modality import Labels
from unnoise.override import override
from unnoise.recipe import Recipe
from unnoise.recipes import cifar10, cifar10_classes

README = Path(__file__).resolve().parents[2] / "README.md"


def differing(a: Recipe, b: Recipe) -> set[str]:
    return {f.name for f in fields(a) if getattr(a, f.name) != getattr(b, f.name)}


def test_twenty_minutes_are_what_the_readme_sets() -> None:
    """The command of the README makes of the recipe what `deep` does."""
    deep = cifar10.recipe(deep=True)
    assert differing(cifar10.recipe(), deep) == {"model", "augment", "sampling", "samples"}
    text = README.read_text(encoding="utf8").replace("\\\n", "")
    (command,) = re.findall("unnoise train cifar10 --minutes 20 (.+)", text)
    words = shlex.split(command)
    found = cifar10.recipe()
    for key, value in pairwise(words):
        if key == "-s":
            found = override(found, value)
    assert differing(found, deep) == {"samples"}


def test_only_the_classes_differ() -> None:
    plain, told = cifar10.recipe(deep=True), cifar10_classes.recipe()
    assert differing(plain, told) == {"name", "conditioner", "model", "objective", "sampling", "judge"}
    assert told.sampling == replace(plain.sampling, autoguidance=3.0, weaker=0.5)
    assert (plain.name, plain.conditioner) == ("cifar10", None)
    assert (told.name, told.conditioner) == ("cifar10_classes", Labels({"label": 10}))
    nets: list[Any] = [r.components()["model"].net for r in (plain, told)]
    assert [n.labels for n in nets] == [{}, {"label": 10}]
    assert [r.objective.drop for r in (plain, told)] == [0.0, 0.1]  # type: ignore[attr-defined]
