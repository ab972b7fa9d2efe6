"""Autoguidance from end to end: settings, models, runs, saved models, the command line."""

import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unnoise import Model, System, trained
from unnoise.cli import main
from unnoise.core.denoiser import Preconditioned
from unnoise.core.level import Level
from unnoise.core.parameterization import Edm
from unnoise.core.rng import Rng
from unnoise.errors import UserError
from unnoise.modality import Image
from unnoise.nets import UNet
from unnoise.recipe import Sampling

# Settings -------------------------------------------------------------------------------------------------------------


def test_what_cannot_be_is_refused_and_evaluations_are_counted() -> None:
    with pytest.raises(ValueError, match="autoguidance must be finite, got nan"):
        Sampling(autoguidance=math.nan)
    for share in (0.0, 1.0, -0.5, math.nan):
        with pytest.raises(ValueError, match=f"weaker is a share of the training, between 0 and 1, got {share}"):
            Sampling(weaker=share)
    ways = [(1.0, 1.0), (1.0, 2.0), (2.0, 2.0), ({"a": 2.0, "b": 0.5, "c": 1.0}, 2.0)]
    assert [Sampling(guidance=g, autoguidance=a).passes for g, a in ways] == [1, 2, 4, 6]


# Models ---------------------------------------------------------------------------------------------------------------


def network(seed: int) -> Preconditioned:
    net = UNet(channels=1, width=8, multipliers=(1, 2), blocks=1, attention=(), head_width=8)
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            p.copy_(0.3 * Rng.of(i).fold(seed).normal(torch.zeros(1, *p.shape))[0])
    return Preconditioned(net=net, parameterization=Edm(sigma_data=0.5)).eval()


def test_an_unconditional_model(tmp_path: Path) -> None:
    m = Model(network(0), Image((1, 8, 8)), sampling=Sampling(steps=3, autoguidance=2.5), weaker=network(1))
    assert m.modules == [m.denoiser, m.weaker]
    x, level = Rng.of(range(3)).normal(torch.zeros(3, 1, 8, 8)), Level.of(1.0, 0.7)
    a, b = (Model(d, m.codec).denoise(x, level).x0 for d in (m.denoiser, m.weaker))
    torch.testing.assert_close(m.denoise(x, level).x0, 2.5 * a - 1.5 * b, rtol=1e-5, atol=1e-6)
    assert torch.equal(m.denoise(x, level, autoguidance=1.0).x0, a)
    *_, last = m.stream(3, seed=5)
    assert torch.equal(m.codec.decode(last.x), m.sample(3, seed=5).raw)
    m.save(tmp_path / "m")
    again = Model.load(tmp_path / "m")
    assert again.sampling == m.sampling and torch.equal(again.sample(3).raw, m.sample(3).raw)
    assert torch.equal(m.sample(3, autoguidance=1.0).raw, Model(m.denoiser, m.codec).sample(3, steps=3).raw)
    m.save(tmp_path / "half", torch.bfloat16)
    for p, q in zip(m.weaker.parameters(), Model.load(tmp_path / "half").weaker.parameters(), strict=True):
        assert torch.equal(q, p.bfloat16().float())


def test_the_ode_to_noise_and_back_is_that_of_the_model_alone() -> None:
    alone = Model(network(0), Image((1, 8, 8)), sampling=Sampling(steps=3))
    guided = Model(network(0), Image((1, 8, 8)), sampling=Sampling(steps=3, autoguidance=2.5))
    raw = alone.sample(2).raw
    assert torch.equal(guided.encode(raw), alone.encode(raw))
    assert torch.equal(guided.decode(guided.encode(raw)).raw, alone.decode(alone.encode(raw)).raw)


def test_known_pixels_stay_known() -> None:
    m = Model(network(0), Image((1, 8, 8)), sampling=Sampling(steps=3), weaker=network(1))
    raw, mask = m.sample(2).raw, torch.arange(8) < 4
    made = [m.inpaint(raw, mask, seed=9, autoguidance=s).raw for s in (1.0, 2.5)]
    assert all(torch.equal(x[..., :4], raw[..., :4]) for x in made) and not torch.equal(*made)


def test_stages_of_a_system_each_by_their_own() -> None:
    m = Model(network(0), Image((1, 8, 8)), sampling=Sampling(steps=3), weaker=network(1))
    system = System({"one": m})
    assert torch.equal(system.sample(2, autoguidance={"one": 2.0}).raw, m.sample(2, autoguidance=2.0).raw)
    assert system.settings(autoguidance=2.0)["one"].autoguidance == 2.0


# Runs -----------------------------------------------------------------------------------------------------------------

SEEN = 1920
"""Of the tiny run, in steps of 64."""


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(x, b.state_dict()[k]) for k, x in a.state_dict().items())


@pytest.mark.parametrize("weights", [None, 0.05, 0.07, "raw"])
def test_the_weaker_network_is_the_run_at_the_last_snapshot_before_the_share(tiny: Path, weights: Any) -> None:
    kept = trained.snapshots(tiny)
    for share in (0.25, 0.5, kept[0] / SEEN):
        m = Model.load(tiny, weights=weights, weaker=share)
        at = max(n for n in kept if n <= share * SEEN)
        assert m.facts["weaker"] == at and m.sampling.weaker == share and m.facts["seen"] == SEEN
        then = Model.load(tiny, weights=None if weights == "raw" else weights, at=at)
        plain = Model.load(tiny, weights=weights)
        assert same(m.weaker, then.denoiser) and same(m.denoiser, plain.denoiser)
        assert not same(m.weaker, m.denoiser) and not m.weaker.training and m.more == {}
        assert plain.weaker is None and "weaker" not in plain.facts


def test_both_are_told_the_same(tiny: Path) -> None:
    m = Model.load(tiny, weaker=True)
    m.sampling = replace(m.sampling, guidance=1.0)
    assert m.sampling.weaker == 0.25 and m.facts["weaker"] <= 0.25 * SEEN
    x, level = Rng.of(range(2)).normal(torch.zeros(2, 1, 8, 8)), Level.of(1.0, 0.7)
    then = Model.load(tiny, at=m.facts["weaker"])
    a, b = (one.denoise(x, level, guidance=1.0, label=[3, 8]).x0 for one in (m, then))
    got = m.denoise(x, level, autoguidance=2.0, label=[3, 8]).x0
    torch.testing.assert_close(got, 2 * a - b, rtol=1e-5, atol=1e-6)


def test_an_earlier_average_of_a_run_has_an_earlier_weaker_one(tiny: Path) -> None:
    kept = trained.snapshots(tiny)
    m = Model.load(tiny, at=kept[-2], weaker=0.5)
    assert m.facts["weaker"] == max(n for n in kept if n <= 0.5 * kept[-2])


def test_without_a_weaker_network_it_is_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"autoguidance 2 needs a weaker network, .* Model.load\(run, weaker=True\), or"
    ):
        Model.load(tiny).sample(1, autoguidance=2.0)
    for share, message in (
        (
            0.01,
            r"keeps no averages of the first 0\.01 of its 1920 samples: take --weaker 0\.134 or more, or leave",
        ),
        (1.5, "weaker is a share of the training, between 0 and 1, got 1.5"),
    ):
        with pytest.raises(UserError, match=message):
            Model.load(tiny, weaker=share)
    Model.load(tiny, weaker=0.5).save(tmp_path / "with")
    Model.load(tiny).save(tmp_path / "without")
    for folder in (tmp_path / "without", tiny / "checkpoints" / str(SEEN)):
        with pytest.raises(UserError, match=r"keeps no averages of the first 0\.25"):
            Model.load(folder, weaker=True)
    for share in (None, True, 0.5):
        assert Model.load(tmp_path / "with", weaker=share).facts["weaker"] <= 0.5 * SEEN
    with pytest.raises(UserError, match=r"holds a weaker network of share 0\.5, and none of 0\.25"):
        Model.load(tmp_path / "with", weaker=0.25)


def test_a_saved_model_keeps_it(tiny: Path, tmp_path: Path) -> None:
    m = Model.load(tiny, weaker=0.5)
    m.save(tmp_path / "m")
    assert (tmp_path / "m/components/weaker/weights.safetensors").is_file()
    again = Model.load(tmp_path / "m")
    assert same(again.weaker, m.weaker) and again.facts["weaker"] == m.facts["weaker"] and again.more == {}
    assert again.sampling == m.sampling and again.sampling.weaker == 0.5
    a, b = (one.sample(3, autoguidance=2.0).raw for one in (again, m))
    assert torch.equal(a, b) and not torch.equal(a, m.sample(3).raw)


# The command line -----------------------------------------------------------------------------------------------------

Cli = Callable[..., tuple[int, str]]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line in this process, in an empty folder: its exit code, and what it says of errors."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: Any) -> tuple[int, str]:
        capsys.readouterr()
        return main([str(a) for a in arguments]), capsys.readouterr().err

    return run


def test_samples_of_a_run_and_of_a_saved_model(cli: Cli, tiny: Path) -> None:
    Model.load(tiny, weaker=0.5).save("half")
    for name, run, options, share in (
        ("a", tiny, ["--autoguidance", 2], True),
        ("b", tiny, ["--autoguidance", 2, "--weaker", 0.5], 0.5),
        ("c", "half", ["--autoguidance", 2], True),
    ):
        code, err = cli("sample", run, "-n", 3, "--steps", 2, *options, "--out", f"{name}.npz")
        assert code == 0, err
        with np.load(f"{name}.npz") as archive:
            made = Model.load(run, weaker=share).sample(3, steps=2, autoguidance=2.0)
            assert np.array_equal(archive["x"], made), name
    plain = cli("sample", tiny, "-n", 3, "--steps", 2, "--autoguidance", 1, "--out", "d.npz")
    assert plain[0] == 0 and np.array_equal(np.load("d.npz")["x"], Model.load(tiny).sample(3, steps=2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--autoguidance", "nan"], "autoguidance must be finite, got nan"),
        (["--autoguidance", "2", "--weaker", "1"], "weaker is a share of the training, between 0 and 1, got 1.0"),
        (["--autoguidance", "2", "--weaker", "0.01"], "it keeps no averages of the first 0.01 of its 1920 samples"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_is_one_line(cli: Cli, tmp_path: Path, tiny: Path, options: list[str], message: str) -> None:
    for command in ("sample", "evaluate"):
        code, err = cli(command, tiny, *options, "--out", "out")
        assert code == 2 and message in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_models_without_one_are_refused_in_one_line(cli: Cli) -> None:
    code, err = cli("sample", "mnist", "--autoguidance", 2, "--out", "x.npz")
    assert code == 2 and "mnist has no weaker network for autoguidance" in err and err.count("\n") == 1


def test_a_run_is_evaluated_with_it(cli: Cli, tiny: Path) -> None:
    """As asked for; the record and the report's command say how, and earlier averages have weaker ones of their own."""
    shutil.copytree(tiny, "run")
    few = ["-n", 80, "--steps", 1, "-s", "judge.halves=false", "-s", "judge.compared=100"]
    code, err = cli("evaluate", "run", *few, "--autoguidance", 2, "--weaker", 0.5, "--history", 3)
    assert code == 0, err
    found = json.loads(Path("run/evaluation.json").read_text())
    assert found["measured"]["sampling"]["autoguidance"] == 2.0 and found["measured"]["sampling"]["weaker"] == 0.5
    assert "--autoguidance 2.0 --weaker 0.5 " in re.sub("<[^>]+>", "", Path("run/report.html").read_text())
    kept = trained.snapshots(Path("run"))
    first = min(n for n in kept if 0.5 * n >= kept[0])
    assert found["history"][0]["seen"] == first and found["history"][-1]["seen"] == SEEN


def test_a_recipe_that_asks_for_it(cli: Cli, tmp_path: Path) -> None:
    """Previews are of the network alone; what is loaded of the run has its weaker network, and samples with it."""
    small = ["-s", "model.net.width=8", "-s", "model.net.head_width=8", "-s", "sampling.steps=2"]
    asked = ["-s", "sampling.autoguidance=2", "-s", "sampling.weaker=0.5"]
    code, err = cli("train", "digits", *small, *asked, "--samples", 640, "--out", "run")
    assert code == 0, err
    m = Model.load("run")
    assert m.sampling.autoguidance == 2.0 and m.facts["weaker"] == 320
    assert cli("sample", "run", "-n", 3, "--out", "x.npz")[0] == 0
    assert np.array_equal(np.load("x.npz")["x"], m.sample(3))
    assert not np.array_equal(m.sample(3), m.sample(3, autoguidance=1.0))
    alone = Model.load("run/checkpoints/640")  # without the averages, and good for everything else
    assert alone.weaker is None and np.array_equal(alone.sample(3, autoguidance=1.0), m.sample(3, autoguidance=1.0))
    code, err = cli("sample", "run/checkpoints/640", "--out", "y.npz")
    assert code == 2 and "has no weaker network for autoguidance" in err


def test_a_run_too_young_for_the_autoguidance_of_its_recipe_says_how_to_go_without(cli: Cli) -> None:
    young = ["digits", "-s", "model.net.width=8", "-s", "sampling.autoguidance=1.5", "-s", "sampling.weaker=0.1"]
    assert cli("train", *young, "--samples", 640, "--out", "young")[0] == 0
    code, err = cli("sample", "young", "-n", 2, "--steps", 2, "--out", "a.npz")
    said = "has no weaker network for autoguidance, since it keeps no averages of the first"
    without = "or leave autoguidance at 1 (--autoguidance 1)\n"
    assert (code, err) == (2, f"unnoise: young {said} 0.1 of its 640 samples: take --weaker 0.4 or more, {without}")
    assert cli("sample", "young", "-n", 2, "--steps", 2, "--autoguidance", 1, "--out", "a.npz")[0] == 0
    assert cli("sample", "young", "-n", 2, "--steps", 2, "--weaker", 0.4, "--out", "b.npz")[0] == 0
    code, err = cli("sample", "young/checkpoints/640", "-n", 2, "--out", "c.npz")
    assert code == 2 and err.endswith(f"0.1 of its 640 samples: take the folder of its run, {without}")
    assert cli("train", *young, "--samples", 128, "--out", "younger")[0] == 0
    for asked in ([], ["--weaker", 0.9]):
        code, err = cli("sample", "younger", "-n", 2, *asked, "--out", "c.npz")
        assert code == 2 and err.endswith(f" of its 128 samples: train it longer, {without}")
