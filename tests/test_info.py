"""What `unnoise info` says."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unnoise import info
from unnoise.errors import UserError
from unnoise.log import read_lines
from unnoise.model import Model


def test_every_key_of_a_recipe_with_its_value_and_meaning() -> None:
    lines = {line.split()[0]: line for line in info.lines("digits")}
    assert lines["batch"].split(maxsplit=2)[1:] == ["64", "samples a step, over all processes."]
    assert lines["optim.lr"].split()[1] == "0.002"
    assert lines["model.net"].split()[1] == "UNet"
    assert lines["sampling.sampler"].split()[1] == "Heun()"
    assert lines["judge.codec.high"].split()[1] == "16"
    nothing_said = [k for k, line in lines.items() if len(line.split()) < 3]
    assert not nothing_said, "write these into the Args of the docstring"


def test_every_key_that_is_shown_can_be_set() -> None:
    from unnoise import recipes
    from unnoise.override import OverrideError, override

    recipe = recipes.load("digits")[0]
    for key in ("optim.lr=1e-3", "model.net.width=16", "sampling.steps=5", "data.held_out=0.5", "judge.width=8"):
        assert override(recipe, key) != recipe
    with pytest.raises(OverrideError):
        override(recipe, "model.net.nothing=1")


def test_a_run_says_where_it_stands(tiny: Path) -> None:
    lines = list(info.lines(str(tiny)))
    assert lines[0] == f"digits in {tiny}/checkpoints/1920"
    assert lines[1].startswith("components: codec, conditioner, model (48,753 numbers), process")
    assert lines[2].startswith("1,920 of 1,920 samples seen in ") and "seed 0, fp32; unnoise 0." in lines[2]
    assert lines[3].startswith("loss 1.") and "held out" in lines[3]
    table = [line.split() for line in lines[4 : lines.index(next(x for x in lines if x.startswith("name ")))]]
    assert all(row[1] == ".." for row in table) and len(table) >= 6
    assert any(line.startswith("model.net.width ") and line.split()[1] == "8" for line in lines)


def test_the_last_held_out_loss_is_told_with_its_place(tiny: Path, tmp_path: Path) -> None:
    """Not every line of a log has one, and a line may be damaged."""
    run = Path(shutil.copytree(tiny, tmp_path / "run"))
    log = run / "metrics.jsonl"
    *_, last = read_lines(log)
    more = {k: v for k, v in last.items() if "held_out" not in k} | {"seen": 2500, "loss": 0.5}
    log.write_text(f'{json.dumps(last)}\n5\n{{"nope": 1}}\n{json.dumps(more)}\n{{"seen": 2600}}\n')
    said = list(info.lines(str(run)))
    assert said[3] == f"loss 0.5000, held out {last['held_out']:.4f} after 1,920 samples, by log-SNR:"
    assert said[4:10] == list(info.lines(str(tiny)))[4:10]
    log.write_text(json.dumps(more))
    assert list(info.lines(str(run)))[3] == "loss 0.5000, by log-SNR:"


def test_a_saved_model_is_described_too(tiny: Path, tmp_path: Path) -> None:
    Model.load(tiny).save(tmp_path / "m")
    lines = list(info.lines(str(tmp_path / "m")))
    assert lines[0] == f"digits in {tmp_path}/m"
    assert "model (48,753 numbers)" in lines[1]


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        (
            {"x": np.array([[1, 2], [3, 4]], np.uint8), "label": np.array([5, 5])},
            [
                "x: uint8 [2, 2], 1 to 4, mean 2.5, standard deviation 1.118",
                "label: int64 [2], 5 to 5",
                "  1 classes, 2 to 2 items each",
            ],
        ),
        (
            {"x": np.array([1.0, np.nan, 3.0, np.inf])},
            ["x: float32 [4], 1 to 3, mean 2, standard deviation 1, 2 NaN or infinite"],
        ),
        ({"x": np.full(3, np.nan)}, ["x: float32 [3], 3 NaN or infinite"]),
        ({"x": np.zeros((0, 2))}, ["x: float32 [0, 2]"]),
        (
            {"x": np.zeros(2), "label": np.array([0.5, 1.5])},
            ["x: float32 [2], 0 to 0, mean 0, standard deviation 0", "label: float32 [2], 0.5 to 1.5"],
        ),
        (
            {"x": np.zeros(3), "label": np.array([-1, 10**12, -1])},
            [
                "x: float32 [3], 0 to 0, mean 0, standard deviation 0",
                "label: int64 [3], -1 to 1e+12",
                "  2 classes, 1 to 2 items each",
            ],
        ),
    ],
    ids=["labels", "bad", "all-bad", "empty", "float-labels", "far-labels"],
)
def test_an_archive_is_summed_up(tmp_path: Path, arrays: dict[str, Any], said: list[str]) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    assert list(info.lines(str(tmp_path / "x.npz"))) == said


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("digit", "did you mean digits"),
        ("runs/none", "neither a run folder, nor an npz file, nor a recipe"),
        ("none.npz", "no such file"),
        ("none.py", "no such file"),
    ],
)
def test_what_is_not_there_is_named(what: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(info.lines(what))


def test_folders_that_are_no_runs_are_named(tmp_path: Path) -> None:
    for make, message in ((lambda: None, "is empty"), ((tmp_path / "x").touch, "is not a run of unnoise")):
        do: Callable[[], Any] = make
        do()
        with pytest.raises(UserError, match=message):
            list(info.lines(str(tmp_path)))


# What training would refuse -------------------------------------------------------------------------------------------

OWN = """
from dataclasses import replace
from unnoise import recipes

def recipe():
    own = recipes.load("digits")[0]
    return replace(own, {})
"""


def last(what: str) -> str:
    *keys, said = info.lines(what)
    assert any(line.startswith("optim.lr ") for line in keys)
    return said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model=own.model.replace(net=own.model.args['net'].replace(channels=3))", "this UNet has channels=3, x has 1"),
        ("codec=replace(own.codec, shape=(1, 16, 16))", "the codec expects torch.uint8 of (1, 16, 16)"),
        ("trains=('codec',)", "a phase trains 'codec', but the recipe's networks are ['model']"),
        ("objective=None", "TypeError: 'NoneType' object is not callable"),
    ],
)
def test_a_recipe_of_parts_that_do_not_fit(tmp_path: Path, change: str, message: str) -> None:
    (tmp_path / "own.py").write_text(OWN.format(change))
    said = last(str(tmp_path / "own.py"))
    assert said.startswith(f"unnoise train {tmp_path}/own.py would be refused: ") and message in said


def test_data_and_extras_that_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What can be downloaded is not, by looking; nor is anything written."""
    assert last("digits") == "next: unnoise train digits"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNNOISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("UNNOISE_DATA", raising=False)
    refused = "would be refused: "
    assert last("airplane").startswith(f"unnoise train airplane {refused}pointclouds/modelnet_airplane.npz is looked ")
    assert last("images").startswith(f"unnoise train images {refused}which pictures? --data PATH")
    assert last("latent").startswith(f"unnoise train latent {refused}no such run: runs/autoencoder, which this recipe ")
    assert last("mnist") == "next: unnoise train mnist, which downloads mnist (12 MB) first"
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    said = f"unnoise train digits {refused}the digits come with scikit-learn: pip install 'unnoise[demo]'"
    assert last("digits") == said
    assert not list(tmp_path.iterdir())
