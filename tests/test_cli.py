"""The command line: each command as a user gives it, and every wrong input as one line that names it."""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

import unnoise
from unnoise import checkpoint
from unnoise.cli import main
from unnoise.modality import Plain
from unnoise.nets import MLP
from unnoise.sample.grids import KarrasGrid

if TYPE_CHECKING:
    from programs import Python

SMALL = ["-s", "model.net.width=8", "-s", "model.net.head_width=8", "-s", "sampling.steps=2"]
UNNOISE = ["-m", "unnoise"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


class Result(NamedTuple):
    code: Any
    out: str
    err: str


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: Any) -> Result:
        capsys.readouterr()
        try:
            code: Any = main([str(a) for a in arguments])
        except SystemExit as e:
            code = e.code
        return Result(code, *capsys.readouterr())

    return run


def refused(result: Result, message: str) -> None:
    """One line on stderr, nothing on stdout, exit code 2."""
    assert result.code == 2, result
    assert result.out == ""
    assert result.err.startswith("unnoise: ") and result.err.count("\n") == 1, result.err
    assert re.search(message, result.err), result.err


def weights(run: Path) -> dict[str, torch.Tensor]:
    return checkpoint.read(checkpoint.locate(run)).weights["model"]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


# Train and resume -----------------------------------------------------------------------------------------------------


def test_a_run_from_end_to_end(cli: Callable[..., Result], tmp_path: Path) -> None:
    done = cli("train", "digits", *SMALL, "-s", "log_every=2", "--samples", 500, "--seed", 3)
    assert done.code == 0 and done.out == "runs/digits: done; unnoise sample runs/digits --out samples.png\n"
    first, *log = done.err.splitlines()
    assert first.startswith("digits: 48,753 parameters; 1,438 items ")
    assert len(log) == 4 and all(re.match(r"\d+ of 512 samples  loss \d\.\d+  held out \d\.\d+", x) for x in log)
    run = tmp_path / "runs" / "digits"
    assert sorted(p.name for p in run.iterdir()) == ["checkpoints", "ema", "latest", "metrics.jsonl", "samples"]
    lines = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    assert [x["seen"] for x in lines] == [128, 256, 384, 512]
    keys = ("loss", "loss_by_logsnr", "held_out", "held_out_by_logsnr", "lr", "norm", "seconds", "skipped")
    assert all(k in line for line in lines for k in keys)
    # Four grids of 40 samples, evenly over the run, of the same size.
    grids = sorted((run / "samples").iterdir())
    assert [g.name for g in grids] == [f"{n:09d}.png" for n in (128, 256, 384, 512)]
    assert {np.asarray(Pillow.open(g)).shape for g in grids} == {(6 * 33 - 1, 7 * 33 - 1)}
    assert len({g.read_bytes() for g in grids}) == 4
    facts = checkpoint.read(checkpoint.locate(run)).facts
    assert (facts["seed"], facts["seen"], facts["total"], facts["precision"]) == (3, 512, 512, "fp32")
    assert facts["recipe"]["model"]["net"]["width"] == 8

    assert "runs/digits" in cli("list").out
    assert cli("info", "runs/digits").out.startswith("digits in runs/digits/checkpoints/512\n")
    refused(cli("resume", "runs/digits"), "is complete: 512 samples seen; --samples N trains it further")
    refused(cli("resume", "runs/digits", "--samples", 0), "--samples must be at least 1, got 0")
    refused(cli("train", "digits", *SMALL), r"runs/digits exists: `unnoise resume runs/digits` goes on with it")

    assert cli("resume", "runs/digits", "--samples", 640).code == 0
    assert checkpoint.read(checkpoint.locate(run)).facts["seen"] == 640
    lines = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    assert [x["seen"] for x in lines] == [128, 256, 384, 512, 640]


def test_a_run_of_minutes_fixes_a_number_of_samples_that_repeats_it(cli: Callable[..., Result], tmp_path: Path) -> None:
    timed = cli("train", "digits", *SMALL, "--minutes", 0.04, "--out", "timed")
    assert timed.code == 0
    *_, total = re.findall(r"--samples (\d+) repeats this run", timed.err)
    facts = checkpoint.read(checkpoint.locate(tmp_path / "timed")).facts
    assert facts["total"] == facts["seen"] == int(total) and facts["minutes"] == 0.04
    refused(cli("resume", "timed"), "is complete")
    assert cli("train", "digits", *SMALL, "--samples", total, "--out", "counted").code == 0
    a, b = weights(tmp_path / "timed"), weights(tmp_path / "counted")
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_run_starts_from_the_weights_of_another(cli: Callable[..., Result], tmp_path: Path, tiny: Path) -> None:
    fresh = "optim.lr=1e-12"  # nothing is learned, so that the weights are those it starts from
    assert cli("train", "digits", *SMALL, "-s", fresh, "--samples", 64, "--from", tiny, "--out", "a").code == 0
    own, parent = weights(tmp_path / "a"), unnoise.Model.load(tiny).denoiser.state_dict()
    for k in own:
        torch.testing.assert_close(own[k], parent[k], rtol=0, atol=1e-6)
    wider = ["-s", "model.net.multipliers=(1,3)", "-s", fresh]
    partly = cli("train", "digits", *SMALL, *wider, "--samples", 64, "--from", tiny, "--out", "b")
    assert partly.code == 0
    assert re.search(r"all weights but \d+ that differ in shape or name \(net\.", partly.err)
    refused(cli("train", "digits", *SMALL, "--from", "runs/none", "--out", "c"), "no such run: runs/none")
    assert not (tmp_path / "c").exists()


def test_tensorboard(
    cli: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    pytest.importorskip("tensorboard")
    assert cli("train", "digits", *SMALL, "--samples", 64, "--tensorboard", "--out", "run").code == 0
    (events,) = (tmp_path / "run" / "tensorboard").iterdir()
    content = events.read_bytes()
    assert b"held_out" in content and b"\x89PNG" in content
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    refused(cli("train", "digits", *SMALL, "--tensorboard", "--out", "b"), r"pip install 'unnoise\[tensorboard\]'")
    refused(cli("resume", "run", "--samples", 128, "--tensorboard"), r"pip install 'unnoise\[tensorboard\]'")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digit"], "unknown recipe 'digit': did you mean digits"),
        (["zzzz"], "unknown recipe 'zzzz'; there are: .*digits"),
        (["none.py"], r"no such file: none\.py"),
        (["digits", "-s", "model.net.widht=8"], "unknown key 'model.net.widht': did you mean model.net.width"),
        (["digits", "-s", "optim.lr=fast"], "optim.lr is a number, got 'fast'"),
        (["digits", "-s", "batch=2.5"], "batch is an integer, got '2.5'"),
        (["digits", "-s", "batch=0"], "batch must be at least 1, got 0"),
        (["digits", "-s", "samples=inf"], "samples is an integer, got 'inf'"),
        (["digits", "-s", "batch"], "write key=value"),
        (["digits", "-s", "optim.lr=-1"], "lr must be > 0 and finite, got -1"),
        (["digits", "-s", "sampling.sampler=Huen"], "'Huen' is unknown: did you mean Heun"),
        (["digits", "-s", "sampling.sampler=Ancestral(eta=2)"], "eta must lie in .* got 2"),
        (["digits", "-s", "sampling.steps=0"], "steps must be at least 1, got 0"),
        (["digits", "-s", "model.net.width=7"], "even, >= 2, got 7"),
        (["digits", *SMALL, "-s", "conditioner=None"], "misses the condition 'label'"),
        (["digits", *SMALL, "-s", "conditioner.classes=label=5"], "label=5 is out of range: there are classes 0 to 4"),
        (["digits", *SMALL, "-s", "codec.high=255"], "range from 0 to 16 only, the codec expects 0 to 255"),
        (["digits", *SMALL, "-s", "codec.high=8"], "range from 0 to 16, the codec expects 0 to 8"),
        (["digits", *SMALL, "-s", "codec.dtype=float32"], "expects torch.float32"),
        (["digits", *SMALL, "-s", "codec.shape=(1,8,9)"], r"expects torch.uint8 of \(1, 8, 9\)"),
        (["digits", "-s", "data.held_out=1"], r"share in \[0, 1\), got 1"),
        (["digits", "--minutes", "0"], "--minutes must be positive and finite, got 0"),
        (["digits", "--minutes", "nan"], "--minutes must be positive and finite, got nan"),
        (["digits", "--minutes", "inf"], "--minutes must be positive and finite, got inf"),
        (["digits", "--samples", "0"], "--samples must be at least 1, got 0"),
        (["digits", "--samples", "-5"], "--samples must be at least 1, got -5"),
        (["digits", "--samples", "many"], "invalid int value: 'many'"),
        (["digits", "--samples", "64", "--minutes", "1"], "not allowed with"),
        (["digits", "--precision", "fp8"], "unknown precision 'fp8': fp32, bf16 or fp16"),
        (["digits", "--device", "gpu"], "unknown device 'gpu'"),
        (["digits", "--device", "meta"], "unknown device 'meta'"),
        (["digits", "--capture", "--device", "cpu"], "records CUDA graphs, and the device is cpu: leave it out"),
        (["digits", "--shard", "--device", "cpu"], "sharded among several processes, and there is one"),
        (["digits", "--unknown"], "unrecognized arguments: --unknown"),
        ([], "required: NAME"),
    ],
    ids=lambda v: " ".join(v[-3:]) if isinstance(v, list) else "",
)
def test_wrong_training_is_refused_before_anything_is_written(
    cli: Callable[..., Result], tmp_path: Path, arguments: list[str], message: str
) -> None:
    refused(cli("train", *arguments), message)
    assert not list(tmp_path.rglob("*"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there(cli: Callable[..., Result], tiny: Path) -> None:
    refused(cli("train", "digits", "--device", "cuda"), "sees no CUDA: use cpu")
    refused(cli("sample", tiny, "--device", "cuda:1", "--out", "x.png"), "'cuda:1' was asked for")


def test_a_folder_that_is_not_empty_is_left_alone(cli: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("x")
    for out in ("mine", "file"):
        refused(cli("train", "digits", *SMALL, "--samples", 64, "--out", out), f"{out} exists")
    assert tree(tmp_path) == {"mine/thesis.txt": b"years of work", "file": b"x"}


def test_a_place_that_cannot_be_written_is_named(cli: Callable[..., Result], tmp_path: Path, tiny: Path) -> None:
    (tmp_path / "file").write_text("x")
    failed = cli("train", "digits", *SMALL, "--samples", 64, "--out", "file/run")
    assert failed.code == 2 and re.match(r"unnoise: .*file/run", failed.err.splitlines()[-1])
    refused(cli("sample", tiny, "--out", "file/x"), "file/x cannot be made")
    assert tree(tmp_path) == {"file": b"x"}


# Recipes in files -----------------------------------------------------------------------------------------------------

RECIPE = '''
"""A recipe of one's own."""
import torch
import unnoise as un


class Own(torch.nn.Module):
    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = scale
        self.layer = torch.nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x, c_noise):
        return self.scale * self.layer(x)


def recipe():
    return un.Recipe(
        name="own",
        data=un.data.Arrays("x.npz"),
        codec=un.modality.Image((1, 4, 4), 0, 1, "float32"),
        model=un.Build(un.Preconditioned, net=un.Build(Own), parameterization=un.V()),
        batch=16,
        samples=32,
        sampling=un.Sampling(steps=2),
    )
'''


def pictures() -> np.ndarray:
    return np.linspace(0, 1, 40 * 16).reshape(40, 1, 4, 4).astype(np.float32)


def test_a_recipe_in_a_file(cli: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(RECIPE)
    np.savez("x.npz", x=pictures())
    assert cli("info", "own.py").out.startswith("name ")
    assert cli("train", "own.py", "-s", "model.net.scale=0.5").code == 0
    needs = "names the type 'own.Own'.*--types FILE.py"
    refused(cli("sample", "runs/own", "--out", "a.npz"), needs)
    refused(cli("resume", "runs/own", "--samples", 64), needs)
    assert cli("sample", "runs/own", "--types", "own.py", "-n", 3, "--out", "a.npz").code == 0
    with np.load("a.npz") as archive:
        assert sorted(archive.files) == ["seed", "x"] and archive["x"].shape == (3, 1, 4, 4)
        assert archive["x"].dtype == np.float32
    assert cli("resume", "runs/own", "--types", "own.py", "--samples", 64).code == 0
    assert "model.net.scale" in cli("info", "runs/own", "--types", "own.py").out
    refused(cli("sample", "runs/own", "--types", "own.py", "--cond", "label=3"), "takes no conditions")
    refused(cli("sample", "runs/own", "--types", "none.py"), "no such file: none.py")
    refused(cli("evaluate", "runs/own", "--types", "own.py"), "names no judge")


def test_vectors_are_trained_without_pictures(cli: Callable[..., Result], tmp_path: Path) -> None:
    plain = RECIPE.replace('Image((1, 4, 4), 0, 1, "float32")', "Plain((1, 4, 4), 0.5, 0.3)")
    (tmp_path / "own.py").write_text(plain)
    np.savez("x.npz", x=pictures())
    assert cli("train", "own.py").code == 0
    assert not (tmp_path / "runs" / "own" / "samples").exists()
    refused(cli("sample", "runs/own", "--types", "own.py", "--out", "x.png"), "not a picture: write .npz")
    assert cli("sample", "runs/own", "--types", "own.py", "-n", 2).code == 0
    assert np.load("runs/own/out/seed000001.npy").shape == (1, 4, 4)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"x": np.where(pictures() == pictures()[7, 0, 1, 1], np.nan, pictures())},
            "in 1 of 40 items, first in item 7",
        ),
        ({"y": pictures()}, r"has no array 'x', only \['y'\]: save with np.savez"),
        ({"x": (255 * pictures()).astype(np.uint8)}, "data are torch.uint8"),
        ({"x": 255 * pictures()}, r"range from 0 to 255, the codec expects 0 to 1"),
        ({"x": 2 * pictures() - 1}, r"range from -1 to \S+, the codec expects 0 to 1.*normalised already"),
        ({"x": pictures()[:0]}, "training data are empty"),
        ({"x": pictures()[:, :, :3]}, r"shape \(1, 3, 4\)"),
        ({"x": pictures(), "label": np.arange(39)}, "differ in length"),
        (None, "no such file: x.npz"),
    ],
    ids=["nan", "no-x", "uint8", "255", "normalised", "empty", "shape", "length", "missing"],
)
def test_data_that_cannot_be_learned_from(
    cli: Callable[..., Result], tmp_path: Path, arrays: dict[str, Any] | None, message: str
) -> None:
    """Pitfall 30: ranges are checked on the first batch, before anything is written."""
    (tmp_path / "own.py").write_text(RECIPE)
    if arrays is not None:
        np.savez("x.npz", **arrays)
    refused(cli("train", "own.py"), message)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def recipe(:", "could not be run: SyntaxError"),
        ("import nothing_of_this_name", "could not be run: ModuleNotFoundError"),
        ("x = 1", r"defines no function recipe\(\)"),
        ("recipe = 3", r"defines no function recipe\(\)"),
        ("def recipe():\n    return 3", r"returned int, not a Recipe"),
        (RECIPE.replace("net=un.Build(Own)", "net=un.Build(Own, scael=1)"), "unexpected keyword argument 'scael'"),
        (RECIPE.replace("batch=16", "batch=0"), "batch must be at least 1, got 0"),
    ],
    ids=["syntax", "import", "none", "number", "returns", "argument", "value"],
)
def test_files_that_are_no_recipes(cli: Callable[..., Result], tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "own.py").write_text(text)
    refused(cli("train", "own.py"), message)
    assert [f.name for f in tmp_path.iterdir() if f.name != "__pycache__"] == ["own.py"]


# Sample ---------------------------------------------------------------------------------------------------------------


def test_a_grid_an_archive_and_a_folder(cli: Callable[..., Result], tmp_path: Path, tiny: Path) -> None:
    asked = ["sample", tiny, "-n", 5, "--seed", 7, "--steps", 2, "--cond", "label=3,1"]
    for out, said in (("x.png", ""), ("deep/er/x.npz", ""), ("folder", " in 5 files")):
        assert cli(*asked, "--out", out) == (0, f"{out}: 5 samples{said}\n", "")
    labels = [3, 1, 3, 1, 3]
    files = [f"seed{7 + i:06d}-label{labels[i]}.png" for i in range(5)]
    assert sorted(f.name for f in (tmp_path / "folder").iterdir()) == ["samples.json", *files]
    with np.load("deep/er/x.npz") as archive:
        x = archive["x"]
        assert archive["seed"].tolist() == [7, 8, 9, 10, 11] and archive["label"].tolist() == labels
    model = unnoise.Model.load(tiny)
    assert np.array_equal(x, model.sample(5, seed=7, steps=2, label=[3, 1]))
    sheet = np.asarray(Pillow.open("x.png"))
    assert sheet.shape == (2 * 33 - 1, 3 * 33 - 1)
    for i in range(5):
        shown = np.round(x[i, 0] * (255 / 16)).astype(np.uint8)
        assert np.array_equal(np.asarray(Pillow.open(f"folder/{files[i]}")), shown)
        top, left = (i // 3) * 33, (i % 3) * 33
        assert np.array_equal(sheet[top : top + 32 : 4, left : left + 32 : 4], shown)
    refused(cli(*asked, "--out", "x.png"), "x.png exists: choose another --out or remove it")


def test_conditions_from_a_file(cli: Callable[..., Result], tiny: Path) -> None:
    """Its column of this name, or else x."""
    np.savez("label.npz", label=[4, 2])
    np.savez("x.npz", x=[4, 2])
    np.savez("y.npz", y=[4, 2])
    for file in ("label", "x"):
        asked = ["sample", tiny, "-n", 3, "--steps", 1, "--cond", f"label={file}.npz"]
        assert cli(*asked, "--out", f"of-{file}.npz").code == 0
        assert np.load(f"of-{file}.npz")["label"].tolist() == [4, 2, 4]
    refused(
        cli("sample", tiny, "--cond", "label=y.npz", "--out", "z"), r"y.npz has no array 'label' or 'x', only \['y'\]"
    )


def test_without_conditions_it_says_what_it_does(cli: Callable[..., Result], tmp_path: Path, tiny: Path) -> None:
    shutil.copytree(tiny, tmp_path / "run")
    done = cli("sample", "run", "-n", 12, "--steps", 1)
    assert done.code == 0 and done.err == "no --cond: label: a function of each sample's seed\n"
    assert done.out == "run/out: 12 samples in 12 files\n"
    assert (tmp_path / "run" / "out" / "seed000011-label1.png").is_file()


def test_output_does_not_depend_on_the_batch(cli: Callable[..., Result], tiny: Path) -> None:
    made = []
    for batch in (1, 2, 8):
        out = f"{batch}.npz"
        assert cli("sample", tiny, "-n", 5, "--steps", 2, "--batch", batch, "--deterministic", "--out", out).code == 0
        with np.load(out) as archive:
            made.append(archive["x"])
    assert np.array_equal(made[0], made[1]) and np.array_equal(made[0], made[2])


def test_settings_reach_the_sampler(cli: Callable[..., Result], tiny: Path) -> None:
    model = unnoise.Model.load(tiny)
    sampler = unnoise.sample.Ancestral(eta=0.5)
    for name, options, made in (
        ("a", ["--sampler", "Ancestral(eta=0.5)", "--steps", 4], model.sample(3, sampler=sampler, steps=4)),
        ("b", ["--sampler", "ancestral(eta=0.5)", "--steps", 4], model.sample(3, sampler=sampler, steps=4)),
        ("c", ["--guidance", "3.5"], model.sample(3, guidance=3.5)),
        ("d", ["--guidance", "-1"], model.sample(3, guidance=-1.0)),  # away from the class
        ("h", ["--guidance", 3.5, "--interval", -1.5, 2], model.sample(3, guidance=3.5, interval=(-1.5, 2))),
        ("i", ["--grid", "KarrasGrid(sigma_min=0.01,rho=5)"], model.sample(3, grid=KarrasGrid(sigma_min=0.01, rho=5))),
        ("j", ["--start", "mean"], model.sample(3, start="mean")),
        ("e", ["--weights", "raw"], unnoise.Model.load(tiny, weights="raw").sample(3)),
        ("f", ["--weights", "0.07"], unnoise.Model.load(tiny, weights=0.07).sample(3)),
        ("g", ["--seed", "-2"], model.sample(3, seed=-2)),
    ):
        assert cli("sample", tiny, "-n", 3, *options, "--out", f"{name}.npz").code == 0
        with np.load(f"{name}.npz") as archive:
            assert np.array_equal(archive["x"], made), options


def test_guidance_that_overflows_is_among_the_causes(cli: Callable[..., Result], tiny: Path) -> None:
    done = cli("sample", tiny, "-n", 2, "--steps", 2, "--guidance", "1e30", "--out", "x.npz")
    assert done.code == 1 and "is not finite: " in done.err and "guidance is too strong" in done.err


def test_samples_made_otherwise_are_refused(cli: Callable[..., Result], tmp_path: Path, tiny: Path) -> None:
    plain = ["sample", tiny, "-n", 3, "--steps", 1, "--out", "folder"]
    asked = [*plain, "--cond", "label=1"]
    assert cli(*asked).code == 0
    before = tree(tmp_path)
    for more, named in (
        (["--steps", "2"], "sampling"),
        (["--sampler", "Euler"], "sampling"),
        (["--grid", "KarrasGrid(sigma_min=0.01,rho=5)"], "sampling"),
        (["--start", "mean"], "sampling"),
        (["--guidance", "2"], "sampling"),
        (["--weights", "raw"], "weights"),
        (["--precision", "bf16"], "precision"),
        (["--cond", "label=2"], "cond"),
    ):
        refused(
            cli(*(plain if "--cond" in more else asked), *more),
            rf"folder holds samples made otherwise \(another {named}\): choose another --out",
        )
    assert tree(tmp_path) == before
    assert cli(*asked, "-n", 4).code == 0  # more of the same
    assert {k: v for k, v in tree(tmp_path).items() if k in before} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-n", "-3"], "-n must be at least 1, got -3"),
        (["-n", "0"], "-n must be at least 1, got 0"),
        (["--batch", "0"], "--batch must be at least 1, got 0"),
        (["--steps", "0"], "steps must be at least 1, got 0"),
        (["--steps", "many"], "argument --steps: invalid int value: 'many'"),
        (["--sampler", "Huen"], "--sampler='Huen' is unknown: did you mean Heun"),
        (["--sampler", "Ancestral(eta=2)"], "eta must lie in .* got 2"),
        (["--sampler", "Ancestral(etta=1)"], "has no argument 'etta': did you mean eta"),
        (["--sampler", "Heun("], "'Heun\\(' is not a name with arguments"),
        (["--grid", "KarasGrid"], "--grid='KarasGrid' is unknown: did you mean KarrasGrid"),
        (["--grid", "KarrasGrid(rho=0)"], "rho must be positive and finite, got 0"),
        (["--grid", "KarrasGrid(sigma_max=1e9)"], "the grid has a level of log-SNR .*: use a grid inside it"),
        (["--start", "men"], "argument --start: invalid choice: 'men' .choose from 'zero', 'mean'"),
        (["--interval", "5", "-4"], "guidance acts between two log-SNR, low < high, got 5.0 and -4.0"),
        (["--interval", "5"], "argument --interval: expected 2 arguments"),
        (["--guidance", "nan"], "guidance must be finite, got nan"),
        (["--cond", "label=10"], "label=10 is out of range: there are classes 0 to 9"),
        (["--cond", "label=-1"], "label=-1 is out of range"),
        (["--cond", "label="], "'label=' is not understood: write label=3"),
        (["--cond", "label"], "'label' is not understood"),
        (["--cond", "label=all", "--cond", "label=3"], "--cond label is given twice, the second time as 'label=3'"),
        (["-n", "2", "--cond", "label=1,2,3"], "label has 3 values for 2 samples: ask for 3, or leave some out"),
        (["--weaker", "0.5"], "--weaker 0.5 does nothing without autoguidance: add --autoguidance 2"),
        (["--guidance", "1", "--interval", "-1", "2"], "--interval does nothing without guidance: add --guidance"),
        (["--cond", "label=three"], "'label=three' is not understood"),
        (["--cond", "lable=3"], "unknown condition 'lable': did you mean label"),
        (["--cond", "lable=all"], "unknown condition 'lable': did you mean label"),
        (["--weights", "0.9"], "EMA width is a share of the run .*; got 0.9"),
        (["--weights", "rav"], "--weights is an EMA width such as 0.1, or raw; got 'rav'"),
        (["--weights", "nan"], "got nan"),
        (["--seed", str(2**63)], f"64-bit integers, got {2**63}"),
        (["--precision", "fp8"], "unknown precision 'fp8': fp32, bf16 or fp16"),
        (["--out", "x.jpg"], r"cannot write samples as '\.jpg'"),
        (["--device", "gpu"], "unknown device 'gpu'"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_wrong_sampling_is_refused_before_anything_is_written(
    cli: Callable[..., Result], tmp_path: Path, tiny: Path, arguments: list[str], message: str
) -> None:
    refused(cli("sample", tiny, "--out", "out", *arguments), message)
    assert not list(tmp_path.iterdir())


def test_folders_that_are_no_runs(cli: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "x.txt").write_text("x")
    for command in ("sample", "resume", "evaluate"):
        refused(cli(command, "none"), "no such run: none")
        refused(cli(command, "empty"), "empty is empty")
        refused(cli(command, "foreign"), "foreign is not a run of unnoise")
        refused(cli(command, "foreign/x.txt"), "no such run: foreign/x.txt")
    assert tree(tmp_path) == {"foreign/x.txt": b"x"}


def damage_cut(folder: Path) -> None:
    file = folder / "components/model/weights.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def damage_byte(folder: Path) -> None:
    file = folder / "components/model/weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-50] ^= 1
    file.write_bytes(content)


def damage_spec(folder: Path) -> None:
    file = folder / "components/model/manifest.json"
    file.write_text(file.read_text().replace('"width": 8', '"width": 16'))


def damage_manifest(folder: Path) -> None:
    file = folder / "manifest.json"
    file.write_text(file.read_text().replace('"seed": 0', '"seed": 1'))


def damage_missing(folder: Path) -> None:
    (folder / "groups/ema-0.1.safetensors").unlink()


def damage_gone(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_cut, r"weights\.safetensors was changed after it was written: sha256"),
        (damage_byte, r"weights\.safetensors was changed"),
        (damage_spec, r"components/model/manifest\.json was changed"),
        (damage_manifest, r"1920/manifest\.json was changed"),
        (damage_missing, r"ema-0\.1\.safetensors is missing"),
        (damage_gone, r"manifest\.json is missing"),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_damaged_checkpoints_are_named(
    cli: Callable[..., Result], tmp_path: Path, tiny: Path, damage: Callable[[Path], None], message: str
) -> None:
    shutil.copytree(tiny, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "0")
    damage(tmp_path / "run" / "checkpoints" / "1920")
    before = tree(tmp_path)
    for command in (["sample", "run", "--out", "x.png"], ["resume", "run", "--samples", 9999], ["info", "run"]):
        refused(cli(*command), message)
    assert tree(tmp_path) == before


def test_a_checkpoint_of_another_network_is_named(cli: Callable[..., Result], tmp_path: Path, tiny: Path) -> None:
    """A checkpoint that is whole, but whose weights are not those of its description."""
    contents = checkpoint.read(checkpoint.locate(tiny))
    contents.specs["model"]["net"]["width"] = 16
    checkpoint.write(tmp_path / "other", contents)
    refused(cli("sample", "other", "--out", "x.png"), "weights of 'model' are those of another network: '.*' is")
    contents.specs["model"]["$type"] = "os.system"
    checkpoint.write(tmp_path / "evil", contents)
    refused(cli("sample", "evil", "--out", "x.png"), "names the type 'os.system', which is not one of unnoise's")


# Evaluate, info, list, version ----------------------------------------------------------------------------------------


def test_evaluation_states_its_protocol(cli: Callable[..., Result], tmp_path: Path, tiny: Path) -> None:
    """Pitfalls 16 and 17: mean and standard error over seeds, and what exactly was measured."""
    shutil.copytree(tiny, tmp_path / "run")
    done = cli("evaluate", "run", "-n", 900, "--repeats", 2, "--steps", 1, "--weights", "0.05", "--seed", 77)
    assert done.code == 0, done
    assert "read as asked" in done.out and " +- " in done.out and "ratio" in done.out
    result = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    protocol, measured = result["protocol"], result["measured"]
    assert (protocol["samples"], measured["repeats"], measured["seed"]) == (900, 2, 77)
    assert measured["weights"] == 0.05 and measured["seen"] == 1920
    assert measured["sampling"]["steps"] == 1 and protocol["judge"]["samples"] == 512
    figures = {f["name"]: f for f in result["figures"]}
    assert figures.keys() >= {"read as asked", "recall-judge", "fd-judge of 900"}
    for name, figure in figures.items():
        assert figure["error"] is not None and figure["error"] >= 0, name
        assert (figure["real"] is None) == (name == "fd-judge of 900"), name
    assert any(figure["error"] > 0 for figure in figures.values())
    assert re.search(rf"^protocol {result['protocol_hash']}; ", done.out, re.MULTILINE)

    refused(cli("evaluate", "run", "-n", 10), "needs -n of at least 898, got 10")
    refused(cli("evaluate", "run", "-n", 0), "-n must be at least 1, got 0")
    refused(cli("evaluate", "run", "--repeats", 0), "--repeats must be at least 1, got 0")
    refused(cli("evaluate", "run", "--batch", 0), "--batch must be at least 1, got 0")
    unnoise.Model.load(tiny).save(tmp_path / "saved")
    refused(cli("evaluate", "saved", "--steps", 0), "steps must be at least 1")


def test_evaluation_draws_as_many_at_a_time_as_are_asked_for(
    cli: Callable[..., Result], tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As memory allows, whose lack names --batch of a sampling; figures do not depend on it."""
    sizes, sample = set[int](), unnoise.Model.sample

    def noted(self: unnoise.Model, n: int, *, batch: int, **settings: Any) -> Any:
        sizes.add(batch)
        return sample(self, n, batch=batch, **settings)

    monkeypatch.setattr(unnoise.Model, "sample", noted)
    out = [cli("evaluate", tiny, "-n", 900, "--steps", 1, "--batch", b, "--out", f"of{b}").out for b in (300, 100)]
    assert sizes == {300, 100} and [o.split("protocol")[0] for o in out] == [out[0].split("protocol")[0]] * 2


def test_what_does_not_fit_into_memory_is_one_line(cli: Callable[..., Result], tiny: Path) -> None:
    for command in (["sample", tiny, "--out", "out"], ["evaluate", tiny, "--out", "measured"]):
        done = cli(*command, "-n", 10**15)
        said = "unnoise: out of memory with --batch 256: a smaller one takes less, and a smaller -n"
        assert done.code == 1 and done.err.splitlines()[-1] == said


def test_versions_and_usage(cli: Callable[..., Result]) -> None:
    assert cli("--version") == (0, f"unnoise {unnoise.__version__}\n", "")
    refused(cli(), "required: COMMAND .see unnoise --help")
    refused(cli("smaple"), "invalid choice: 'smaple'")
    for command in ("train", "resume", "sample", "evaluate", "info", "list"):
        help_ = cli(command, "--help")
        assert help_.code == 0 and len(help_.out.splitlines()) > 4


def test_the_list_names_everything(cli: Callable[..., Result]) -> None:
    out = cli("list").out
    for package in ("sample", "sample.grids", "nets"):
        for name in importlib.import_module(f"unnoise.{package}").__all__:
            assert re.search(rf"^  {name} +\S.{{10,}}$", out, re.MULTILINE), name
    assert re.search(r"^  digits +Class-conditional", out, re.MULTILINE)


def test_a_library_s_error_is_not_hidden(cli: Callable[..., Result], tmp_path: Path, monkeypatch: Any) -> None:
    """What is not ours is a bug, whose traceback is needed."""
    (tmp_path / "own.py").write_text(RECIPE.replace("return self.scale", "return torch.zeros(2).view(3) * self.scale"))
    np.savez("x.npz", x=pictures())
    with pytest.raises(RuntimeError, match="shape"):
        cli("train", "own.py")


def test_a_failing_compiler_is_one_line(tmp_path: Path) -> None:
    """Where there is no C++ compiler, as in many containers, a stack of torch's own says little."""
    net = MLP(channels=2, width=4, blocks=1)  # of a U-Net much more would be traced
    unnoise.Model(unnoise.Preconditioned(net, unnoise.V()), Plain((2,))).save(tmp_path / "model")
    env = {**ENVIRONMENT, "CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, *UNNOISE, "sample", "model", "-n", "1", "--batch", "1", "--steps", "1", "--compile"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    line = r"unnoise: torch.compile failed \(InvalidCxxCompiler: .*none.*\): mend that, or leave --compile out\n"
    assert re.fullmatch(line, done.stderr), done.stderr


# Real processes: signals, terminals, pipes ----------------------------------------------------------------------------


def wait_for(condition: Callable[[], bool], process: Any) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert process.poll() is None and time.monotonic() < end, "ended before it could be stopped"
        time.sleep(0.02)


@pytest.mark.parametrize("out", ["out", "out.npz"])
def test_a_stopped_sampling_goes_on(python: Python, tmp_path: Path, tiny: Path, out: str) -> None:
    def start(steps: int) -> Any:
        command = [*UNNOISE, "sample", tiny, "-n", 48, "--batch", 8, "--steps", steps, "--cond", "label=all"]
        return python.start(*command, "--out", out, cwd=tmp_path)

    def stopped(steps: int) -> tuple[int, str, str]:
        process = start(steps)
        while process.poll() is None and len(list(home.glob("*"))) < 3:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=120)
        return process.returncode, stdout, stderr

    home = tmp_path / (out if out == "out" else "out.npz.parts")
    for steps in (6, 25, 100, 400, 1600):  # until it takes longer than a busy machine takes to pass the signal on
        code, stdout, stderr = stopped(steps)
        if code == 130:
            break
        for made in tmp_path.iterdir():
            shutil.rmtree(made) if made.is_dir() else made.unlink()
    assert (code, stdout) == (130, "")
    assert stderr == f"unnoise: stopped; the same command goes on with {out}\n"
    made = {f: f.stat().st_mtime_ns for f in home.glob("*") if f.suffix in (".png", ".npz")}
    assert made and (out == "out" or not (tmp_path / out).exists())
    process = start(steps)
    stdout, stderr = process.communicate(timeout=300)
    assert (process.returncode, stderr) == (0, "")

    model = unnoise.Model.load(tiny)
    whole = model.sample(48, steps=steps, batch=8, label="all")
    if out == "out":
        chunks = [[f for f in made if int(f.name[4:10]) // 8 == k] for k in range(6)]
        whole_chunks = [f for chunk in chunks if len(chunk) == 8 for f in chunk]
        assert all(f.stat().st_mtime_ns == made[f] for f in whole_chunks)  # not made again
        files = whole.save(tmp_path / "whole")
        assert sorted(f.name for f in home.glob("*.png")) == sorted(f.name for f in files)
        assert all((home / f.name).read_bytes() == f.read_bytes() for f in files)
        assert not list(home.glob("*.part"))
    else:
        assert sorted(f.name for f in tmp_path.iterdir()) == ["out.npz"]
        with np.load(tmp_path / out) as archive:
            assert np.array_equal(archive["x"], whole) and archive["seed"].tolist() == list(range(48))


def test_a_stopped_training_says_how_to_go_on(python: Python, tmp_path: Path) -> None:
    command = [*UNNOISE, "train", "digits", *SMALL, "-s", "log_every=1", "--samples", "640000", "--out", "run"]
    process = python.start(*command, cwd=tmp_path)
    log = tmp_path / "run" / "metrics.jsonl"
    wait_for(lambda: log.is_file() and log.read_text().count("\n") >= 2, process)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    (said,) = re.findall(
        r"^unnoise: stopped and saved after (\d+) samples; go on with: unnoise resume run$", stderr, re.M
    )
    assert checkpoint.read(checkpoint.locate(tmp_path / "run")).facts["seen"] == int(said)
    assert "Traceback" not in stderr


def test_a_terminal_shows_a_bar(python: Python, tmp_path: Path, tiny: Path) -> None:
    """And no lines of a log, which would tear it."""

    def on_a_terminal(*arguments: str) -> str:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
        process = python.start(*UNNOISE, *arguments, cwd=tmp_path, stderr=theirs)
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while chunk := os.read(ours, 4096):
                shown += chunk
        os.close(ours)
        assert process.wait() == 0, shown
        return shown.decode()

    train = on_a_terminal("train", "digits", *SMALL, "-s", "log_every=2", "--samples", "512", "--out", "run")
    assert "100%|" in train and "512/512" in train
    assert re.search(r"\| 512/512 .*loss \d\.\d{4}  held out \d\.\d{4}", train)
    assert "of 512 samples" not in train
    assert "digits: 48,753 parameters" in train
    sample = on_a_terminal("sample", str(tiny), "-n", "8", "--steps", "1", "--cond", "label=1", "--out", "x.npz")
    assert "100%|" in sample and "8/8" in sample


def test_a_reader_that_leaves_is_no_error() -> None:
    """unnoise list | head -1"""
    command, pipe = [sys.executable, *UNNOISE, "info", "digits"], subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=ENVIRONMENT)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    process.wait(timeout=60)
    assert err == ""


def test_ctrl_c_while_torch_is_imported_is_one_line(tmp_path: Path) -> None:
    """Which takes seconds; here for ever, by a torch that swallows a KeyboardInterrupt as parts of the real one do."""
    (tmp_path / "torch.py").write_text("""
import pathlib, time
pathlib.Path("importing").touch()
while True:
    try:
        time.sleep(600)
    except KeyboardInterrupt:
        pass
""")
    process = subprocess.Popen(
        [sys.executable, *UNNOISE, "list"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**ENVIRONMENT, "PYTHONPATH": str(tmp_path)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    try:
        wait_for((tmp_path / "importing").is_file, process)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == ("", "unnoise: stopped\n")
        assert process.returncode == 130
    finally:
        process.kill()


def test_negative_numbers_are_values_in_every_notation(tiny: Path, cli: Callable[..., Result]) -> None:
    model = unnoise.Model.load(tiny)
    given: dict[str, Any] = {"steps": 2, "guidance": -0.5, "seed": -3, "label": 1}
    for k, (low, high) in enumerate([("-inf", "5"), ("-Infinity", "-1e-1"), ("-2.", "inf"), ("-.5E+1", "-2")]):
        asked = ["--steps", 2, "--guidance", "-5e-1", "--seed", -3, "--cond", "label=1"]
        done = cli("sample", tiny, "-n", 2, *asked, "--interval", low, high, "--out", f"{k}.npz")
        assert done.code == 0, done.err
        with np.load(f"{k}.npz") as archive:
            assert np.array_equal(archive["x"], model.sample(2, interval=(float(low), float(high)), **given))
    assert "-inf inf for everywhere" in " ".join(cli("sample", "--help").out.split())
    refused(cli("sample", tiny, "--interval", "-info", "5"), "--interval: expected 2 arguments")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.net.channels=3", r"this UNet has channels=3, x has 1: \(2, 1, 8, 8\)"),
        ("model.net.labels={'label': 5}", "the UNet knows 5 classes of 'label', the conditioner tells 10: give both"),
        ("model.net.dropout=2", r"dropout is a probability in \[0, 1\), got 2"),
        ("objective.model=foo", r"an objective asks for 'foo', but the recipe's networks are \['model'\]"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_one_line(
    cli: Callable[..., Result], tmp_path: Path, setting: str, message: str
) -> None:
    refused(cli("train", "digits", *SMALL, "-s", setting), message)
    assert not list(tmp_path.iterdir())


def test_types_are_read_from_a_python_file(cli: Callable[..., Result], tiny: Path) -> None:
    np.savez("x.npz", x=np.zeros(2))
    refused(cli("sample", tiny, "--types", "x.npz"), r"x\.npz is no Python file: its name ends in \.py")


def test_a_name_that_leads_elsewhere_is_refused(cli: Callable[..., Result], tmp_path: Path) -> None:
    for name in ("", "..", "a/b", "../../x"):
        refused(cli("train", "digits", *SMALL, "-s", f"name={name}"), f"called '{name}', which names no folder in runs")
    assert not list(tmp_path.iterdir())
