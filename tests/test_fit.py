"""Runs: gone on with to the bit, killed at any moment, stopped by signals, out of room, and in several processes."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from unnoise import checkpoint, fit, recipes, session
from unnoise.checkpoint import CheckpointError, locate, read
from unnoise.core.denoiser import Preconditioned
from unnoise.core.parameterization import Edm
from unnoise.data import Digits
from unnoise.errors import UserError
from unnoise.lock import alone
from unnoise.log import JsonLines, read_lines
from unnoise.modality import Labels, Plain
from unnoise.model import Model
from unnoise.optim import AdamW
from unnoise.override import override
from unnoise.recipe import Phase, Recipe
from unnoise.runtime import Runtime
from unnoise.session import Pace, affordable, watch_due
from unnoise.spec import Build
from unnoise.train import NonFinite

if TYPE_CHECKING:
    from programs import Python

RUN = Runtime()
TINY = {
    "model.net.width": "8",
    "model.net.multipliers": "1",
    "model.net.attention": "",
    "model.net.middle_attention": "false",
    "batch": "16",
    "log_every": "5",
    "sampling.steps": "2",
    "data.held_out": "0.02",
}
SETTINGS = [word for k, v in TINY.items() for word in ("-s", f"{k}={v}")]


def digits(**changes: str) -> Recipe:
    """The digits recipe (dropout 0.1), tiny; keys with dots are given with two underscores."""
    recipe = recipes.load("digits")[0]
    for k, v in {**TINY, **{k.replace("__", "."): v for k, v in changes.items()}}.items():
        recipe = override(recipe, f"{k}={v}")
    return recipe


def tensors(run: Path) -> dict[str, Tensor]:
    """Every tensor of the latest checkpoint, by component or group."""
    found = read(locate(run))
    parts = {**found.weights, **{f"group {k}": v for k, v in found.groups.items()}}
    return {f"{k}/{name}": x for k, v in parts.items() for name, x in v.items()}


def assert_same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    different = [k for k in a if not torch.equal(a[k], b[k])]
    assert not different


def difference(a: Path, b: Path) -> float:
    """The largest difference of any weight or average."""
    first, second = ({k: v for k, v in tensors(r).items() if k.startswith(("model", "group ema"))} for r in (a, b))
    assert first.keys() == second.keys() and first
    return max(float((first[k] - second[k]).abs().max()) for k in first)


def lines(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl but for what a clock measures."""
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read_lines(run / "metrics.jsonl")]


class Dead(Exception):
    """What a run dies of, in a test."""


@dataclass
class Fatal:
    """A logger at which the process dies, as far as the run can see."""

    at: int

    def log(self, seen: int, values: Mapping[str, Any]) -> None:
        if seen >= self.at:
            raise Dead

    def image(self, seen: int, name: str, picture: Any) -> None: ...


# Real processes ------------------------------------------------------------------------------------------------------

IMPORTS = "from unnoise import cli, evaluate, export, fit, info, recipes, session"
COMMAND = """
import resource, signal, sys
every, room, *arguments = sys.argv[1:]
session.SAVE_EVERY = float(every)
if int(room):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(room), int(room)))
sys.exit(cli.main(arguments))
"""


@dataclass
class Commands:
    """`unnoise ...` in processes of their own, forked from one that has imported everything: fast, and real.

    Checkpoints are written every `every` seconds instead of every minute; `room` limits the size of files.
    """

    python: Python

    def start(self, *arguments: Any, every: float = 60.0, room: int = 0) -> Any:
        return self.python.start("-c", f"{IMPORTS}{COMMAND}", every, room, *arguments)


@pytest.fixture(scope="module")
def commands(python: Python, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    imported = type(python)(tmp_path_factory.mktemp("commands"), python, IMPORTS)
    yield Commands(imported)
    imported.close()


def until(condition: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


# Going on ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [0.0, 60.0])
def test_a_run_that_went_on_is_the_run_that_was_not_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: float
) -> None:
    """Pitfall 18: train 2N == train N, die, resume N, bit for bit, with dropout: weights, both averages, moments, the
    order of data, the log, snapshots and pictures. With every=0 the last checkpoint lies within a line of the log."""
    recipe = digits(log_every="4")
    fit.start(recipe, tmp_path / "a", RUN, samples=320)
    monkeypatch.setattr(session, "SAVE_EVERY", every)
    for name, stop in (("b", 192), ("c", 16 * 4)):
        with pytest.raises(Dead):
            fit.start(recipe, tmp_path / name, RUN, samples=320, loggers=[Fatal(stop)])
        at = int(locate(tmp_path / name).name)
        assert at == (stop - 16 if every == 0 else 0)
        assert lines(tmp_path / name)[-1]["seen"] == stop  # written before it died: to be dropped and written again
        fit.resume(tmp_path / name, RUN)
        assert_same(tensors(tmp_path / "a"), tensors(tmp_path / name))
        assert lines(tmp_path / "a") == lines(tmp_path / name) and len(lines(tmp_path / name)) == 5
        facts = [read(locate(tmp_path / r)).facts for r in ("a", name)]
        assert {k: v for k, v in facts[0].items() if k != "elapsed"} == {
            k: v for k, v in facts[1].items() if k != "elapsed"
        }
        files = [f.relative_to(tmp_path / "a") for sub in ("ema", "samples") for f in (tmp_path / "a" / sub).iterdir()]
        assert len(files) > 8
        for file in files:
            assert (tmp_path / "a" / file).read_bytes() == (tmp_path / name / file).read_bytes(), file
    assert {k.split("/")[0] for k in tensors(tmp_path / "a")} == {
        *("model", "group ema-0.05", "group ema-0.1", "group optim-0", "group train")
    }
    assert any(k.endswith(":exp_avg_sq") for k in tensors(tmp_path / "a"))


def test_going_on_with_another_length_is_the_longer_run(tmp_path: Path) -> None:
    """Where the learning rate does not know the end."""
    recipe = digits(optim__rate="Constant(warmup=64)")
    fit.start(recipe, tmp_path / "a", RUN, samples=160)
    fit.start(recipe, tmp_path / "b", RUN, samples=80)
    with pytest.raises(UserError, match=r"is complete: 80 samples seen; --samples N"):
        fit.resume(tmp_path / "b", RUN)
    with pytest.raises(UserError, match="is complete: 80"):
        fit.resume(tmp_path / "b", RUN, samples=70)  # 80 in whole batches
    with pytest.raises(UserError, match=r"^--samples 60 is fewer than the 80 that .*b has seen$"):
        fit.resume(tmp_path / "b", RUN, samples=60)
    fit.resume(tmp_path / "b", RUN, samples=150)  # whole batches
    assert_same(tensors(tmp_path / "a"), tensors(tmp_path / "b"))
    assert lines(tmp_path / "a") == lines(tmp_path / "b")


@dataclass(frozen=True)
class Dies:
    """An objective at which the process dies in its first step."""

    def __call__(self, components: Any, batch: Any, rng: Any, seen: int) -> Any:
        raise Dead


def test_a_checkpoint_is_there_before_the_first_step(tmp_path: Path) -> None:
    recipe = replace(digits(), phases=(Phase(Dies(), ("model",), AdamW()),))
    with pytest.raises(Dead):
        fit.start(recipe, tmp_path / "a", RUN, samples=320)
    assert locate(tmp_path / "a").name == "0"
    assert Model.load(tmp_path / "a").sample(2, steps=2).raw.shape == (2, 1, 8, 8)


def test_a_start_that_was_killed_at_once_can_be_started_again(tmp_path: Path) -> None:
    """Before its first checkpoint there is nothing to resume, and nothing that stands in the way."""
    home = tmp_path / "a"
    (home / "checkpoints" / ".0.77.part").mkdir(parents=True)
    (home / ".latest.77.part").write_text("{")
    checkpoint.write(home / "checkpoints" / "0", checkpoint.contents_of({}, {}, {}))
    fit.start(digits(), home, RUN, samples=16)
    assert Model.load(home).facts["seen"] == 16


@pytest.mark.parametrize("what", ["a run", "somebody's files", "a file"])
def test_a_folder_in_use_is_not_touched(tmp_path: Path, what: str) -> None:
    path = tmp_path / "a"
    if what == "a run":
        fit.start(digits(), path, RUN, samples=16)
    elif what == "a file":
        path.write_text("mine")
    else:
        path.mkdir()
        (path / "thesis.tex").write_text("mine")
    before = sorted((f, f.stat().st_mtime_ns) for f in tmp_path.rglob("*"))
    with pytest.raises(UserError, match=r"a exists: `unnoise resume .*a` goes on with it, --out"):
        fit.start(digits(), path, RUN, samples=16)
    assert sorted((f, f.stat().st_mtime_ns) for f in tmp_path.rglob("*")) == before


def test_a_run_is_trained_by_one_process_at_a_time(commands: Commands, tmp_path: Path) -> None:
    """A kill gives it free at once; to read it is always free."""
    run = tmp_path / "a"
    first = commands.start("train", "digits", *SETTINGS, "--samples", 320000, "--out", run, "--device", "cpu", every=0)
    until((run / "latest").is_file)
    try:
        second = commands.start("resume", run, "--samples", 640000, "--device", "cpu")
        assert second.wait() == 2
        assert second.text == f"unnoise: {run} is being trained by process {first.pid}: wait for it, or stop it\n"
        reader = commands.start("info", run)
        assert reader.wait() == 0, reader.text
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    seen = int(locate(run).name)
    again = commands.start("resume", run, "--samples", seen + 16, "--device", "cpu")
    assert again.wait() == 0, again.text
    assert int(locate(run).name) == seen + 16


def test_of_two_starts_one_is_refused(commands: Commands, tmp_path: Path) -> None:
    """Also where neither has written a checkpoint yet."""
    run = tmp_path / "a"
    (run / "checkpoints").mkdir(parents=True)
    with alone(run / "checkpoints" / ".lock", "x"):
        second = commands.start("train", "digits", *SETTINGS, "--samples", 16, "--out", run, "--device", "cpu")
        assert second.wait() == 2
        said = f"unnoise: {run} is being trained by process {os.getpid()}: wait for it, or stop it"
        assert second.text.splitlines()[-1] == said
    assert [f.name for f in run.rglob("*")] == ["checkpoints", ".lock"]
    third = commands.start("train", "digits", *SETTINGS, "--samples", 16, "--out", run, "--device", "cpu")
    assert third.wait() == 0, third.text


def test_nothing_is_written_for_a_run_that_cannot_be(tmp_path: Path) -> None:
    for change, match in [
        ({"codec__high": "255"}, "set codec.low and codec.high"),
        (
            {"conditioner__classes": "label=5", "model__net__labels": "label=5"},
            "there are classes 0 to 4",
        ),
        ({"codec__shape": "3,8,8"}, "set codec.shape"),
    ]:
        with pytest.raises(UserError, match=re.escape(match)):
            fit.start(digits(**change), tmp_path / "a", RUN, samples=16)
    with pytest.raises(UserError, match="unknown precision 'fp8': fp32, bf16 or fp16"):
        fit.start(digits(), tmp_path / "a", RUN, samples=16, precision="fp8")
    with pytest.raises(UserError, match="at least 1, got -5"):
        fit.start(digits(), tmp_path / "a", RUN, samples=-5)
    with pytest.raises(UserError, match="a batch of 16 does not divide among 3 processes"):
        fit.start(digits(), tmp_path / "a", Runtime3(), samples=16)
    assert not (tmp_path / "a").exists()


class Runtime3(Runtime):
    """One of three, as far as the arithmetic is concerned."""

    def __init__(self) -> None:
        super().__init__(world=3)

    def barrier(self) -> None: ...


# The log -------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:torch.*")
def test_a_compiled_run_compiles_its_training_step_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held-out losses and previews, of other modes and shapes, are evaluated as they are: the numbers are the same."""
    shapes: list[tuple[int, ...]] = []

    def backend(graph: Any, inputs: Any) -> Any:
        shapes.append(tuple(inputs[0].shape))
        return graph.forward

    compile_ = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self: compile_(self, backend=backend, dynamic=False))
    torch._dynamo.reset()
    recipe = digits(samples="64", log_every="2")
    state = fit.start(recipe, tmp_path / "a", compiled=True)
    assert len(shapes) == 1, shapes
    plain = fit.start(recipe, tmp_path / "b")
    for k, x in plain.named.items():
        torch.testing.assert_close(state.named[k], x)
    of_both = [read_lines(tmp_path / run / "metrics.jsonl") for run in "ab"]
    assert [x["held_out"] for x in of_both[0]] == pytest.approx([x["held_out"] for x in of_both[1]], rel=1e-4)


def test_grids_take_a_tenth_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the first, the last, and those that take some seconds."""
    for grids, elapsed, due in [([], 0, True), ([3.0], 10, True), ([3.0, 3.0, 3.0], 30, False), ([30.0], 210, False)]:
        assert affordable(grids, elapsed) is due
    assert affordable([30.0], 601) and not affordable([30.0, 30.0], 601) and affordable([30.0, 30.0], 901)
    recipe = digits(samples="128")
    for name, allowed, count in (("a", True, 4), ("b", False, 1)):
        monkeypatch.setattr(session, "affordable", lambda grids, elapsed, allowed=allowed: allowed)
        fit.start(recipe, tmp_path / name)
        assert len(list((tmp_path / name / "samples").iterdir())) == count


def test_a_captured_run_goes_on_where_nothing_can_be_captured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "check_capturable", lambda *given: None)  # as if it had been begun on a GPU
    recipe = digits(samples="64")
    fit.start(recipe, tmp_path / "a", Runtime(), captured=True)
    assert read(locate(tmp_path / "a")).facts["captured"] is True
    on, whole = fit.resume(tmp_path / "a", Runtime(), samples=128), digits(samples="128")
    plain = fit.start(whole, tmp_path / "b", Runtime())
    assert on.seen == 128 and all(torch.equal(x, plain.named[k]) for k, x in on.named.items())


def test_the_log_says_what_happened(tmp_path: Path) -> None:
    recipe = digits(log_every="5")
    fit.start(recipe, tmp_path / "a", RUN, samples=160)
    log = read_lines(tmp_path / "a" / "metrics.jsonl")
    assert [line["seen"] for line in log] == [80, 160]
    for line in log:
        assert {"loss", "loss_by_logsnr", "held_out", "held_out_by_logsnr", "lr", "norm", "skipped"} <= line.keys()
        assert len(line["loss_by_logsnr"]) == len(line["held_out_by_logsnr"]) == 10
        assert line["lr"] == recipe.optim.lr_at(line["seen"], 160) and line["skipped"] == 0
    assert log[1]["loss"] < log[0]["loss"] and log[0]["seconds"] < log[1]["seconds"]
    assert len(list((tmp_path / "a" / "samples").iterdir())) == session.PREVIEWS


def test_a_line_that_a_kill_cut_short_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"seen": 1, "loss": 2.0}\n{"seen": 2, "loss": 1.0}\n{"seen": 3, "lo', encoding="utf8")
    assert [line["seen"] for line in read_lines(path)] == [1, 2]
    log = JsonLines(path, seen=1)
    log.log(2, {"loss": 0.5})
    assert read_lines(path) == [{"seen": 1, "loss": 2.0}, {"seen": 2, "loss": 0.5}]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_log_on_a_full_disk_is_an_error_of_ours(tmp_path: Path) -> None:
    log = JsonLines(tmp_path / "metrics.jsonl")
    log.path.unlink()
    log.path.symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"metrics\.jsonl could not be written: .*No space left"):
        log.log(1, {"loss": 1.0})


# Averages ------------------------------------------------------------------------------------------------------------


def vector(run: Path, weights: Any) -> Tensor:
    """All weights of a run's model in a row."""
    return torch.cat([v.flatten() for v in Model.load(run, weights=weights).denoiser.state_dict().values()])


def test_a_third_width_is_made_afterwards(commands: Commands, tmp_path: Path) -> None:
    """Within 1e-2 of the one that is tracked on the way. Pitfall 20: which weights is explicit."""
    settings = [*SETTINGS, "-s", "log_every=100", "-s", "batch=8", "--samples", "1600", "--device", "cpu"]
    two, three = tmp_path / "two", tmp_path / "three"
    both = [
        commands.start("train", "digits", *settings, "-s", f"widths={widths}", "--out", run)
        for run, widths in ((two, "0.05,0.1"), (three, "0.05,0.1,0.075"))
    ]
    assert [command.wait() for command in both] == [0, 0], both[0].text
    raw, tracked = vector(two, "raw"), vector(three, 0.075)
    assert torch.equal(raw, vector(three, "raw"))  # averages change nothing of the training
    made = vector(two, 0.075)
    error = float((made - tracked).norm() / tracked.norm())
    print(f"error of a width made afterwards: {error:.2g}")
    assert error < 1e-2 and not torch.equal(made, tracked)
    moved = float((raw - tracked).norm() / tracked.norm())
    assert error < 0.1 * moved  # and much closer than the raw weights are
    assert torch.equal(vector(two, None), vector(two, 0.1)) and not torch.equal(vector(two, None), raw)
    assert torch.equal(vector(two, 0.05), vector(three, 0.05))


def test_the_raw_weights_the_averages_and_their_state_are_one_record(tmp_path: Path) -> None:
    """Pitfalls 18 and 20."""
    state = fit.start(digits(), tmp_path / "a", RUN, samples=320)
    found = read(locate(tmp_path / "a"))
    assert_same(found.weights["model"], state.components["model"].state_dict())
    for width in state.ema.widths:
        assert_same(found.groups[f"ema-{width:g}"], state.ema.state(width))
    raw, average = (Model.load(tmp_path / "a", weights=w).denoiser.state_dict() for w in ("raw", None))
    assert_same(raw, state.components["model"].state_dict())
    assert {f"model.{k}" for k in average} == found.groups["ema-0.1"].keys()
    assert all(torch.equal(v, found.groups["ema-0.1"][f"model.{k}"]) for k, v in average.items())
    assert any(not torch.equal(raw[k], average[k]) for k in raw)


# Starting from another run -------------------------------------------------------------------------------------------


def test_weights_are_taken_over_where_they_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit.start(digits(), tmp_path / "old", RUN, samples=320)
    old = Model.load(tmp_path / "old").denoiser.state_dict()
    capsys.readouterr()
    few = replace(digits(model__net__labels="label=4,style=2"), conditioner=None)
    few = replace(few, conditioner=Labels({"label": 4, "style": 2}), data=FewDigits(Digits()))
    fit.start(few, tmp_path / "new", RUN, samples=16, parent=tmp_path / "old", types=[FewDigits])
    said = capsys.readouterr().err
    start = read(tmp_path / "new" / "checkpoints" / "0")
    fresh = {k for k, v in start.weights["model"].items() if k not in old or not torch.equal(v, old[k])}
    assert fresh and all("label" in k or "style" in k for k in fresh) and len(fresh) < 5
    assert f"all weights but {len(fresh)} that differ" in said
    for group in ("ema-0.05", "ema-0.1"):  # the averages begin there too
        assert all(torch.equal(v, start.groups[group][f"model.{k}"]) for k, v in start.weights["model"].items())
    assert start.facts["seen"] == 0 and not start.groups["optim-0"]


@dataclass(frozen=True)
class FewDigits:
    """The digits 0 to 3, and whether there is much ink."""

    source: Digits

    def load(self) -> Any:
        data = self.source.load()
        parts = []
        for part in (data.train, data.held_out):
            few = part["label"] < 4
            x = part["x"][few]
            parts.append({"x": x, "label": part["label"][few], "style": (x.float().mean((1, 2, 3)) > 5).long()})
        return replace(data, train=parts[0], held_out=parts[1])


def test_a_head_of_another_size_is_fresh(tmp_path: Path) -> None:
    fit.start(digits(), tmp_path / "old", RUN, samples=16)
    wide = replace(digits(codec__shape="2,8,8", model__net__channels="2"), data=TwoChannels(Digits()))
    fit.start(wide, tmp_path / "new", RUN, samples=16, parent=tmp_path / "old", types=[TwoChannels])
    old = Model.load(tmp_path / "old").denoiser.state_dict()
    start = read(tmp_path / "new" / "checkpoints" / "0").weights["model"]
    fresh = {k for k, v in start.items() if v.shape != old[k].shape or not torch.equal(v, old[k])}
    assert fresh == {"net.stem.weight", "net.head.weight", "net.head.bias"}


@dataclass(frozen=True)
class TwoChannels:
    """The digits and their mirror images."""

    source: Digits

    def load(self) -> Any:
        data = self.source.load()
        both = [{**p, "x": torch.cat([p["x"], p["x"].flip(-1)], 1)} for p in (data.train, data.held_out)]
        return replace(data, train=both[0], held_out=both[1])


def test_a_parent_of_which_nothing_fits_is_refused(tmp_path: Path) -> None:
    from unnoise.nets import MLP

    Model(Preconditioned(MLP(channels=2, width=6), Edm()), Plain((2,))).save(tmp_path / "mlp")
    with pytest.raises(UserError, match=r"no weight of .*mlp fits"):
        fit.start(digits(), tmp_path / "new", RUN, samples=16, parent=tmp_path / "mlp")
    with pytest.raises(CheckpointError, match="no such run"):
        fit.start(digits(), tmp_path / "new", RUN, samples=16, parent=tmp_path / "nowhere")
    assert not (tmp_path / "new").exists()


# Not finite ----------------------------------------------------------------------------------------------------------


class Overflow(nn.Module):
    """exp, beyond what a float holds."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.abs() * 1e3 + 100).exp()


class Explosive(nn.Module):
    """A network that is good while its gate is shut; every step opens it further."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.width = width
        self.inner, self.burst, self.outer = nn.Conv2d(1, width, 1), Overflow(), nn.Conv2d(width, 1, 1)
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        h = self.inner(x)
        bursting = bool(self.gate.detach().abs() > 0.02)
        return self.outer(self.burst(h) if bursting else h) + self.gate


def test_a_run_that_explodes_ends_and_its_last_checkpoint_is_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pitfall 2, end to end: the layer is named, what was saved is loaded and sampled."""
    monkeypatch.setattr(session, "SAVE_EVERY", 0.0)
    model = Build(Preconditioned, net=Build(Explosive), parameterization=Edm())
    recipe = replace(digits(optim__rate="Constant", patience="4"), model=model, conditioner=None)
    with pytest.raises(NonFinite, match=r"\d+ steps in a row .*'model\.net\.burst'"):
        fit.start(recipe, tmp_path / "a", RUN, samples=16 * 400, types=[Explosive])
    seen = int(locate(tmp_path / "a").name)
    assert 16 < seen < 16 * 200
    for weights in ("raw", None):
        loaded = Model.load(tmp_path / "a", weights=weights, types=[Explosive])
        assert all(bool(v.isfinite().all()) for v in loaded.denoiser.state_dict().values())
    assert all(bool(x.isfinite().all()) for k, x in tensors(tmp_path / "a").items())
    with pytest.raises(NonFinite):  # and going on says the same, instead of training on
        fit.resume(tmp_path / "a", RUN, types=[Explosive])


# Killed, stopped, full -----------------------------------------------------------------------------------------------


def test_a_run_that_is_killed_twenty_times_is_the_run_that_was_not(commands: Commands, tmp_path: Path) -> None:
    """kill -9 of real processes at random moments, with a checkpoint after every step, so that most moments lie in
    the midst of writing one. After every kill the run loads, and it goes on from its last checkpoint at most."""
    run, moments = tmp_path / "a", random.Random(0)
    settings = [*SETTINGS, "-s", "optim.rate=Constant", "-s", "log_every=3", "--device", "cpu"]
    reached = [0]
    for kill in range(20):
        started = (run / "latest").is_file()
        what = ["resume", run, "--device", "cpu"] if started else ["train", "digits", *settings, "--out", run]
        command = commands.start(*what, every=0.0)
        if kill % 5 == 0:  # now and then wherever it is, and mostly while it trains
            time.sleep(moments.uniform(0.05, 0.4))
        else:
            until(lambda at=reached[-1]: (run / "latest").is_file() and int(locate_quietly(run)) > at)
            time.sleep(moments.uniform(0.0, 0.15))
        before = int(locate_quietly(run)) if (run / "latest").is_file() else 0
        command.send_signal(signal.SIGKILL)
        assert command.wait() == -signal.SIGKILL, command.text
        if not (run / "latest").is_file():
            assert kill == 0 and not lines(run)
            continue
        model = Model.load(run)
        seen = int(model.facts["seen"])
        assert before <= seen and reached[-1] <= seen  # nothing that was saved is ever lost
        assert all(line["seen"] <= seen + 16 for line in lines(run))  # no more than a step is lost
        reached.append(seen)
    assert reached[-1] >= 16 * 16  # a step for each of the sixteen kills that waited for one, however slow the machine
    end = (reached[-1] // 48 + 1) * 48
    last = commands.start("resume", run, "--samples", str(end), "--device", "cpu")
    assert last.wait() == 0, last.text
    assert not list((run / "checkpoints").glob(".*.part"))
    whole = commands.start("train", "digits", *settings, "--samples", str(end), "--out", tmp_path / "b")
    assert whole.wait() == 0, whole.text
    assert_same(tensors(tmp_path / "b"), tensors(run))
    assert lines(tmp_path / "b") == lines(run)


def locate_quietly(run: Path) -> str:
    """Where `latest` points, while another process replaces it."""
    return json.loads((run / "latest").read_text())["path"].rpartition("/")[2]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 960 samples that nothing disturbed."""
    path = tmp_path_factory.mktemp("whole") / "run"
    fit.start(digits(), path, RUN, samples=960)
    return path


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_stopped_is_saved_and_says_how_to_go_on(
    commands: Commands, whole: Path, tmp_path: Path, number: int, code: int
) -> None:
    run = tmp_path / "a"
    command = commands.start("train", "digits", *SETTINGS, "--samples", "960", "--out", run, "--device", "cpu")
    until(lambda: len(lines(run)) >= 2)
    command.send_signal(number)
    assert command.wait() == code, command.text
    seen = int(locate(run).name)
    said = f"unnoise: stopped and saved after {seen} samples; go on with: unnoise resume {run}"
    assert command.text.splitlines()[-1] == said and "Traceback" not in command.text
    assert 160 <= seen < 960
    after = commands.start("resume", run, "--device", "cpu")
    assert after.wait() == 0, after.text
    assert_same(tensors(whole), tensors(run))
    assert lines(whole) == lines(run)


def test_the_real_command_stops_on_ctrl_c(tmp_path: Path) -> None:
    """`python -m unnoise`, nothing around it."""
    run = tmp_path / "a"
    command = [sys.executable, "-m", "unnoise", "train", "digits", *SETTINGS, "--samples", "1000000", "--out", str(run)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen([*command, "--device", "cpu"], **pipes)
    try:
        until(lambda: len(lines(run)) >= 1)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and f"go on with: unnoise resume {run}" in said.splitlines()[-1]
    assert Model.load(run).facts["seen"] == int(locate(run).name) > 0


def test_a_disk_that_refuses_a_checkpoint_ends_a_run_with_one_line(commands: Commands, tmp_path: Path) -> None:
    """A real refusal by the system, in the midst of a run: what was saved before is whole, nothing is half-written."""
    run = tmp_path / "a"
    first = commands.start("train", "digits", *SETTINGS, "--samples", "160", "--out", run, "--device", "cpu")
    assert first.wait() == 0, first.text
    command = commands.start(
        "resume", run, "--samples", "320000", "--device", "cpu", every=0.1, room=20_000
    )  # less than the weights take, and more than the log
    assert command.wait() == 2, command.text
    said = [line for line in command.text.splitlines() if line.startswith("unnoise: ")]
    assert len(said) == 1 and said[0] == command.text.splitlines()[-1]
    assert "could not be written" in said[0] and "File too large" in said[0]
    assert "Traceback" not in command.text
    assert locate(run).name == "160" and Model.load(run).sample(2).raw.shape == (2, 1, 8, 8)
    assert not [f for f in run.rglob("*") if ".part" in f.name]
    again = commands.start("resume", run, "--samples", "320", "--device", "cpu")  # and with room it goes on
    assert again.wait() == 0, again.text
    assert int(locate(run).name) == 320


@dataclass
class Full:
    """A logger that finds the disk full, for metrics.jsonl, after 32 samples and no more after 48."""

    log_file: Path

    def log(self, seen: int, values: Mapping[str, Any]) -> None:
        aside = self.log_file.with_suffix(".aside")
        if seen == 32:
            self.log_file.rename(aside)
            self.log_file.symlink_to("/dev/full")
        elif seen == 48:
            aside.replace(self.log_file)

    def image(self, seen: int, name: str, picture: Any) -> None: ...


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_files_that_a_run_can_do_without_do_not_end_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "a"
    fit.start(digits(log_every="1"), run, RUN, samples=16)
    for name in ("ema", "samples"):  # nothing can be written there any more
        shutil.rmtree(run / name)
        (run / name).write_text("")
    capsys.readouterr()
    fit.resume(run, RUN, samples=80, loggers=[Full(run / "metrics.jsonl")])
    assert locate(run).name == "80" and Model.load(run).sample(2, steps=2).raw.shape == (2, 1, 8, 8)
    said = [line for line in capsys.readouterr().err.splitlines() if line.endswith("; training goes on")]
    assert {re.split(r"/a/|\.jsonl|/[0-9]", line)[1] for line in said} == {"ema", "samples", "metrics"}
    assert [line["seen"] for line in read_lines(run / "metrics.jsonl")] == [16, 32, 64, 80]


@dataclass
class Stop(Fatal):
    """A logger that asks its own process to end, as the system does."""

    def log(self, seen: int, values: Mapping[str, Any]) -> None:
        if seen == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_width_is_made_of_a_run_that_was_stopped(tmp_path: Path) -> None:
    """Not only of a finished one: its last checkpoint lies between two snapshots, and is one itself."""
    for name, widths in (("a", "0.05,0.1"), ("b", "0.05,0.1,0.075")):
        recipe = digits(widths=widths, log_every="54", optim__rate="Constant")
        with pytest.raises(session.Interrupted):
            fit.start(recipe, tmp_path / name, RUN, samples=160_000, loggers=[Stop(16 * 54)])
        assert locate(tmp_path / name).name == str(16 * 54)
    assert not (tmp_path / "a" / "ema" / f"{16 * 54}.safetensors").exists()
    made, tracked = vector(tmp_path / "a", 0.075), vector(tmp_path / "b", 0.075)
    assert float((made - tracked).norm() / tracked.norm()) < 1e-2


# Several processes ---------------------------------------------------------------------------------------------------

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "unnoise"]
SAME = [*SETTINGS, "-s", "model.net.dropout=0", "-s", "optim.eps=1e-4", "--device", "cpu"]


def test_the_command_line_under_torchrun_is_one_process(whole_dry: Path, tmp_path: Path, record_property: Any) -> None:
    """The same weights, losses and learning rates (pitfalls 22, 24), also where two processes are stopped by a Ctrl-C
    and one goes on."""
    run = tmp_path / "a"
    train = [*TORCHRUN, "train", "digits", *SAME, "--samples", "960", "--out", str(run)]
    process = subprocess.Popen(
        train, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        until(lambda: len(lines(run)) >= 2, 120)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        said, _ = process.communicate(timeout=120)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    seen = int(locate(run).name)
    assert process.returncode != 0 and seen % 128 == 0 and 160 <= seen < 960
    assert said.count(f"stopped and saved after {seen} samples; go on with: unnoise resume {run}") == 1
    two = read(locate(run))
    assert all(x.device.type == "cpu" for x in two.weights["model"].values())  # pitfall 25

    fit.resume(run, RUN)
    figure = difference(whole_dry, run)
    print(f"2 processes, then 1, against 1: {figure:.2g}")
    record_property("difference", figure)
    assert figure < 1e-5
    alone, both = lines(whole_dry), lines(run)
    assert [line["seen"] for line in both] == [line["seen"] for line in alone]
    for a, b in zip(alone, both, strict=True):
        assert b["lr"] == a["lr"] and b["skipped"] == 0
        assert b["held_out"] == pytest.approx(a["held_out"], rel=1e-4)
        assert b["norm"] == pytest.approx(a["norm"], rel=1e-3)
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4) or a["seen"] == seen // 80 * 80 + 80


def test_two_processes_go_on_where_one_stood(python: Python, whole_dry: Path, tmp_path: Path) -> None:
    run = tmp_path / "a"
    recipe = digits(**DRY)
    with pytest.raises(Dead), pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "SAVE_EVERY", 0.0)
        fit.start(recipe, run, RUN, samples=960, loggers=[Fatal(640)])
    assert locate(run).name == "624"
    said = python.group(2, "-m", "unnoise", "resume", run, "--device", "cpu")
    assert sum(out.count("done; unnoise sample") for out, _ in said) == 1  # only one of them speaks
    assert difference(whole_dry, run) < 1e-5
    assert [line["lr"] for line in lines(run)] == [line["lr"] for line in lines(whole_dry)]


def test_two_processes_are_refused_together(tmp_path: Path) -> None:
    """The main one finds the run in use, and both end."""
    run = tmp_path / "a"
    fit.start(digits(), run, RUN, samples=16)
    command = [*TORCHRUN, "resume", str(run), "--samples", "32", "--device", "cpu"]
    with alone(run / "checkpoints" / ".lock", "x"):
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0 and 'Traceback (most recent call last):\n  File "<frozen' not in done.stdout
    assert done.stderr.count(f"{run} is being trained by process {os.getpid()}: wait for it, or stop it") == 1
    assert locate(run).name == "16"


DRY = {"model__net__dropout": "0", "optim__eps": "1e-4"}


@pytest.fixture(scope="module")
def whole_dry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `whole`, without dropout, which is drawn by each process for itself."""
    path = tmp_path_factory.mktemp("whole") / "dry"
    fit.start(digits(**DRY), path, RUN, samples=960)
    return path


@pytest.mark.parametrize("compiling", [0.0, 40.0, 200.0])
def test_slow_first_steps_do_not_shorten_a_run_of_minutes(compiling: float) -> None:
    """However long the first steps compile, steps of 20 ms fill what is left of ten minutes."""
    pace, elapsed, seen, total = Pace(600.0, 256, 1024), compiling, 1024, 0
    while not total:
        seen += 256
        elapsed += 0.02 if seen > 1024 + 4 * 256 else 5.0  # four are recorded
        total = pace.total(seen, elapsed)
    assert 25.0 < elapsed - compiling < 60.0
    assert pace.rate == pytest.approx(256 / 0.02)
    assert total % 256 == 0
    assert elapsed + (total - seen) / (256 / 0.02) == pytest.approx(600.0, abs=0.05)


def test_a_pace_is_taken_again_as_the_run_goes_on() -> None:
    """Steps of 20 ms that become steps of 40 ms after a minute fill ten minutes all the same."""
    pace, elapsed, seen, said = Pace(600.0, 256, 0), 0.0, 0, []
    while not said or seen < said[-1][1]:
        seen += 256
        elapsed += 0.02 if elapsed < 60 else 0.04
        if total := pace.total(seen, elapsed):
            said.append((elapsed, total))
    assert [at for at, _ in said[:4]] == pytest.approx([30, 60, 90, 120], abs=1.0)
    assert 1.6 * said[-1][1] < said[0][1]
    assert elapsed == pytest.approx(600.0, abs=6.0)


@dataclass
class Busy:
    """A logger that takes its time, at first."""

    until: int

    def log(self, seen: int, values: Mapping[str, Any]) -> None:
        if seen < self.until:
            time.sleep(0.1)

    def image(self, seen: int, name: str, picture: Any) -> None: ...


@pytest.mark.parametrize("rate", ["Constant()", "Cosine()"])
def test_a_run_of_minutes_amends_its_length_while_that_is_harmless(
    rate: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not once the learning rate depends on it; and the number that was said last repeats the run."""
    recipe = digits(optim__rate=rate, log_every="1")
    state = fit.start(recipe, tmp_path / "timed", RUN, minutes=0.1, loggers=[Busy(16 * 20)])
    told = capsys.readouterr().err
    said = [int(n) for n in re.findall(r"(\d+) samples fit", told)]
    assert state.seen == state.total == said[-1]
    if rate == "Cosine()":  # which was on its way down when its end became known
        assert len(said) == 1 and "repeats" not in told
        return
    assert len(said) > 1 and said[-1] > said[0] and f"--samples {said[-1]} repeats" in told
    fit.start(recipe, tmp_path / "counted", RUN, samples=said[-1])
    assert_same(tensors(tmp_path / "timed"), tensors(tmp_path / "counted"))


def test_the_held_out_loss_is_told_by_ever_fewer_lines(tmp_path: Path) -> None:
    """By all of the first 40; by 231 of 16,000, about a thirtieth apart."""
    told = [n for n in range(1, 16_001) if watch_due(n)]
    assert told[:40] == list(range(1, 41)) and len(told) == 231
    assert max(b / a for a, b in itertools.pairwise(told[40:])) < 1 + 2 / 32
    fit.start(digits(log_every="1"), tmp_path / "run", RUN, samples=16 * 54)
    with_it = [n for n, line in enumerate(lines(tmp_path / "run"), 1) if "held_out" in line]
    assert with_it == [n for n in range(1, 55) if watch_due(n) or n == 54]


def test_a_pace_is_taken_of_enough_steps() -> None:
    """Steps that take longer than the share of minutes are still counted after the first ones."""
    pace = Pace(60.0, 8, 0)
    found = [pace.total(8 * n, 10.0 * n) for n in range(1, 17)]
    assert found[:-1] == [0] * 15 and found[-1] == 128  # time is up
