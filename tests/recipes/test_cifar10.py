"""CIFAR-10 without and with classes: one recipe but for what the network is told."""

from dataclasses import fields
from typing import Any

from unnoise.modality import Labels
from unnoise.recipes import cifar10, cifar10_classes


def test_only_the_classes_differ() -> None:
    plain, told = cifar10.recipe(), cifar10_classes.recipe()
    differing = {f.name for f in fields(plain) if getattr(plain, f.name) != getattr(told, f.name)}
    assert differing == {"name", "conditioner", "model", "objective", "judge"}
    assert (plain.name, plain.conditioner) == ("cifar10", None)
    assert (told.name, told.conditioner) == ("cifar10_classes", Labels({"label": 10}))
    nets: list[Any] = [r.components()["model"].net for r in (plain, told)]
    assert [n.labels for n in nets] == [{}, {"label": 10}]
    assert [r.objective.drop for r in (plain, told)] == [0.0, 0.1]  # type: ignore[attr-defined]
