"""A trial: samples drawn once and shared, asked for as real items are, each process its share."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from unnoise.data import Digits
from unnoise.errors import UserError
from unnoise.modality import Image, Labels
from unnoise.model import Model
from unnoise.runtime import Runtime
from unnoise.samples import Samples
from unnoise.trial import CHUNK, Trial

CODEC = Image((1, 8, 8), 0, 16)


@dataclass(eq=False)
class Drawer:
    """A "model" whose samples are their seeds, and which notes what it is asked for."""

    conditioner: Any = Labels({"item": 60, "shade": 4})
    calls: list[dict[str, Any]] = field(default_factory=list)

    def sample(self, n: int, *, seed: int = 0, **settings: Any) -> Samples:
        self.calls.append({"n": n, "seed": seed, **settings})
        seeds = torch.arange(seed, seed + n)
        cond = {k: v for k, v in settings.items() if isinstance(v, Tensor)}
        return Samples(seeds.clone(), seeds, cond, CODEC)


@dataclass(frozen=True)
class Part(Runtime):
    """One of several processes that nobody else answers: what it has is what it made."""

    def gather(self, rows: Tensor, n: int) -> Tensor:
        return rows


def items() -> dict[str, Tensor]:
    """60 real items, told apart by a number; of three shades, one half, a third, a sixth: by no means uniform."""
    number = torch.arange(60)
    return {"x": torch.zeros(60, 1), "item": number, "shade": torch.tensor([0] * 30 + [1] * 20 + [3] * 10)}


# Drawn once -----------------------------------------------------------------------------------------------------------


def test_samples_are_drawn_once_and_shared() -> None:
    model, said = Drawer(), list[str]()
    trial = Trial(10, repeats=2, seed=100, settings={"steps": 5}, say=said.append)
    first = trial.samples(model)
    assert trial.samples(model, 0) is first and trial.samples(model, steps=5) is first
    assert model.calls == [{"n": 10, "seed": 100, "steps": 5}] and said == ["sampling 10 from seed 100"]
    assert first.raw.tolist() == first.seeds.tolist() == list(range(100, 110))


def test_what_differs_in_anything_is_another_draw() -> None:
    model, trial = Drawer(), Trial(10, settings={"steps": 5})
    label = torch.zeros(10, dtype=torch.int64)
    asked: list[dict[str, Any]] = [
        {},
        {"steps": 6},
        {"guidance": 2.0},
        {"repeat": 1},
        {"like": items()},
        {"shade": 0},
        {"shade": label},
        {"item": label},
    ]
    drawn = [trial.samples(model, **a) for a in asked]
    assert len({id(s) for s in drawn}) == len(model.calls) == len(asked)
    assert trial.samples(Drawer(), 0) is not drawn[0] and Trial(10).samples(model) is not drawn[0]


def test_conditions_that_differ_in_one_element_are_two_draws() -> None:
    """Of a tensor of thousands, whose text leaves most of it out; equal ones are one."""
    model, trial = Drawer(), Trial(CHUNK)
    a = torch.arange(CHUNK)
    b = a.clone()
    b[500] += 1
    assert repr(a) == repr(b)
    first, second = trial.samples(model, item=a), trial.samples(model, item=b)
    assert first is not second and trial.samples(model, item=a.clone()) is first and len(model.calls) == 2
    assert torch.equal(first.cond["item"], a) and torch.equal(second.cond["item"], b)
    assert trial.samples(model, item=a.tolist()) is first


def test_a_condition_of_another_number_of_rows_is_refused() -> None:
    for wrong in (torch.zeros(9), torch.zeros(11), [1, 2, 3], (1, 2)):
        with pytest.raises(UserError, match=r"condition 'item' has \d+ rows for 10 samples"):
            Trial(10).samples(Drawer(), item=wrong)
    Trial(10).samples(model := Drawer(), item=3)  # one for all
    Trial(10, settings={"interval": (-3.0, 4.0)}).samples(model, item=3)  # two numbers, but no rows
    assert (model.calls[0]["item"], model.calls[1]["interval"]) == (3, (-3.0, 4.0))


def test_repeats_are_of_seeds_that_follow() -> None:
    trial = Trial(7, repeats=3, seed=20)
    seeds = [trial.samples(Drawer(), i).raw.tolist() for i in range(3)]
    assert [s for repeat in seeds for s in repeat] == list(range(20, 41))


def test_many_are_drawn_a_stretch_at_a_time() -> None:
    model, n = Drawer(), 2 * CHUNK + 100
    item = torch.arange(n) % 60
    found = Trial(n, seed=3).samples(model, item=item)
    assert [(c["n"], c["seed"]) for c in model.calls] == [(CHUNK, 3), (CHUNK, 3 + CHUNK), (100, 3 + 2 * CHUNK)]
    assert torch.equal(found.raw, torch.arange(3, 3 + n)) and torch.equal(found.cond["item"], item)


# As real items are ----------------------------------------------------------------------------------------------------


def test_what_is_asked_for_is_what_real_items_are() -> None:
    """As many of each class as the data have, attributes together, in an order that is not the data's."""
    columns = items()
    for n in (60, 120, 600):
        cond = Trial(n).samples(Drawer(), like=columns).cond
        assert set(Counter(cond["item"].tolist()).values()) == {n // 60}
        assert Counter(cond["shade"].tolist()) == {0: n // 2, 1: n // 3, 3: n // 6}  # no 2: there is none
        assert torch.equal(cond["shade"], columns["shade"][cond["item"]])
        assert not torch.equal(cond["item"][:60], columns["item"])
    few = Trial(12).samples(Drawer(), like=columns).cond["shade"].tolist()
    assert len(set(few)) > 1  # the first rows are not of one class, as the data's are


def test_repeats_ask_for_other_items() -> None:
    """Each item once before any comes again, over repeats too."""
    trial = Trial(20, repeats=6)
    asked = torch.stack([trial.samples(Drawer(), i, like=items()).cond["item"] for i in range(6)])
    for three in (asked[:3], asked[3:]):
        assert sorted(three.flatten().tolist()) == list(range(60))


def test_models_are_asked_only_for_what_they_are_told() -> None:
    told = [Labels({"shade": 4}), Labels({"other": 3}), None]
    models = [Drawer(conditioner=c) for c in told]
    for model in models:
        Trial(10).samples(model, like=items())
    assert [set(m.calls[0]) - {"n", "seed"} for m in models] == [{"shade"}, set(), set()]


def test_digits_are_asked_for_as_the_training_digits_are(tiny: Path) -> None:
    """A real model: row i is what it is alone, with the label of a training digit."""
    train, model = Digits().load().train, Model.load(tiny)
    trial = Trial(30, seed=9, settings={"steps": 2})
    found = trial.samples(model, like=train)
    rows = [model.sample(1, seed=9 + i, steps=2, label=int(found.cond["label"][i])).raw for i in (0, 17, 29)]
    assert (found.raw[[0, 17, 29]].int() - torch.cat(rows).int()).abs().max() <= 1
    every = Trial(len(train["x"]))
    asked = every.samples(Drawer(Labels({"label": 10})), like=train).cond["label"]
    assert torch.equal(asked.bincount(), train["label"].bincount())  # type: ignore[union-attr]


# Several processes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "world"), [(10, 2), (11, 3), (2 * CHUNK + 500, 2), (17, 4)])
def test_pitfall_23_processes_draw_their_share(n: int, world: int) -> None:
    """Pitfall 23: all processes sample, each a stretch of its own, and together they are what one draws."""
    whole = Trial(n, seed=50).samples(Drawer(), like=items())
    models = [Drawer() for _ in range(world)]
    parts = [Trial(n, seed=50, run=Part(rank=r, world=world)).samples(m, like=items()) for r, m in enumerate(models)]
    assert torch.equal(torch.cat([p.raw for p in parts]), whole.raw)
    for k in ("item", "shade"):
        assert torch.equal(torch.cat([p.cond[k] for p in parts]), whole.cond[k])
    drawn = [sum(c["n"] for c in m.calls) for m in models]
    assert sum(drawn) == n and max(drawn) == -(-n // world)


def test_a_process_without_a_share_has_none_of_the_same_shape(tiny: Path) -> None:
    """Of 5 samples the last of 4 processes has none, and takes part in what is gathered."""
    run = Part(rank=3, world=4)
    found = Trial(5, settings={"steps": 1}, run=run).samples(Model.load(tiny), like=Digits().load().train)
    assert found.raw.shape == (0, 1, 8, 8) and found.raw.dtype == torch.uint8
    assert found.cond["label"].shape == (0,) and found.cond["label"].dtype == torch.int64


def test_what_is_mapped_is_each_process_share() -> None:
    x = torch.arange(7.0)
    seen: list[int] = []

    def double(part: Tensor) -> Tensor:
        seen.append(len(part))
        return 2 * part

    parts = [Trial(1, run=Part(rank=r, world=3)).map(double, x) for r in range(3)]
    assert torch.equal(torch.cat(parts), 2 * x) and seen == [3, 3, 1]


# What a trial knows ---------------------------------------------------------------------------------------------------


def test_what_figures_rest_on_is_noted_once() -> None:
    trial = Trial(1)
    for digest in ("b", "a", "b"):
        trial.rests_on("judge", digest)
    trial.rests_on("inception", "c")
    assert trial.ruler == {"judge": ["b", "a"], "inception": ["c"]} and Trial(1).ruler == {}


def test_what_is_made_once_is_made_once() -> None:
    trial, made = Trial(1), list[int]()
    assert [trial.once("a", lambda: made.append(1)) for _ in range(3)] == [None] * 3 and made == [1]
    assert trial.once("b", lambda: 5) == 5 and Trial(1).once("b", lambda: 6) == 6
