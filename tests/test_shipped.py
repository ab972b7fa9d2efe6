"""Trained models that come with the package: whole, small, as their cards say, found by name, never written to."""

import hashlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import unnoise as un
from unnoise import recipes, shipped
from unnoise.checkpoint import CheckpointError
from unnoise.cli import main
from unnoise.evaluation import Evaluation
from unnoise.judges import Classifier, Several
from unnoise.model import Model
from unnoise.override import override
from unnoise.spec import build
from unnoise.trained import Trained

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden" / "shipped.npz"
FEW = {"n": 4, "seed": 7}
"""The samples of each model in the golden file."""


def written(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (f for f in folder.rglob("*") if f.is_file())
    return {str(f.relative_to(folder)): (f.read_bytes(), f.stat().st_mtime_ns) for f in files}


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The command line in this process, in an empty folder: its exit code, its output and its one line of errors."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: Any) -> tuple[int, str, str]:
        code = main([str(a) for a in arguments])
        return (code, *capsys.readouterr())

    return run


# Every model ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", shipped.names())
def test_a_shipped_model_is_what_its_card_says(name: str) -> None:
    """The sha256 of every file of weights, the number of parameters, the figures; no place of anyone's machine."""
    folder = shipped.WEIGHTS / name
    card = (folder / shipped.CARD).read_text(encoding="utf8")
    files = {f.relative_to(folder).as_posix(): f for f in folder.rglob("*.safetensors")}
    stated = dict(re.findall(r"^\| (\S+\.safetensors) \| .*sha256 ([0-9a-f]{64}) \|$", card, re.MULTILINE))
    model = Model.load(name)  # verifies every byte by the manifest
    assert files.keys() == stated.keys()
    for k, file in files.items():
        assert stated[k] == hashlib.sha256(file.read_bytes()).hexdigest(), k
    parameters = [p for m in model.modules for p in m.parameters()]
    own = [p for m in model.modules if m is not model.weaker for p in m.parameters()]
    assert f"| parameters | {sum(p.numel() for p in own):,} |" in card
    assert sum(p.numel() for p in parameters) <= 5_000_000
    assert all(p.dtype == torch.float32 and torch.equal(p, p.bfloat16().float()) for p in parameters)
    found = Evaluation.read(Path(name))
    assert found.hash in card and all(f"| {f.name} | " in card for f in found.figures)
    assert name in recipes.names() and model.facts["about"] in card
    for file in folder.rglob("*.json"):
        assert not re.search(r'"[^"]*(/tmp|/home|/root|runs)/', file.read_text(encoding="utf8")), file
    assert not re.search(r"(/tmp|/home|/root|/work)/", card)


@pytest.mark.parametrize("name", shipped.names())
def test_the_start_that_a_card_offers_is_of_these_weights(name: str) -> None:
    """With what the command sets, the recipe's network takes every weight."""
    card = (shipped.WEIGHTS / name / shipped.CARD).read_text(encoding="utf8")
    (line,) = re.findall("`(unnoise train [^`]* --from [^`]*)`", card)
    words = shlex.split(line)
    assert words[:5] == ["unnoise", "train", name, "--from", name] and set(words[5::2]) <= {"-s"}
    recipe = recipes.load(name)[0]
    for assignment in words[6::2]:
        recipe = override(recipe, assignment)
    fresh, own = recipe.components()["model"].state_dict(), Model.load(name).denoiser.state_dict()
    assert {k: v.shape for k, v in fresh.items()} == {k: v.shape for k, v in own.items()}


@pytest.mark.parametrize("name", shipped.names())
def test_a_shipped_model_samples_what_it_did(name: str) -> None:
    """Within a step of uint8, which 1e-3 of the range can make. UPDATE_GOLDEN=1 writes the file anew."""
    made = np.asarray(Model.load(name).sample(**FEW))
    golden = dict(np.load(GOLDEN)) if GOLDEN.exists() else {}
    if os.environ.get("UPDATE_GOLDEN"):
        golden[name] = made
        np.savez_compressed(GOLDEN, **golden)
    assert made.dtype == golden[name].dtype == np.uint8 and made.shape == golden[name].shape
    assert np.abs(made.astype(int) - golden[name].astype(int)).max() <= 1


@pytest.mark.skipif(not os.environ.get("UNNOISE_DATA"), reason="UNNOISE_DATA names no folder of data")
def test_shipped_digits_are_read_as_asked() -> None:
    model = Model.load("mnist")
    recipe = build(model.facts["recipe"], lazy=True)
    assert isinstance(recipe.judge, Several)
    judge = next(j for j in recipe.judge.judges if isinstance(j, Classifier))
    samples = model.sample(200, label="all")
    read = judge.train_once(recipe.data.load().train, un.Runtime()).read(samples.raw)
    assert (read == samples.cond["label"]).double().mean() >= 0.97


def test_what_is_not_text_stays_small() -> None:
    """Of all that the project tracks: a clone stays a matter of seconds."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a clone")
    contents = [f.read_bytes() for f in map(ROOT.joinpath, listed.stdout.split("\0")[:-1]) if f.is_file()]
    assert 0 < sum(len(c) for c in contents if b"\0" in c) <= 16 * 2**20


# By name --------------------------------------------------------------------------------------------------------------


def test_a_name_goes_where_a_run_goes(cli: Callable[..., Any], tmp_path: Path) -> None:
    """From an empty folder; the package's own files stay as they are."""
    before = written(shipped.WEIGHTS)
    asked = ["sample", "mnist", "-n", 3, "--steps", 2, "--cond", "label=all", "--out"]
    assert cli(*asked, "digits.png") == (0, "digits.png: 3 samples\n", "")
    assert cli(*asked[:-1]) == (0, "out: 3 samples in 3 files\n", "")
    code, out, _ = cli("info", "mnist")
    lines = out.splitlines()
    assert code == 0 and lines[0] == f"mnist in {shipped.WEIGHTS / 'mnist'}"
    assert lines[2].startswith("200,000 of 200,000 samples seen in ")
    assert lines[3].endswith(f"unnoise sample mnist; model card: {shipped.WEIGHTS / 'mnist' / 'README.md'}")
    assert lines[4].split()[:2] == ["name", "mnist"]
    code, out, _ = cli("list")
    assert re.search(r"^  mnist +Class-cond.* \[with weights: unnoise sample mnist\]$", out, re.MULTILINE)
    assert len(re.findall("with weights", out)) == len(shipped.names())
    code, out, _ = cli("compare", "mnist", "mnist")
    assert code == 0 and re.search(r"^read as asked .* 1\.0000$", out, re.MULTILINE)
    assert cli("join", "system", "base=mnist")[0] == 0
    (tmp_path / "mnist").mkdir()  # what exists wins, whatever it is
    assert cli(*asked, "again.png")[2].startswith("unnoise: mnist is empty")
    assert written(shipped.WEIGHTS) == before


def test_a_component_is_taken_by_name() -> None:
    taken = Trained("mnist", "mnist")()
    assert torch.equal(next(taken.parameters()), next(Model.load("mnist").denoiser.parameters()))


def test_a_run_of_that_name_wins(cli: Callable[..., Any], tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "mnist")
    assert Model.load("mnist").codec.shape == (1, 8, 8)
    assert cli("info", "mnist")[1].startswith("digits in mnist/checkpoints/1920\n")


def test_an_evaluation_is_written_where_it_is_asked_for(
    cli: Callable[..., Any], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not into the package; refused before anything is measured where nothing says where."""
    monkeypatch.setattr(shipped, "WEIGHTS", tmp_path / "weights")
    Model.load(tiny).save(tmp_path / "weights" / "little", torch.bfloat16)
    before = written(shipped.WEIGHTS)
    code, _, err = cli("evaluate", "little")
    assert code == 2 and "little comes with the package, where nothing is written: say where to, --out FOLDER" in err
    code, out, err = cli("evaluate", "little", "-n", 900, "--steps", 1, "--out", "new/found")
    assert code == 0 and out.rstrip().endswith("; new/found/report.html"), err
    assert Evaluation.read(tmp_path / "new" / "found").measured["seen"] == 1920
    report = re.sub("<[^>]+>", "", (tmp_path / "new" / "found" / "report.html").read_text(encoding="utf8"))
    assert re.search(r"unnoise evaluate little -n 900 .*--steps 1 --precision fp32 --out new/found", report)
    assert written(shipped.WEIGHTS) == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digits", r"no such run: digits\. This recipe comes without weights: train it with `unnoise train digits`"),
        ("mnits", r"no such run: mnits, and no weights of this name come with the package: did you mean mnist\?"),
        ("zzz", r"no such run: zzz, and no weights of this name come with the package; there are: .*mnist"),
        ("runs/mnist", r"no such run: runs/mnist$"),
    ],
)
def test_a_name_that_is_none(cli: Callable[..., Any], name: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        Model.load(name)
    for command in (["sample", name], ["evaluate", name], ["resume", name], ["join", "out", f"base={name}"]):
        code, out, err = cli(*command)
        assert (code, out) == (2, "") and re.search(message, err.rstrip()), err
    assert cli("resume", "mnist")[2].startswith("unnoise: mnist is a checkpoint or a saved model, not a run: name")


# Shipping -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ship() -> ModuleType:
    """benchmarks/ship.py."""
    spec = importlib.util.spec_from_file_location("ship", ROOT / "benchmarks" / "ship.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_run_is_shipped(
    ship: ModuleType, cli: Callable[..., Any], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every byte of the card follows from the run; what it could not state is refused."""
    monkeypatch.setattr(ship, "WEIGHTS", tmp_path / "weights")
    shutil.copytree(tiny, tmp_path / "run")
    arguments = ["ship.py", str(tmp_path / "run"), "digits", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", arguments)
    assert cli("evaluate", "run", "-n", 900)[0] == 0
    trained = Evaluation.read(tmp_path / "run")
    replace(trained, measured={**trained.measured, "seen": 64}).save(tmp_path / "run")
    with pytest.raises(un.UserError, match="evaluate the run with its own settings"):
        ship.main()
    assert not (tmp_path / "weights").exists()
    trained.save(tmp_path / "run")
    ship.main()
    folder = tmp_path / "weights" / "digits"
    card = (folder / "README.md").read_text(encoding="utf8")
    assert str(tmp_path) not in card and "None" not in card
    for said in (
        "| parameters | 48,753 |",
        "| trained | 1,920 samples in batches of 64, in fp32 |",
        "`unnoise train digits --samples 1920 -s model.net.width=8 -s model.net.head_width=8 -s judge.width=8 -s "
        "judge.samples=512`",
        "`unnoise evaluate digits -n 900 --repeats 1 --seed 1000000 --out FOLDER`",
        " cpu, 1 threads |",
        "`unnoise train digits --from digits -s model.net.width=8 ",
    ):
        assert said in card
    model = Model.load(folder)
    for k, p in Model.load(tiny).denoiser.named_parameters():
        assert torch.equal(model.denoiser.get_parameter(k), p.bfloat16().float())
    assert Evaluation.read(folder).hash == trained.hash
