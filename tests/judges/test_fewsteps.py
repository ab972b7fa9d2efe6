"""The recipe of few steps through the command line: distilled from a tiny teacher, sampled, measured beside it."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from unnoise import cli, recipes
from unnoise.core.level import CLEAN, Level
from unnoise.data import Digits
from unnoise.errors import UserError
from unnoise.judges.fewsteps import evaluations
from unnoise.model import Model
from unnoise.recipe import Sampling
from unnoise.sample import Ancestral, Consistency, Heun
from unnoise.spec import Build, build, describe
from unnoise.trained import Begun, Trained
from unnoise.trial import Judge, Trial

WIDTH = ("-s", "model.inner.net.net.width=8", "-s", "model.inner.net.net.head_width=8")
JUDGE = ("-s", "judge.judge.samples=512", "-s", "judge.judge.width=8")


@pytest.fixture(scope="module")
def fast(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the recipe, of 20 steps, from the tiny digits run."""
    out = tmp_path_factory.mktemp("fast") / "digits_fast"
    places = ("-s", f"more.teacher.run={tiny}", "-s", f"model.inner.start.run={tiny}")
    arguments = ("train", "digits_fast", "--samples", "640", "-s", "batch=32", "--out", str(out), "--device", "cpu")
    assert cli.main([*arguments, *places, *WIDTH, *JUDGE]) == 0
    return out


def test_it_holds_its_teacher(fast: Path, tiny: Path) -> None:
    """To the bit, with averaged weights; the student began with them and has moved."""
    student, teacher = Model.load(fast), Model.load(tiny)
    held, own = student.more["teacher"].state_dict(), teacher.denoiser.state_dict()
    assert held.keys() == own.keys() and all(torch.equal(held[k], own[k]) for k in own)
    now = student.denoiser.state_dict()
    moved = [float((now[f"inner.{k}"] - x).norm() / x.norm().clamp(min=0.1)) for k, x in own.items() if x.ndim > 1]
    assert 0 < max(moved) < 0.5  # a fresh network's weights would be 1.4 away
    assert teacher.more == {}


def test_the_teacher_ignores_where_it_goes_and_the_student_does_not(fast: Path) -> None:
    model = Model.load(fast)
    x, level, cond = torch.ones(2, 1, 8, 8), Level.of(1.0, 2.0), {"label": torch.tensor([3, 4])}
    with torch.no_grad():
        for net, same in ((model.more["teacher"], True), (model.denoiser, False)):
            ends = [net(x, level, cond, to=to).x0 for to in (CLEAN, Level.of(1.0, 1.0), level)]
            assert torch.equal(ends[0], ends[2]) == torch.equal(ends[1], ends[2]) == same
            assert torch.equal(net(x, level, cond).x0, ends[2])


def test_samples(fast: Path, tmp_path: Path) -> None:
    for out, more in (("a.npz", ()), ("b.npz", ("--steps", "1")), ("c", ("--sampler", "Consistency(gamma=0)"))):
        assert cli.main(["sample", str(fast), "-n", "4", "--cond", "label=7", "--out", str(tmp_path / out), *more]) == 0
    assert len(list((tmp_path / "c").glob("*.png"))) == 4
    one, two = (Model.load(fast).sample(3, seed=5, steps=k).raw for k in (1, 2))
    assert one.dtype == torch.uint8 and not torch.equal(one, two)
    assert torch.equal(Model.load(fast).sample(1, seed=7, deterministic=True).raw[0], two[2])


def test_evaluation_stands_beside_the_teachers(fast: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", str(fast), "-n", "898"]) == 0
    rows = json.loads((fast / "evaluation.json").read_text())["figures"]
    names = [row["name"] for row in rows]
    for title in ("1 evaluation", "2 evaluations", "teacher, 38 evaluations"):
        assert f"{title}: read as asked" in names
        assert f"{title}: Frechet distance to half of the real data" in names
    own = [name.partition(": ")[2] for name in names if name.startswith("1 ")]
    assert len(set(names)) == len(names) == 3 * len(own) and {"fd-judge", "recall-judge"} < {*own}
    assert all(math.isfinite(row["samples"]) for row in rows)
    by_title = {title: [r["real"] for r in rows if r["name"].startswith(title)] for title in ("1 ", "2 ", "teacher")}
    assert by_title["1 "] == by_title["2 "] == by_title["teacher"]  # one judge reads them all
    assert "teacher, 38 evaluations: read as asked" in capsys.readouterr().out


def test_info(fast: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", str(fast)]) == 0 and cli.main(["info", "digits_fast"]) == 0
    out = capsys.readouterr().out
    assert "teacher" in out and "more.teacher.run" in out


def test_without_the_teacher_the_message_says_how_to_train_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "digits_fast", "--samples", "128"]) == 2
    line = capsys.readouterr().err.strip()
    assert line.endswith("unnoise train digits --out runs/digits") and "\n" not in line
    assert not (tmp_path / "runs").exists()


def test_a_run_of_another_kind_is_no_start(tiny: Path) -> None:
    with pytest.raises(UserError, match=r"no weight of .* fits"):
        Begun(Build(torch.nn.Bilinear, in1_features=2, in2_features=3, out_features=4), Trained(str(tiny), "digits"))()


def test_what_cannot_be_measured_is_refused(fast: Path, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", str(fast), "-n", "100"]) == 2
    assert "at least 898, got 100" in capsys.readouterr().err
    judge = recipes.load("digits_fast")[0].judge
    assert judge is not None
    with pytest.raises(UserError, match="no component 'teacher'"):
        judge(Model.load(tiny), Digits().load(), Trial(898))


def test_it_is_a_judge_and_a_value() -> None:
    judge: Any = recipes.load("digits_fast")[0].judge
    assert isinstance(judge, Judge) and build(describe(judge)) == judge
    assert judge.teacher == recipes.load("digits")[0].sampling and judge.count == judge.judge.count


def test_evaluations_are_counted() -> None:
    sampling = Sampling(sampler=Consistency(), steps=2)
    assert evaluations(sampling) == 2 and evaluations(replace(sampling, steps=1)) == 1
    assert evaluations(Sampling(sampler=Heun(), steps=10)) == 19
    assert evaluations(Sampling(sampler=Heun(), steps=10, guidance=1.3)) == 38
    assert evaluations(Sampling(sampler=Ancestral(), steps=10, guidance=2.0)) == 20
    assert evaluations(Sampling(sampler=Heun(), steps=10, guidance=1.3, start="mean")) == 39
