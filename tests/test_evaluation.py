"""Evaluations: what makes the ruler and what is laid on it, kept with it, compared; alone and in two processes."""

from __future__ import annotations

import html
import json
import math
import os
import re
import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch

from unnoise import trained
from unnoise.cli import main
from unnoise.data.dataset import Dataset
from unnoise.errors import UserError
from unnoise.evaluation import Evaluation, compared, history, measure
from unnoise.judges import Classifier
from unnoise.judges.classifier import TrainedClassifier
from unnoise.metrics.figure import Figure
from unnoise.model import Model
from unnoise.recipes import load
from unnoise.sample.grids import KarrasGrid
from unnoise.spec import build, describe
from unnoise.trial import Trial

if TYPE_CHECKING:
    from programs import Python

N = 80
QUICK = {"steps": 1}


@pytest.fixture(scope="module")
def judge(tiny: Path) -> Classifier:
    """That of the tiny run, which asks for as few samples as any."""
    found = build(Model.load(tiny).facts["recipe"], lazy=True).judge
    assert isinstance(found, Classifier) and found.samples == 512
    return replace(found, halves=False, compared=100)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load("digits")[0].data.load()


@pytest.fixture(scope="module")
def found(tiny: Path, judge: Classifier, data: Dataset) -> Evaluation:
    return measure(Model.load(tiny), judge, data, Trial(N, settings=QUICK))


# What is found --------------------------------------------------------------------------------------------------------


def test_a_run_is_measured(tiny: Path, judge: Classifier, data: Dataset, found: Evaluation) -> None:
    """What its judge says, the ruler, and what was laid on it."""
    figures = {f.name: f for f in found.figures}
    assert figures == {f.name: f for f in judge(Model.load(tiny), data, Trial(N, settings=QUICK))}
    assert {"read as asked", "worst class", "fd-judge", "recall-judge", "nearest training item"} <= figures.keys()
    assert build(found.protocol["judge"]) == judge and found.protocol["samples"] == N
    assert all(re.fullmatch("[0-9a-f]{64}", found.protocol["data"][k]) for k in ("train", "held_out"))
    (weights,) = found.protocol["rests on"]["judge"]
    assert weights == judge.train(data.train, torch.device("cpu")).digest
    measured = found.measured
    assert (measured["name"], measured["seen"], measured["weights"]) == ("digits", 1920, 0.1)
    assert (measured["seed"], measured["repeats"], measured["device"]) == (1_000_000, 1, "cpu")
    assert measured["sampling"]["steps"] == 1 and measured["sampling"]["guidance"] == 1.3


def test_it_is_saved_and_read_back(found: Evaluation, tmp_path: Path) -> None:
    then = [{"seen": 100, "figures": [Figure("a", 1.0, None, 0.5)]}, {"seen": 200, "figures": [Figure("a", 2.0)]}]
    whole = replace(found, history=then)
    path = whole.save(tmp_path)
    assert path == tmp_path / "evaluation.json" and json.loads(path.read_text())["protocol_hash"] == found.hash
    for place in (tmp_path, path):
        again = Evaluation.read(place)
        assert again == whole and again.hash == found.hash
    assert [f.name for f in tmp_path.iterdir()] == ["evaluation.json"]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c["protocol"].update(samples=10_000), "was changed: its protocol has the hash .{16}, it states"),
        (lambda c: c["protocol"]["judge"].update(width=9), "was changed"),
        (lambda c: c.update(protocol_hash="0" * 16), "was changed: .* it states 0000000000000000"),
        (lambda c: c.pop("protocol_hash"), "is not an evaluation of this version: unnoise evaluate makes it anew"),
        (lambda c: c.pop("measured"), "is not an evaluation of this version"),
        (lambda c: c["figures"][0].pop("name"), "is not an evaluation of this version"),
        (lambda c: c["figures"][0].update(other=1), "is not an evaluation of this version"),
    ],
)
def test_a_file_that_was_edited_is_refused(found: Evaluation, tmp_path: Path, edit: Any, message: str) -> None:
    path = found.save(tmp_path)
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"^{path} {message}"):
        Evaluation.read(tmp_path)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"no such file: {tmp_path}/evaluation.json: unnoise evaluate {tmp_path} writ"):
        Evaluation.read(tmp_path)
    for content in ("{", "[]", '"x"', "\xff"):
        (tmp_path / "evaluation.json").write_text(content, encoding="latin1")
        with pytest.raises(UserError, match="is not an evaluation of this version"):
            Evaluation.read(tmp_path)


# The ruler ------------------------------------------------------------------------------------------------------------


def test_the_hash_is_of_the_ruler_and_not_of_what_is_laid_on_it(
    tiny: Path, judge: Classifier, data: Dataset, found: Evaluation
) -> None:
    """Other seeds, repeats, guidance, sampler, weights: the same ruler. Another judge, count or byte of the data is
    another one, and what differs is named."""
    model = Model.load(tiny)
    same = [
        measure(model, judge, data, Trial(N, settings=QUICK, seed=5)),
        measure(model, judge, data, Trial(N, settings={"steps": 2, "guidance": 2.0}, repeats=2)),
        measure(Model.load(tiny, weights="raw"), judge, data, Trial(N, settings=QUICK)),
    ]
    assert {e.hash for e in same} == {found.hash}
    assert all(compared(found, e) for e in same)

    def other(columns: Mapping[str, Any], name: str, item: int) -> dict[str, Any]:
        changed = columns[name].clone()
        changed[item] = (changed[item] + 1) % 10
        return {**columns, name: changed}

    rulers: dict[str, tuple[Classifier, Dataset, int]] = {
        f"samples: {N} and {N + 1}": (judge, data, N + 1),
        "judge.width: 8 and 6": (replace(judge, width=6), data, N),
        "judge.compared: 100 and 99": (replace(judge, compared=99), data, N),
        r'data\.held_out: "\w{64}" and "\w{64}"': (judge, Dataset(data.train, other(data.held_out, "x", 358)), N),
        r'data\.train: "\w{64}" and "\w{64}"': (judge, Dataset(other(data.train, "label", 3), data.held_out), N),
    }
    hashes = {found.hash}
    for message, (ruler, columns, n) in rulers.items():
        e = measure(model, ruler, columns, Trial(n, settings=QUICK))
        hashes.add(e.hash)
        with pytest.raises(UserError, match=f"^protocols {found.hash} and {e.hash} differ, so that the numbers do not"):
            compared(found, e)
        with pytest.raises(UserError, match=f"do not compare: {message}$"):
            compared(found, e)
    assert len(hashes) == len(rulers) + 1


def test_the_hash_is_of_the_weights_that_the_judge_learned(
    tiny: Path, judge: Classifier, data: Dataset, found: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same judge of the same data, on another machine: one weight in its last digit is another ruler."""
    train_once = Classifier.train_once

    def elsewhere(self: Classifier, columns: Any, run: Any) -> TrainedClassifier:
        reader = train_once(self, columns, run)
        with torch.no_grad():
            reader.net.inner.weight[0, 0] = torch.nextafter(reader.net.inner.weight[0, 0], torch.tensor(9.0))
        return reader

    monkeypatch.setattr(Classifier, "train_once", elsewhere)
    e = measure(Model.load(tiny), judge, data, Trial(N, settings=QUICK))
    with pytest.raises(UserError, match=r'do not compare: rests on\.judge: \["\w{64}"\] and \["\w{64}"\]'):
        compared(found, e)


@dataclass(frozen=True)
class Told:
    """A judge that says what it is told to."""

    figures: tuple[Figure, ...] = ()
    count: int = 10

    @property
    def protocol(self) -> Mapping[str, Any]:
        return {"rule": len(self.figures)}

    def __call__(self, model: Any, data: Dataset, trial: Trial) -> list[Figure]:
        return list(self.figures)


def test_rules_of_the_judge_are_part_of_it(tiny: Path, data: Dataset) -> None:
    model = Model.load(tiny)
    a, b = (measure(model, Told((Figure("x", 1.0),) * k), data, Trial(10)) for k in (1, 2))
    assert a.protocol["rule"] == 1 and b.protocol["rule"] == 2 and a.hash != b.hash
    assert a.protocol["judge"] == describe(Told((Figure("x", 1.0),)))


def test_p_is_how_often_chance_makes_as_large_a_difference() -> None:
    """By hand: of one, two and no standard errors; without errors nothing is said; exact figures differ or do not."""
    ruler = {"samples": 10}
    a = [Figure("one", 0.90, 0.99, 0.03), Figure("two", 5.0, None, 0.6), Figure("none", 1.0, None, 0.1)]
    b = [Figure("one", 0.95, 0.99, 0.04), Figure("two", 3.0, None, 0.8), Figure("none", 1.0, None, 0.2)]
    a += [Figure("no error", 1.0), Figure("exact", 1.0, None, 0.0), Figure("exact too", 1.0, None, 0.0)]
    b += [Figure("no error", 2.0, None, 0.1), Figure("exact", 1.0, None, 0.0), Figure("exact too", 2.0, None, 0.0)]
    a, b = [*a, Figure("only a", 1.0)], [Figure("only b", 1.0), *reversed(b)]
    found = {c.name: c for c in compared(Evaluation(a, ruler), Evaluation(b, ruler))}
    assert list(found) == ["one", "two", "none", "no error", "exact", "exact too"]  # in the order of a
    assert found["one"].difference == pytest.approx(0.05) and found["one"].error == pytest.approx(0.05)
    assert found["one"].p == pytest.approx(0.31731051)
    assert found["two"].difference == -2.0 and found["two"].error == pytest.approx(1.0)
    assert found["two"].p == pytest.approx(0.04550026)
    assert found["none"].p == 1.0 and found["no error"].p is None is found["no error"].error
    assert found["no error"].difference == 1.0
    assert found["exact"].p == 1.0 and found["exact too"].p == 0.0


# As training went on --------------------------------------------------------------------------------------------------


def test_averages_are_measured_as_training_went_on(tiny: Path, judge: Classifier, data: Dataset) -> None:
    there = trained.snapshots(tiny)
    assert len(there) >= 3 and there == sorted(there)
    trial = Trial(N, repeats=2, settings=QUICK)
    rows = history(tiny, 2, judge, data, trial)
    assert [row["seen"] for row in rows] == [there[0], there[-1]]
    for row in rows:  # of one repeat, and of the weights of then
        then = judge(Model.load(tiny, at=row["seen"]), data, Trial(N, settings=QUICK))
        assert row["figures"] == then
    assert rows[0]["figures"] != rows[1]["figures"]
    for count, seen in ((1, there[-1:]), (99, there), (len(there), there)):
        assert [row["seen"] for row in history(tiny, count, Told(), data, trial)] == seen


def test_a_run_without_averages_has_no_history(tiny: Path, judge: Classifier, data: Dataset, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "ema")
    with pytest.raises(UserError, match=f"{tmp_path}/run kept no averages as training went on"):
        history(tmp_path / "run", 2, judge, data, Trial(N))


# The command line -----------------------------------------------------------------------------------------------------


class Result(NamedTuple):
    code: int
    out: str
    err: str


Cli = Callable[..., Result]
GRID = KarrasGrid(sigma_min=0.01, rho=5.0)
STEPPED = ("--sampler", "UniPC(p=3)", "--grid", str(GRID), "--start", "mean")
FEW = ("-n", N, "--steps", 1, "--device", "cpu", "-s", "judge.halves=false", "-s", "judge.compared=100")


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: Any) -> Result:
        capsys.readouterr()
        return Result(main([str(a) for a in arguments]), *capsys.readouterr())

    return run


def refused(result: Result, message: str) -> None:
    assert result.code == 2 and result.out == "", result
    assert result.err.startswith("unnoise: ") and result.err.count("\n") == 1, result.err
    assert re.search(message, result.err), result.err


def test_two_evaluations_are_compared(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    """Two guidances on one ruler stand side by side; another judge's does not."""
    for run, more in (
        ("plain", ["--guidance", 1]),
        ("guided", ["--guidance", 3, "--interval", -9, 4, "--precision", "bf16", *STEPPED]),
    ):
        shutil.copytree(tiny, tmp_path / run)
        assert cli("evaluate", run, *FEW, *more).code == 0
        assert (tmp_path / run / "report.html").is_file()
    shown = cli("compare", "plain", "guided")
    head, *rows = shown.out.splitlines()
    assert shown.code == 0 and head.split() == ["plain", "guided", "difference", "p"]
    a, b = (Evaluation.read(tmp_path / run) for run in ("plain", "guided"))
    assert (a.measured["sampling"]["guidance"], b.measured["sampling"]["guidance"]) == (1.0, 3.0)
    assert (a.measured["precision"], b.measured["precision"]) == ("fp32", "bf16")
    assert (a.measured["sampling"]["high"], b.measured["sampling"]["high"]) == ({"$float": "inf"}, 4.0)
    page = re.sub("<[^>]+>", "", (tmp_path / "guided/report.html").read_text(encoding="utf8"))
    assert "--guidance 3.0 --interval -9.0 4.0 --start mean -s" in page and "--precision bf16" in page
    assert shlex.join(["--sampler", "UniPC(p=3)", "--grid", str(GRID)]) in html.unescape(page)
    assert b.measured["sampling"]["grid"] == describe(GRID)
    assert [row[: len(f.name)] for row, f in zip(rows, a.figures, strict=True)] == [f.name for f in a.figures]
    (x,), (y,), (row,) = (
        [f for f in a.figures if f.name == "read as asked"],
        [f for f in b.figures if f.name == "read as asked"],
        [row for row in rows if row.startswith("read as asked")],
    )
    assert x.error is not None and y.error is not None
    error = math.hypot(x.error, y.error)
    p = math.erfc(abs(y.samples - x.samples) / error / math.sqrt(2))
    numbers = [(x.samples, x.error), (y.samples, y.error), (y.samples - x.samples, error)]
    assert row.split()[3:] == [w for v, e in numbers for w in (f"{v:.4f}", "+-", f"{e:.4f}")] + [f"{p:.4f}"]
    assert cli("compare", "plain/evaluation.json", "plain").out.splitlines()[1].endswith("1.0000")

    assert cli("evaluate", "guided", *FEW, "-s", "judge.width=6").code == 0
    refused(cli("compare", "plain", "guided"), r"protocols \w{16} and \w{16} differ, .*: judge\.width: 8 and 6")
    refused(cli("compare", "plain", "nowhere"), "no such run: nowhere")


def test_a_trained_run_keeps_its_training(cli: Cli, tiny: Path) -> None:
    refused(cli("evaluate", tiny, *FEW, "-s", "optim.lr=1"), r"'optim.lr=1': a trained run is measured with another")
    refused(cli("evaluate", tiny, *FEW, "-s", "judge.wdith=6"), "wdith")
    refused(cli("evaluate", tiny, *FEW, "--history", -1), "--history must not be negative, got -1")


def test_what_is_found_of_a_checkpoint_outlives_it(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    """Checkpoints are pruned as training goes on."""
    shutil.copytree(tiny, tmp_path / "run")
    there = sorted((tmp_path / "run").rglob("*"))
    done = cli("evaluate", "run/checkpoints/1920", *FEW)
    assert done.code == 0 and done.out.endswith("; evaluation-1920/report.html\n")
    assert Evaluation.read(tmp_path / "evaluation-1920").figures and sorted((tmp_path / "run").rglob("*")) == there


def test_a_history_that_cannot_be_is_refused_before_anything_is_measured(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "run")
    last = tmp_path / "run" / "ema" / "1920.safetensors"
    last.write_bytes(last.read_bytes()[:1000])
    refused(cli("evaluate", "run", *FEW, "--history", 2, "--out", "found"), "ema/1920.safetensors")
    shutil.rmtree(last.parent)
    refused(cli("evaluate", "run", *FEW, "--history", 2, "--out", "found"), "run kept no averages as training went on")
    assert not (tmp_path / "found").exists()


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_measured(
    cli: Cli, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != Path("locked"))
    refused(cli("evaluate", tiny, *FEW, "--out", "locked"), "nothing may be written in locked: say where else, --out")


def test_figures_are_kept_where_the_history_is_stopped(
    cli: Cli, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, calls = Classifier.__call__, list[int]()

    def stopped(self: Classifier, *given: Any) -> Any:
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return call(self, *given)

    monkeypatch.setattr(Classifier, "__call__", stopped)
    done = cli("evaluate", tiny, *FEW, "--history", 2, "--out", "found")
    assert done.code == 130 and "read as asked" in done.out
    assert Evaluation.read(tmp_path / "found").figures and not Evaluation.read(tmp_path / "found").history


def test_a_history_is_measured_as_the_run_is(cli: Cli, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --compile, each of its models compiled."""
    compiled, measured = list[Model](), list[Model]()

    def judge(self: Classifier, model: Model, *given: Any) -> Any:
        measured.append(model)
        return ()

    monkeypatch.setattr(Classifier, "__call__", judge)
    monkeypatch.setattr(Model, "compile", lambda model: compiled.append(model) or model)
    for asked in ([], ["--compile"]):
        assert cli("evaluate", tiny, *FEW, "--history", 3, *asked, "--out", "found").code == 0
        assert len(measured) == 4 and all((model in compiled) == bool(asked) for model in measured)
        measured.clear()


# Two processes --------------------------------------------------------------------------------------------------------

WORKER = """
import os, sys
from unnoise import cli
from unnoise.model import Model

sample = Model.sample

def noted(self, n=1, *, seed=0, **settings):
    with open(f"{sys.argv[1]}/{os.environ['RANK']}.txt", "a") as f:
        print(n, seed, file=f)
    return sample(self, n, seed=seed, **settings)

Model.sample = noted
sys.exit(cli.main(sys.argv[2:]))
"""


class Pair(NamedTuple):
    one: Evaluation
    two: Evaluation
    drawn: list[list[tuple[int, int]]]
    said: str


@pytest.fixture(scope="module")
def pair(python: Python, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The same evaluation by one process and by two, who find nothing that was kept: each makes its own ruler."""
    folder = tmp_path_factory.mktemp("pair")
    (folder / "worker.py").write_text(WORKER, encoding="utf8")
    arguments = ["evaluate", "--repeats=2", "--device=cpu", "-s", "judge.halves=false", "-n", "300", "--steps", "4"]
    for run in ("one", "two"):
        shutil.copytree(tiny, folder / run)
    assert main([*arguments, str(folder / "one")]) == 0
    environment = {**os.environ, "UNNOISE_CACHE": str(folder / "cache")}
    command = [folder / "worker.py", folder, *arguments, folder / "two"]
    said = "".join(out + err for out, err in python.group(2, *command, env=environment))
    notes = [(folder / f"{rank}.txt").read_text().splitlines() for rank in (0, 1)]
    drawn = [[(int(n), int(seed)) for n, seed in map(str.split, lines)] for lines in notes]
    return Pair(Evaluation.read(folder / "one"), Evaluation.read(folder / "two"), drawn, said)


def test_pitfall_23_all_processes_draw_their_share_of_samples(pair: Pair) -> None:
    """Pitfall 23: of 2 x 300 samples each of two processes draws its 2 x 150, from seeds of its own; one writes, and
    draws what the report shows."""
    first, second = pair.drawn
    assert second == [(150, 1_000_150), (150, 1_000_450)]
    assert first[:2] == [(150, 1_000_000), (150, 1_000_300)] and sum(n for n, _ in first[2:]) <= 100
    assert pair.said.count("sampling 300 from seed 1000000") == 1  # one speaks
    assert len(re.findall(r"^protocol \w{16}; ", pair.said, re.MULTILINE)) == 1


def test_pitfall_24_figures_do_not_depend_on_the_number_of_processes(pair: Pair, record_property: Any) -> None:
    """Pitfall 24: the same ruler, to the digest of the judge that two processes trained, and the same figures."""
    one, two, *_ = pair
    assert one.hash == two.hash and one.measured == two.measured
    assert [f.name for f in one.figures] == [f.name for f in two.figures]
    away = 0.0
    for a, b in zip(one.figures, two.figures, strict=True):
        for x, y in ((a.samples, b.samples), (a.real, b.real), (a.error, b.error), (a.real_error, b.real_error)):
            assert (x is None) == (y is None)
            if x is not None and y is not None:
                away = max(away, abs(x - y) / max(abs(x), 1e-3))
    print(f"2 processes against 1: {away:.2g}")
    record_property("difference", away)
    assert away < 1e-9
