"""The report of a run: its samples, the training pictures nearest to them, its log, its figures."""

import base64
import io
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from unnoise import recipes, report
from unnoise.data import Digits, Images
from unnoise.data.dataset import Dataset, View
from unnoise.evaluation import Evaluation
from unnoise.metrics.figure import Figure
from unnoise.model import Model
from unnoise.report.run import _names, _nearest
from unnoise.samples import Samples
from unnoise.spec import describe
from unnoise.trial import Trial

FOUND = Evaluation(
    [Figure("recall", 0.9, 0.95)],
    {"judge": "none"},
    {"name": "digits", "seen": 1920, "device": "cpu", "weights": 0.1},
    [{"seen": s, "figures": [Figure("recall", s / 2000)]} for s in (640, 1280, 1920)],
)
TRIAL = Trial(50, 2, settings={"steps": 3, "guidance": {"label": 1.5}})


@pytest.fixture(scope="module")
def data() -> Dataset:
    return recipes.load("digits")[0].data.load()


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return Model.load(tiny)


def written(run: Path, tmp_path: Path, model: Any, data: Dataset, trial: Trial = TRIAL) -> ElementTree.Element:
    """The page of a copy of the run's log: the run itself is for reading only."""
    (tmp_path / "metrics.jsonl").write_bytes((run / "metrics.jsonl").read_bytes())
    path = report.of_run(tmp_path, FOUND, model, data, trial)
    assert path == tmp_path / "report.html"
    return ElementTree.parse(path).getroot()


def picture(image: ElementTree.Element) -> np.ndarray:
    return np.asarray(Pillow.open(io.BytesIO(base64.b64decode(image.get("src", "").partition(",")[2]))))


def test_a_run_of_pictures_by_class(tiny: Path, tmp_path: Path, model: Model, data: Dataset) -> None:
    root = written(tiny, tmp_path, model, data, replace(TRIAL, settings={"steps": 3, "guidance": 1.5}))
    text = " ".join("".join(root.itertext()).split())
    assert [h.text for h in root.iter("h2")] == [
        "Figures",
        "Samples beside the nearest training pictures",
        "Samples by class",
        "Loss",
        "Figures over training",
        "Protocol",
        "How it was made",
    ]
    assert FOUND.hash in text and data.about in text and "1,920" in text
    assert f"evaluate {tmp_path} -n 50 --repeats 2 --seed 1000000 --steps 3 --guidance 1.5 --history 3" in text
    images = [*root.iter("img")]
    assert len(images) == 2 * 24 + 10
    # The pictures are those that anyone draws from the same seeds, and the nearest of all training pictures.
    raw = model.sample(100, seed=TRIAL.seed, steps=3, guidance=1.5, label=list(range(10))).raw
    distances = torch.cdist(raw.flatten(1).double(), data.train["x"].flatten(1).double())
    first = int(distances.min(1).values.argmin())
    assert np.array_equal(picture(images[0]), model.codec.pictures(raw)[first, :, :, 0])
    nearest = data.train["x"][int(distances[first].argmin())][None]
    assert np.array_equal(picture(images[1]), model.codec.pictures(nearest)[0, :, :, 0])
    shown = [float(d) for d in re.findall(r"distance ([\d.]+)", text) if float(d)]
    assert shown == pytest.approx(distances.min(1).values.sort().values[:24].tolist(), rel=1e-3)
    held_out = torch.cdist(data.held_out["x"].flatten(1).double(), data.train["x"].flatten(1).double()).min(1).values
    assert f"at a median of {float(held_out.median()):.2f}" in text and f"of {len(held_out)} held-out ones" in text
    assert images[48].get("alt") == "10 samples of class 0"


def test_guidance_by_attribute_is_written_as_it_is_given(
    tiny: Path, tmp_path: Path, model: Model, data: Dataset
) -> None:
    class Silent:
        """A model of something else than pictures."""

        codec, conditioner, facts, device = object(), None, model.facts, model.device

    root = written(tiny, tmp_path, Silent(), data)
    assert [h.text for h in root.iter("h2")] == [
        "Figures",
        "Loss",
        "Figures over training",
        "Protocol",
        "How it was made",
    ]
    assert "--guidance label=1.5" in "".join(next(root.iter("pre")).itertext())


def test_classes_go_by_the_names_that_the_data_have(
    tiny: Path, tmp_path: Path, model: Model, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Digits, "names", ("zero", "one <b>", "two"), raising=False)
    root = written(tiny, tmp_path, model, data, replace(TRIAL, settings={"steps": 2}))
    shown = [c.text for c in root.iter("figcaption")]
    assert [c for c in shown if c and c[0].isdigit()] == ["0: zero", "1: one <b>", "2: two", *"3456789"]


def test_classes_of_own_pictures_go_by_their_folders(tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        (tmp_path / "own" / name).mkdir(parents=True)
        for i in range(3):
            noise = np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)
            Pillow.fromarray(noise).save(tmp_path / "own" / name / f"{i}.png")

    known: Any = SimpleNamespace(facts={"recipe": {"data": describe(Images(str(tmp_path / "own")))}})
    assert [*_names(known)] == ["cats", "dogs"]
    shutil.rmtree(tmp_path / "own")
    assert [*_names(known)] == []


def test_pictures_without_classes_are_shown_as_they_were_drawn(
    tiny: Path, tmp_path: Path, model: Model, data: Dataset
) -> None:
    class Unlabelled:
        """A model of pictures that has no classes."""

        codec, conditioner, facts, device = model.codec, None, model.facts, model.device

        def sample(self, n: int, seed: int, **settings: Any) -> Samples:
            return Samples(data.held_out["x"][:n], torch.arange(n), {}, model.codec)

    root = written(tiny, tmp_path, Unlabelled(), data)
    titles = [h.text for h in root.iter("h2")]
    assert "Samples" in titles and "Samples by class" not in titles
    images = [picture(i) for i in root.iter("img")][2 * 24 :]
    assert np.array_equal(np.stack(images), model.codec.pictures(data.held_out["x"][:100])[..., 0])


def test_the_nearest_are_found_across_blocks_and_columns_read_when_asked_for() -> None:
    train = torch.arange(5000.0)[:, None] * 3
    x = torch.tensor([[0.0], [2999.0 * 3 + 1], [4999.0 * 3 - 1], [-4.0]])
    for column in (train, View(train, torch.arange(5000))):
        distances, items = _nearest(x, column, torch.arange(5000))
        assert distances.tolist() == [0.0, 1.0, 1.0, 4.0] and items.tolist() == [0, 2999, 4999, 0]
        # Of every second one, items count within those that were searched.
        assert _nearest(x[1:2], column, torch.arange(0, 5000, 2))[1].tolist() == [1500]


def test_data_without_held_out_items(tiny: Path, tmp_path: Path, model: Model, data: Dataset) -> None:
    few = Dataset({k: v[:30] for k, v in data.train.items()}, {k: v[:0] for k, v in data.held_out.items()})
    root = written(tiny, tmp_path, model, few, replace(TRIAL, settings={"steps": 2}))
    text = " ".join("".join(root.itertext()).split())
    assert "to 30 of 30 training pictures" in text and "Real held-out data lie" not in text
