"""Sets of points: subsets of clouds, ply files, pictures; no order anywhere from noise to sample."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from torch import Tensor

from unnoise.cli import main
from unnoise.core.denoiser import Preconditioned
from unnoise.core.parameterization import Edm
from unnoise.core.process import Gaussian
from unnoise.core.rng import Rng
from unnoise.errors import UserError
from unnoise.modality import PointSet
from unnoise.model import Model
from unnoise.nets import Transformer
from unnoise.recipe import Sampling
from unnoise.sample import Heun
from unnoise.sample.driver import sample
from unnoise.sample.grids import KarrasGrid
from unnoise.spec import build, describe

real = pytest.mark.skipif(not os.environ.get("UNNOISE_DATA"), reason="UNNOISE_DATA names no folder of data")
TINY = ("model.net.width=16", "model.net.head_width=8", "model.net.depth=1", "codec.count=16", "sampling.steps=2")
TINY += ("batch=8", "judge.draws=1", "judge.emd_points=8")


def clouds(n: int, p: int) -> Tensor:
    return Rng.of(range(n)).normal(torch.zeros(n, p, 3))


def read_ply(path: Path) -> Tensor:
    """The vertices of a ply file as its format says: a header, then a line each."""
    head, _, body = path.read_text().partition("end_header\n")
    lines = head.splitlines()
    assert lines[:2] == ["ply", "format ascii 1.0"] and lines[3:] == [f"property float {axis}" for axis in "xyz"]
    rows = [[float(v) for v in line.split()] for line in body.splitlines()]
    assert lines[2] == f"element vertex {len(rows)}"
    return torch.tensor(rows, dtype=torch.float32)


def perturbed(inducing: int | None) -> Preconditioned:
    """A small denoiser in float64 with no zero left in it."""
    torch.manual_seed(0)
    net = Transformer(channels=3, width=16, depth=2, head_width=8, positions=False, inducing=inducing).double()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.2 * torch.randn(p.shape))
    return Preconditioned(net, Edm(sigma_data=1.0), interval=(-9.0, 9.0))


def test_encoding_divides_and_decoding_is_its_inverse() -> None:
    codec, x = PointSet(5, scale=0.25), clouds(3, 5)
    assert torch.equal(codec.encode(x), 4 * x) and torch.equal(codec.decode(4 * x), x)
    assert codec.encode(x.double()).dtype == torch.float32
    mask = torch.tensor([[True, True, False, True, False]] * 3)
    out = codec.decode(x, mask)
    assert torch.equal(out[mask], x[mask] / 4) and not out[~mask].any()


def test_training_sees_all_points_of_a_cloud_in_turn() -> None:
    """Each encoding draws other points, each at most once; which ones follows from the row's generator alone."""
    codec = PointSet(4)
    x = torch.arange(10.0)[None, :, None].expand(300, 10, 3)
    drawn = codec.encode(x, Rng.of(range(300)))[..., 0]
    assert all(len(set(row.tolist())) == 4 for row in drawn)
    share = drawn.long().flatten().bincount(minlength=10) / 300  # 0.4 +- 0.028 each
    assert float((share - 0.4).abs().max()) < 0.12
    assert torch.equal(codec.encode(x[70:80], Rng.of(range(70, 80)))[..., 0], drawn[70:80])
    assert torch.equal(codec.encode(x)[0, :, 0], torch.arange(4.0))
    whole = clouds(2, 4)
    assert torch.equal(codec.encode(whole, Rng.of(range(2))), whole)  # nothing to choose: in their order


@pytest.mark.parametrize("inducing", [None, 3])
def test_a_permutation_of_the_noise_permutes_the_sample(inducing: int | None) -> None:
    """Through the whole loop, in float64; and another permutation of the sample is another noise's."""
    denoiser, levels = perturbed(inducing), KarrasGrid(sigma_min=0.02, sigma_max=60)(8, (-9.0, 9.0))
    noise = 60 * Rng.of(range(2)).normal(torch.zeros(2, 12, 3, dtype=torch.float64))
    order = torch.tensor([3, 0, 7, 11, 1, 2, 10, 9, 8, 4, 5, 6])

    def run(x: Tensor) -> Tensor:
        *_, last = sample(Heun(), Gaussian(), denoiser, x, levels, Rng.of(range(2)))
        return last.x

    with torch.no_grad():
        a, b = run(noise), run(noise[:, order])
    torch.testing.assert_close(a[:, order], b, rtol=0, atol=1e-9)
    assert float((a - b).abs().max()) > 0.1


def test_known_points_come_back_and_the_rest_is_drawn() -> None:
    sampling = Sampling(Heun(), KarrasGrid(sigma_min=0.02, sigma_max=60), steps=4)
    model = Model(perturbed(3).float(), PointSet(8, 0.5), sampling=sampling)
    x, known = clouds(3, 8), torch.tensor([True] * 5 + [False] * 3)[None, :, None]
    done = model.inpaint(x, known, seed=4).raw
    assert torch.equal(done[:, :5], x[:, :5]) and not torch.isclose(done[:, 5:], x[:, 5:]).any(2).any()
    with pytest.raises(UserError, match="completed to 8 points in all, got one of 9"):
        model.inpaint(clouds(1, 9), torch.ones(1, 1, 1, dtype=torch.bool))


def test_a_ply_file_is_exact(tmp_path: Path) -> None:
    x = torch.cat([clouds(1, 30)[0], torch.tensor([[1e-30, -1 / 3, 12345.678]])])
    PointSet().write(x, tmp_path / "a.ply")
    assert torch.equal(read_ply(tmp_path / "a.ply"), x)
    assert [f.name for f in tmp_path.iterdir()] == ["a.ply"]


def test_a_picture_shows_three_views() -> None:
    """A point near each end of an axis stands where the views along z, y and x must show it."""
    x = torch.tensor([[[1.0, 0, 0], [-1.0, 0, 0]], [[0, 1.0, 0], [0, -1.0, 0]]])
    sheet = np.asarray(PointSet().grid(x, columns=1)).astype(int)
    assert sheet.shape == (129, 192) and (sheet[64] == 200).all()
    dark = [{(y // 31, w % 64 // 31, w // 64) for y, w in np.argwhere(part < 255)} for part in (sheet[:64], sheet[65:])]
    assert dark[0] == {(1, 0, 0), (1, 2, 0), (1, 0, 1), (1, 2, 1), (1, 1, 2)}  # along x: left and right, then one spot
    assert dark[1] == {(0, 1, 0), (2, 1, 0), (1, 1, 1), (0, 1, 2), (2, 1, 2)}  # along y: above and below, then one spot
    near, far = (np.asarray(PointSet().grid(torch.tensor([[[0, 0, z], [1.0, 1, 1]]]))).min(1)[31] for z in (0.9, -0.9))
    assert near < far < 255


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (torch.zeros(20, 9, 2), r"float32 of shape \(20, 9, 2\), the codec expects floats \[B, P, 3\]"),
        (torch.zeros(20, 9, 3, dtype=torch.int64), "int64"),
        (torch.zeros(20, 9), r"\(20, 9\)"),
        (clouds(20, 7), "have 7 points, the codec needs 9: set codec.count=7 or less, or data.count=9"),
        (100 * clouds(20, 9), "root mean square of 104 .*set codec.scale"),
        (0.01 * clouds(20, 9), "root mean square of 0.0.*set codec.scale"),
        (50 + clouds(20, 9), "move and scale"),
    ],
)
def test_what_is_no_clouds_is_refused(raw: Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        PointSet(9).check(raw)


def test_points_that_are_not_finite_are_refused() -> None:
    with pytest.raises(FloatingPointError, match="not finite"):
        PointSet(2).decode(torch.tensor([[[0.0, 0, 0], [0, float("nan"), 0]]]))
    for count, scale in ((0, 1.0), (4, 0.0), (4, float("inf"))):
        with pytest.raises(ValueError, match="count >= 1 and a finite scale > 0"):
            PointSet(count, scale)


@real
def test_the_recipe_from_end_to_end(tmp_path: Path, capsys: Any) -> None:
    """Train, sample into files of the field, an archive and a picture, evaluate, all by command."""
    run, settings = tmp_path / "run", [f for a in TINY for f in ("-s", a)]
    assert main(["train", "airplane", "--out", str(run), "--samples", "160", *settings]) == 0
    assert main(["sample", str(run), "-n", "2"]) == 0
    files = sorted((run / "out").glob("*.ply"))
    assert [f.name for f in files] == ["seed000000.ply", "seed000001.ply"]
    for suffix in (".npz", ".png"):
        assert main(["sample", str(run), "-n", "2", "--out", str(tmp_path / f"x{suffix}")]) == 0
    x = torch.from_numpy(np.load(tmp_path / "x.npz")["x"])
    assert x.shape == (2, 16, 3) and torch.equal(torch.stack([read_ply(f) for f in files]), x)
    assert np.asarray(Pillow.open(tmp_path / "x.png")).min() < 200
    capsys.readouterr()
    assert main(["evaluate", str(run), "-n", "12"]) == 0
    assert "1-NN accuracy, Chamfer, box" in capsys.readouterr().out and (run / "evaluation.json").is_file()
    assert main(["evaluate", str(run), "-n", "101"]) == 2
    assert "-n from 2 to 100, got 101" in capsys.readouterr().err
    assert main(["info", "airplane"]) == 0 and main(["info", str(run)]) == 0
    assert "codec.scale" in capsys.readouterr().out
    assert main(["train", "airplane", "--out", str(tmp_path / "b"), "-s", "data.count=100"]) == 2
    assert "clouds of the data have 100 points, the codec needs 256" in capsys.readouterr().err


@real
def test_the_recipe_is_for_the_size_of_airplanes() -> None:
    from unnoise import recipes

    recipe = recipes.load("airplane")[0]
    for part in (recipe.codec, recipe.judge):
        assert build(describe(part)) == part
    x = recipe.codec.encode(recipe.data.load().train["x"])
    assert float(x.std()) == pytest.approx(1, abs=0.02)
