"""Bits per dimension of held-out data: of digits by a tiny run of the recipe, of normal data by exact models."""

import json
import math
from pathlib import Path

import pytest
import torch
from exact import Exact

from unnoise import cli
from unnoise.core.exact import Normal
from unnoise.core.rng import Rng
from unnoise.data import Digits
from unnoise.data.dataset import Dataset
from unnoise.errors import UserError
from unnoise.judges import Bound
from unnoise.judges.bound import independent
from unnoise.modality import Image
from unnoise.modality.plain import Plain
from unnoise.model import Model
from unnoise.recipe import Sampling
from unnoise.sample.grids import KarrasGrid
from unnoise.spec import build, describe
from unnoise.trial import Judge, Trial

CODEC = Image((1, 8, 8), 0, 16)


def normals(n: int) -> Dataset:
    raw = 3 + 20 * Rng.of(range(2 * n)).normal(torch.zeros(2 * n, 4))
    return Dataset({"x": raw[:n]}, {"x": raw[n:]})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run of the recipe, through the command line."""
    path = tmp_path_factory.mktemp("bound") / "run"
    settings = ["model.net.width=8", "model.net.head_width=8", "batch=32", "judge.steps=(4,)"]
    arguments = [a for s in settings for a in ("-s", s)]
    assert cli.main(["train", "digits_likelihood", "--out", str(path), "--samples", "640", *arguments]) == 0
    return path


def test_independent_elements_of_normal_data_have_their_differential_entropy() -> None:
    """log2(std sqrt(2 pi e)) bits an element, in units of the raw data."""
    data = normals(20000)
    found = independent(Plain((4,), 3.0, 7.0), data.train["x"], data.held_out["x"])
    assert float(found.mean()) == pytest.approx(math.log2(20 * math.sqrt(2 * math.pi * math.e)), abs=0.01)


def test_independent_elements_by_hand() -> None:
    """Laplace's rule: (count + 1) / (n + 17)."""
    train = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    train[2] = 5
    x = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    x[1, 0, 0, :] = 5
    x[1, 0, 1, :] = 16
    found = independent(CODEC, train, x).tolist()
    zero, five, never = (-math.log2(p / 20) for p in (3, 2, 1))
    assert found == pytest.approx([zero, (48 * zero + 8 * five + 8 * never) / 64], rel=1e-9)


def test_independent_pixels_of_digits() -> None:
    """Beside log2(17) = 4.09 bits of uniform ones: what a model of digits must go below."""
    data = Digits().load()
    found = independent(CODEC, data.train["x"], data.held_out["x"])
    x, y = data.train["x"].flatten(1).long(), data.held_out["x"].flatten(1).long()
    want = torch.zeros(len(y), dtype=torch.float64)
    for pixel in range(64):
        counts = torch.bincount(x[:, pixel], minlength=17).double() + 1
        want -= (counts / counts.sum()).log2()[y[:, pixel]]
    torch.testing.assert_close(found, want / 64)
    assert 2.3 < float(found.mean()) < 2.5


def test_an_exact_model_reaches_the_entropy_of_its_data() -> None:
    """Learned variance aside, which only a parameterization promises: "large" is exact for unit normal states."""
    data = normals(2000)
    model = Model(Exact(Normal()), Plain((4,), 3.0, 20.0), sampling=Sampling(steps=6))
    figures = Bound(steps=(6,))(model, data, Trial(2000))
    found = {f.name: f for f in figures}
    large = found["bits per dimension, 6 steps, large variance"]
    entropy = math.log2(20 * math.sqrt(2 * math.pi * math.e))
    assert large.error is not None and large.samples == pytest.approx(entropy, abs=5 * large.error)
    assert found["bits per dimension, 6 steps, small variance"].samples > entropy + 0.05
    assert found["bits per dimension of independent elements"].samples == pytest.approx(entropy, abs=0.05)


def test_figures_do_not_depend_on_the_batch_and_repeats_average_the_noise() -> None:
    data = normals(50)
    model = Model(Exact(Normal()), Plain((4,), 3.0, 20.0))
    whole, parts = (Bound(steps=(3,), batch=b)(model, data, Trial(50)) for b in (50, 7))
    for a, b in zip(whole, parts, strict=True):
        assert a.samples == pytest.approx(b.samples, rel=1e-12) and a.error == pytest.approx(b.error, rel=1e-9)
    more = Bound(steps=(3,))(model, data, Trial(50, repeats=8))
    assert more[0].samples != whole[0].samples and (more[1].error or 0) < (whole[1].error or 0)
    assert more[-1] == whole[-1]


def test_the_number_of_steps_and_of_rows_can_be_asked_for() -> None:
    said: list[str] = []
    figures = Bound()(
        Model(Exact(Normal()), Plain((4,), 3.0, 20.0)), normals(30), Trial(10, settings={"steps": 5}, say=said.append)
    )
    assert [f.name for f in figures[:2]] == [f"bits per dimension, 5 steps, {v} variance" for v in ("small", "large")]
    assert said == ["the bound of 10 held-out rows over 5 steps"]


def test_the_grid_that_is_asked_for_is_walked() -> None:
    judge, data, grid = Bound(steps=(5,)), normals(30), KarrasGrid(sigma_min=0.05, rho=3)
    model = Model(Exact(Normal()), Plain((4,), 3.0, 20.0))
    without, asked = judge(model, data, Trial(10)), judge(model, data, Trial(10, settings={"grid": grid}))
    model.sampling = Sampling(grid=grid)
    assert asked == judge(model, data, Trial(10)) != without


def test_the_recipe_from_the_command_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", str(run), "-n", "64"]) == 0
    out = capsys.readouterr().out
    result = json.loads((run / "evaluation.json").read_text())
    found = {f["name"]: f for f in result["figures"]}
    for var in ("learned", "small", "large"):
        name = f"bits per dimension, 4 steps, {var} variance"
        assert name in out and 0 < found[name]["samples"] < 20 and found[name]["error"] > 0
    assert cli.main(["sample", str(run), "-n", "3", "--out", str(tmp_path / "x.npz")]) == 0
    assert cli.main(["sample", str(run), "-n", "3", "--steps", "2", "--out", str(tmp_path / "folder")]) == 0
    assert len(list((tmp_path / "folder").glob("*.png"))) == 3
    assert cli.main(["info", str(run)]) == 0
    assert "digits_likelihood" in capsys.readouterr().out


def test_training_lowers_the_bound(run: Path) -> None:
    """Even these 30 steps: below an untrained network of the same recipe."""
    data = Digits().load()
    trained = Model.load(run)
    first = Bound(steps=(8,))(trained, data, Trial(64))[0].samples
    with torch.no_grad():
        for p in trained.denoiser.parameters():
            p.zero_()
    assert first < Bound(steps=(8,))(trained, data, Trial(64))[0].samples - 0.05


def test_a_grid_outside_the_trained_steps_is_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", str(run), "-n", "8", "--steps", "500"]) == 2
    error = capsys.readouterr().err
    assert "trained for log-SNR" in error and "Traceback" not in error


def test_states_without_a_density_are_refused() -> None:
    class Silent:
        pass

    data = normals(4)
    with pytest.raises(UserError, match=r"Gaussian states with a density.*Silent"):
        Bound()(Model(Exact(Normal()), Silent()), data, Trial(4))
    with pytest.raises(UserError, match=r"Gaussian states with a density.*NoneType"):
        Bound()(Model(Exact(Normal()), Plain((4,)), process=None), data, Trial(4))
    empty = Dataset(data.train, {"x": data.train["x"][:0]})
    with pytest.raises(UserError, match="no held-out data"):
        Bound()(Model(Exact(Normal()), Plain((4,))), empty, Trial(4))


def test_it_is_a_judge_and_a_value() -> None:
    judge = Bound(steps=(2, 3))
    assert isinstance(judge, Judge) and build(describe(judge)) == judge
