"""The judge of enlarged pictures, and the recipes of the cascade through the command line (pitfall 32)."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unnoise import recipes
from unnoise.cli import main
from unnoise.core.parameterization import X0, Edm, V
from unnoise.core.rng import Rng
from unnoise.data.dataset import Dataset
from unnoise.errors import UserError
from unnoise.judges import Classifier, SuperResolution
from unnoise.judges.superres import enlarged, reduced
from unnoise.modality import Image, LowRes
from unnoise.model import Model
from unnoise.samples import Samples
from unnoise.spec import build, describe
from unnoise.trial import Judge, Trial

CODEC = Image((2, 8, 8))
JUDGE = SuperResolution(Classifier(CODEC, 2, width=4, samples=128, batch=64), levels=(0.0, 0.5))


def data(n: int = 60) -> Dataset:
    """Pictures of two channels that are smooth: area means of noise, enlarged; small pictures are their area means."""
    coarse = (Rng.of(range(n)).uniform(torch.zeros(n, 2, 2, 2)) * 200).round()
    high = torch.nn.functional.interpolate(coarse, size=(8, 8), mode="bilinear").round().to(torch.uint8)
    low = reduced(high, torch.zeros(n, 2, 4, 4)).round().to(torch.uint8)
    columns = {"x": high, "low": low, "label": torch.arange(n) % 2}
    return Dataset({k: v[: n // 2] for k, v in columns.items()}, {k: v[n // 2 :] for k, v in columns.items()})


class Known(Model):
    """Answers with what `make` makes of the small pictures and the level."""

    def __init__(self, make: Any) -> None:
        conditioner = LowRes(Image((2, 4, 4)), (8, 8))
        super().__init__(torch.nn.Linear(1, 1), CODEC, conditioner=conditioner)
        self.make = make

    def sample(self, n: int = 1, *, seed: int = 0, **cond: Any) -> Samples:  # type: ignore[override]
        told = self.conditions(n, seed, cond)
        return Samples(self.make(told), torch.arange(n) + seed, told, self.codec)


def measured(make: Any, **trial: Any) -> dict[str, Any]:
    return {f.name: f for f in JUDGE(Known(make), data(), Trial(**{"n": 30, "seed": 4, **trial}))}


def truth(told: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The true large pictures, found by their small ones."""
    held_out = data().held_out
    rows = [int((held_out["low"] == low).flatten(1).all(1).nonzero()[0]) for low in told["low"]]
    return held_out["x"][rows]


def test_it_is_a_judge_and_a_value() -> None:
    assert isinstance(JUDGE, Judge) and build(describe(JUDGE)) == JUDGE


def test_the_truth_is_measured_as_the_truth() -> None:
    figures = measured(truth)
    assert figures["PSNR in dB at augment=0"].samples == figures["PSNR in dB at augment=0.5"].samples == float("inf")
    for name in ("drift of the mean of channel 0", "drift of the mean of channel 1"):
        assert figures[name].samples == figures[name].real == 0
    for name in ("distance of the area mean to the small picture", "read as asked"):
        assert figures[name].samples == figures[name].real
    assert 0.1 < figures["distance of the area mean to the small picture"].samples < 0.5  # it was rounded


def test_bilinear_upsampling_is_measured_as_itself() -> None:
    high = data().held_out["x"]
    figures = measured(lambda told: enlarged(told["low"], high).round().to(torch.uint8))
    bilinear = figures["PSNR in dB of bilinear upsampling"].samples
    assert 20 < bilinear < 60 and abs(figures["PSNR in dB at augment=0"].samples - bilinear) < 0.5  # it was rounded


def test_pitfall_32_a_shift_of_one_colour_is_reported_with_its_sign() -> None:
    def shifted(told: Mapping[str, torch.Tensor]) -> torch.Tensor:
        x = truth(told)
        x[:, 1] -= 3 * (x[:, 1] >= 3).to(torch.uint8)
        return x

    figures = measured(shifted)
    assert figures["drift of the mean of channel 0"].samples == 0
    assert -3 <= figures["drift of the mean of channel 1"].samples < -2.8
    assert figures["PSNR in dB at augment=0"].samples > 40  # which PSNR hides
    assert 1.5 < figures["distance of the area mean to the small picture"].samples < 3


def test_the_noise_on_the_small_picture_is_the_level_that_is_named() -> None:
    def worse(told: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return truth(told) + (20 * told["augment"]).to(torch.uint8).reshape(-1, 1, 1, 1)

    figures = measured(worse)
    assert figures["PSNR in dB at augment=0"].samples == float("inf")
    assert abs(figures["PSNR in dB at augment=0.5"].samples - 20 * float(np.log10(25.5))) < 1e-4


def test_repeats_are_of_other_pictures() -> None:
    seen: list[torch.Tensor] = []

    def noted(told: Mapping[str, torch.Tensor]) -> torch.Tensor:
        seen.append(told["low"])
        return truth(told) + 1

    figures = measured(noted, n=10, repeats=3)
    assert figures["read as asked"].error is not None
    lows = torch.cat(seen[::2]).flatten(1)
    assert len(torch.unique(lows, dim=0)) == 30


def test_what_cannot_be_judged_is_refused() -> None:
    with pytest.raises(UserError, match="30 held-out pictures to enlarge: -n of at most 15, got 20"):
        JUDGE(Known(truth), data(), Trial(20, repeats=2))
    plain = Model(torch.nn.Linear(1, 1), CODEC)
    with pytest.raises(UserError, match="not conditioned on 'low'"):
        JUDGE(plain, data(), Trial(4))


def test_pitfall_32_the_recipe_predicts_no_noise() -> None:
    """Eps is what super-resolution fails with: at high noise its error is multiplied by sigma / alpha."""
    recipe = recipes.load("mnist32")[0]
    assert recipe.model.args["parameterization"].__class__ in (X0, V, Edm)  # type: ignore[attr-defined]
    least, most = recipe.conditioner.augment  # type: ignore[union-attr]
    assert least == 0 and most >= 0.5


# The recipes through the command line ---------------------------------------------------------------------------------

TINY = ("model.net.width=8", "data.limit=2000")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not os.environ.get("UNNOISE_DATA"):
        pytest.skip("UNNOISE_DATA does not say where MNIST is")
    home = tmp_path_factory.mktemp("cascade")
    own = {
        "mnist16": ("model.net.attention=()", "model.net.head_width=8"),
        "mnist32": ("judge.reader.samples=256", "judge.reader.width=4"),
    }
    for name, samples in (("mnist16", "320"), ("mnist32", "1280")):
        more = (*TINY, *own[name], "batch=32", "log_every=40", "sampling.steps=2")
        more += ("model.net.multipliers=(1,2)", "optim.rate.warmup=64")
        sets = [word for assignment in more for word in ("-s", assignment)]
        assert main(["train", name, *sets, "--samples", samples, "--out", str(home / name)]) == 0
    assert main(["join", str(home / "system"), f"base={home / 'mnist16'}", f"up={home / 'mnist32'}"]) == 0
    return home


def test_the_cascade_from_end_to_end(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    system, out = str(runs / "system"), tmp_path / "x.npz"
    assert len(list((runs / "mnist32" / "samples").glob("*.png"))) == 4  # previews, of held-out small pictures
    capsys.readouterr()
    assert main(["sample", system, "-n", "3", "--cond", "label=4", "--out", str(out), "--deterministic"]) == 0
    # By hand: the small ones, then the large ones of these.
    base, up = str(runs / "mnist16"), Model.load(runs / "mnist32")
    small = tmp_path / "small.npz"
    assert main(["sample", base, "-n", "3", "--cond", "label=4", "--out", str(small), "--deterministic"]) == 0
    with np.load(small) as archive:
        low = archive["x"]
    hand = up.sample(3, seed=2**40, low=low, deterministic=True)
    with np.load(out) as archive:
        assert np.array_equal(archive["x"], hand.raw) and archive["label"].tolist() == [4, 4, 4]
        assert archive["seed"].tolist() == [0, 1, 2]
    assert (
        main(["sample", str(runs / "mnist32"), "-n", "2", "--cond", f"low={small}", "--out", str(tmp_path / "f")]) == 0
    )
    files = sorted(f.name for f in (tmp_path / "f").glob("*.png"))
    assert files == ["seed000000-augment0.1.png", "seed000001-augment0.1.png"]
    capsys.readouterr()
    assert main(["info", system]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"system in {system}: base -> up", "low of up is what base makes"]
    assert [line.split(":")[0] for line in lines if not line.startswith(" ")][2:4] == ["base", "up"]


def test_the_run_is_evaluated(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(runs / "mnist32"), "-n", "40"]) == 0
    table = capsys.readouterr().out
    assert "PSNR in dB of bilinear upsampling" in table and "drift of the mean of channel 0" in table
    figures = {f["name"]: f for f in json.loads((runs / "mnist32" / "evaluation.json").read_text())["figures"]}
    assert 15 < figures["PSNR in dB of bilinear upsampling"]["samples"] < 30
    assert 0.05 < figures["distance of the area mean to the small picture"]["real"] < 0.3  # rounding, and white paper


def test_pitfall_32_the_noisier_the_small_picture_the_less_depends_on_it(runs: Path) -> None:
    """The augmentation is there at sampling too, and the network heeds it: one noise, two digits to enlarge."""
    model = Model.load(runs / "mnist32")
    held_out = replace(recipes.load("mnist32")[0].data, limit=1).load().held_out["low"]  # type: ignore[type-var]
    one, other = held_out[:12], held_out[12:24]

    def away(s: float) -> float:
        a, b = (model.sample(12, low=low, augment=s).raw.float() for low in (one, other))
        return float((a - b).square().mean().sqrt())

    near, middle, far = away(0.0), away(0.4), away(0.7)
    assert far < middle < near and far < 0.97 * near


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample", "{}/mnist32"], r"nothing to enlarge: give low=.*--cond low=FILE\.npz"),
        (["sample", "{}/mnist32", "--cond", "low=none.npz"], r"no such file: none\.npz"),
        (["sample", "{}/mnist32", "--cond", "low=3"], r"condition 'low' is pictures \[N, 1, 16, 16\]"),
        (["sample", "{}/system", "--cond", "augment=0.9"], "augment=0.9 is out of range: trained from 0 to 0.7"),
        (["sample", "{}/system", "--weights", "0.05"], "has no snapshots to make 0.05"),
        (["evaluate", "{}/system"], "a saved model, not a run"),
        (["join", "{}/s", "base"], "write NAME=RUN"),
        (["join", "{}/s", "a={}/mnist16", "a={}/mnist32"], "stage 'a' is named twice"),
        (["join", "{}/s", "a={}/none", "b={}/mnist32"], "no such run"),
        (["join", "{}/s", "a={}/mnist32", "b={}/mnist32"], r"'b' cannot be told what 'a' makes: .*\(1, 32, 32\)"),
        (["join", "{}/s", "a={}/mnist16", "b={}/mnist32", "--link", "b.low"], r"write TARGET\.CONDITION=SOURCE"),
        (["join", "{}/system", "a={}/mnist16", "b={}/mnist32"], "exists: choose another folder"),
    ],
    ids=lambda v: " ".join(v)[:40] if isinstance(v, list) else "",
)
def test_wrong_input_is_one_line_that_names_it(
    runs: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main([a.format(runs) for a in arguments] + (["--out", f"{runs}/o"] if arguments[0] == "sample" else [])) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1 and re.search(message, told.err), told.err
    assert not (runs / "s").exists()
