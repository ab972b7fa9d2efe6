"""The recipe of one's own pictures: fitted to what is there, from the command line to pictures again."""

import io
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from unnoise import Model, checkpoint, fit, info
from unnoise.cli import main
from unnoise.data import Flowers, Images, Mirror
from unnoise.data.dataset import loaded
from unnoise.errors import UserError
from unnoise.modality import Image, Labels
from unnoise.override import override
from unnoise.recipes import load
from unnoise.recipes.images import recipe
from unnoise.sample.plan import check_interval

real = pytest.mark.skipif(not os.environ.get("UNNOISE_DATA"), reason="UNNOISE_DATA names no folder of data")
TINY = ["model.net.width=8", "model.net.head_width=8", "model.net.blocks=1", "batch=8", "sampling.steps=2"]
SET = [x for key in TINY for x in ("-s", key)]


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
    assert result.code == 2 and result.out == "" and result.err.count("\n") == 1, result
    assert re.search(message, result.err), result.err


def noise(count: int, height: int, width: int, channels: int, top: int = 256) -> np.ndarray:
    shape = (count, height, width, channels)
    return np.random.default_rng(0).integers(0, top, shape).astype(np.uint8 if top <= 256 else np.uint16)


def written(path: Path, pixels: np.ndarray, classes: int = 1) -> Path:
    """PNG files of pictures [N, H, W, C], in folders by turns."""
    for i, x in enumerate(pixels):
        folder = path / "abcdefgh"[i % classes] if classes > 1 else path
        folder.mkdir(parents=True, exist_ok=True)
        Pillow.fromarray(x[..., 0] if x.shape[-1] == 1 else x).save(folder / f"{i:03d}.png")
    return path


def tiny(path: Path, **given: Any) -> Any:
    found = recipe(str(path), **given)
    for key in TINY:
        found = override(found, key)
    return found


@pytest.mark.parametrize(
    ("channels", "kind"),
    [(1, "uint8"), (2, "uint8"), (3, "uint8"), (4, "uint8"), (5, "npz"), (1, "uint16"), (3, "float32")],
    ids=["gray", "gray+alpha", "rgb", "rgba", "five", "16-bit", "floats"],
)
def test_any_channels_from_files_through_training_to_files(tmp_path: Path, channels: int, kind: str) -> None:
    """Pitfall 28: source, codec, two steps of training, samples and PNG files have the channels that the data have."""
    pixels = noise(20, 8, 8, channels, 65536 if kind == "uint16" else 256)
    path = tmp_path / "x.npz"
    if kind in ("npz", "float32"):
        np.savez(path, x=pixels if kind == "npz" else pixels / 255)
    else:
        path = written(tmp_path / "x", pixels)
    found = tiny(path)
    dtype = "uint8" if kind == "npz" else kind
    top = {"uint8": 255, "uint16": 65535, "float32": 1}[dtype]
    assert found.codec == Image((channels, 8, 8), 0, top, dtype) and found.conditioner is None  # type: ignore[arg-type]
    fit.start(found, tmp_path / "run", samples=16)
    samples = Model.load(tmp_path / "run").sample(2)
    assert samples.raw.shape == (2, channels, 8, 8) and samples.raw.dtype == found.codec.raw_dtype
    if kind == "float32":
        return
    files = samples.save(tmp_path / "out")
    mode = "I;16" if kind == "uint16" else {1: "L", 2: "LA", 3: "RGB", 4: "RGBA", 5: "L"}[channels]
    for file, raw in zip(files, samples.raw.numpy(), strict=True):
        picture = Pillow.open(file)
        values = np.asarray(picture).reshape(8, 8, -1).transpose(2, 0, 1)
        assert picture.mode == mode and np.array_equal(values, raw[: 1 if channels == 5 else None])
    samples.save(tmp_path / "grid.png")
    if channels <= 4:  # what was written is read again, in the same form
        again = recipe(str(tmp_path / "out"))
        assert again.codec.shape == found.codec.shape and again.codec.dtype == found.codec.dtype


def test_pictures_that_are_not_square_stay_so(tmp_path: Path) -> None:
    """Pitfall 29: 24x40 through the source, training, sampling and files."""
    found = tiny(written(tmp_path / "x", noise(20, 24, 40, 3), 2))
    assert found.codec.shape == (3, 24, 40)
    fit.start(found, tmp_path / "run", samples=16)
    samples = Model.load(tmp_path / "run").sample(2, label=[0, 1])
    files = samples.save(tmp_path / "out")
    assert (
        samples.raw.shape == (2, 3, 24, 40) and [np.asarray(Pillow.open(f)).shape for f in files] == [(24, 40, 3)] * 2
    )


@pytest.mark.parametrize("size", [(8, 8), (9, 13), (16, 16), (32, 20), (64, 64), (128, 40)], ids=str)
def test_the_network_fits_the_size(tmp_path: Path, size: tuple[int, int]) -> None:
    found = recipe(str(written(tmp_path / "x", noise(4, *size, 1))))
    parts = found.components()
    side = min(size)
    levels = len(found.model.args["net"].args["multipliers"])
    assert 4 <= side / 2 ** (levels - 1) < 16 and found.model.args["net"].args["attention"] == (2 ** (levels - 1),)
    with torch.no_grad():
        out = parts["model"].net(torch.zeros(1, 1, *size), torch.zeros(1))
    assert out.shape == (1, 1, *size)
    levels = found.sampling.levels(parts["model"].interval)
    assert len(levels.alpha) == 19


def test_what_is_measured_is_that_of_the_data(tmp_path: Path) -> None:
    pixels = noise(40, 8, 8, 1) // 2 + 60
    found = recipe(str(written(tmp_path / "x", pixels, 4)))
    assert found.conditioner == Labels({"label": 4}) and found.model.args["net"].args["labels"] == {"label": 4}
    assert found.model.args["parameterization"].sigma_data == pytest.approx(pixels.std() / 127.5, rel=0.03)
    assert found.data.digest == Images(str(tmp_path / "x")).found().digest and found.augment is None
    assert recipe(str(tmp_path / "x"), mirror=True).augment == Mirror()


@pytest.mark.parametrize(
    ("values", "dtype", "span"),
    [
        ((0, 1), np.uint8, (0, 1)),
        ((0, 9), np.uint8, (0, 15)),
        ((200, 210), np.uint8, (200, 210)),
        ((5, 200), np.uint8, (0, 255)),
        ((0, 4000), np.uint16, (0, 4095)),
        ((-0.5, 1), np.float32, (-1, 1)),
        ((2, 30), np.float32, (2, 30)),
    ],
    ids=str,
)
def test_a_range_that_is_used_in_part_is_the_codecs(
    tmp_path: Path, values: tuple[float, float], dtype: type, span: tuple[float, float]
) -> None:
    """Pitfall 30: masks of 0 and 1, and cameras of 12 bits, are not taken for black pictures."""
    x = np.full((30, 8, 8), values[0]).astype(dtype)
    x[:, ::2] = values[1]
    np.savez(tmp_path / "x.npz", x=x)
    codec = recipe(str(tmp_path / "x.npz")).codec
    assert isinstance(codec, Image) and (codec.low, codec.high) == span
    codec.check(Images(str(tmp_path / "x.npz")).load().train["x"])  # type: ignore[arg-type]


def test_what_cannot_be_learned_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"all pixels of .* are 7: there is nothing to learn"):
        recipe(str(written(tmp_path / "x", np.full((5, 8, 8, 3), 7, np.uint8))))
    with pytest.raises(UserError, match="pictures of 7x30 are too small: 8 pixels a side at least"):
        recipe(str(written(tmp_path / "y", noise(5, 7, 30, 3))))
    with pytest.raises(UserError, match="no such folder or file"):
        recipe(str(tmp_path / "nowhere"))


def test_a_damaged_picture_does_not_stop_the_measurement(tmp_path: Path) -> None:
    path = written(tmp_path / "x", noise(20, 8, 8, 3))
    for name in ("000.png", "019.png"):
        (path / name).write_bytes((path / name).read_bytes()[:120])
    assert recipe(str(path)).codec.shape == (3, 8, 8)


# The command line -----------------------------------------------------------------------------------------------------


@real
def test_own_pictures_from_end_to_end(cli: Callable[..., Result], tmp_path: Path) -> None:
    """Real photographs as files of several sizes, with what folders hold besides: info, train, resume, sample."""
    data = Flowers(size=128, limit=60).load()
    for i, (x, label) in enumerate(zip(loaded(data.train["x"]), loaded(data.train["label"]), strict=True)):
        folder = tmp_path / "mine" / ("low" if int(label) < 50 else "high")
        folder.mkdir(parents=True, exist_ok=True)
        picture = Pillow.fromarray(x.permute(1, 2, 0).numpy()).resize((100 + i, 90))
        (picture.convert("L") if i == 7 else picture).save(folder / f"{i}.jpg")
    (tmp_path / "mine" / "low" / "notes.txt").write_text("not a picture")
    (tmp_path / "mine" / "low" / "cut.jpg").write_bytes(
        (next((tmp_path / "mine" / "low").glob("*.jpg"))).read_bytes()[:999]
    )
    said = cli("info", "mine")
    assert said.code == 0 and "pixels: RGB (59), gray (1)" in said.out and "2 classes: high (" in said.out
    assert "2 skipped: " in said.out and "1 not pictures (low/notes.txt)" in said.out
    assert "next: unnoise train images --data mine --size 64\n" in said.out
    refused(cli("train", "images", "--data", "mine", *SET), "differ in size, .*: set size=64, say")
    done = cli("train", "images", "--data", "mine", "--size", 16, "--mirror", *SET, "--samples", 64)
    assert done.code == 0 and done.out == "runs/images: done; unnoise sample runs/images --out samples.png\n"
    first, second, *_ = done.err.splitlines()
    assert first.startswith("60 pictures of mine, 2 classes; 2 skipped: ") and "1 converted: 1 gray to RGB (" in first
    assert second.startswith("images: ") and "54 items to train on, 6 held out" in second
    facts = checkpoint.read(checkpoint.locate(tmp_path / "runs" / "images")).facts
    assert facts["recipe"]["augment"] == {"$type": "unnoise.data.augment.Mirror", "p": 0.5}
    assert facts["about"] == first
    assert cli("resume", "runs/images", "--samples", 80).code == 0
    out = cli("sample", "runs/images", "-n", 4, "--cond", "label=all", "--out", "x.png")
    assert out.code == 0 and np.asarray(Pillow.open(tmp_path / "x.png")).ndim == 3
    (tmp_path / "mine" / "low" / "new.jpg").write_bytes(next((tmp_path / "mine" / "low").glob("*.jpg")).read_bytes())
    refused(cli("resume", "runs/images", "--samples", 96), "are not those that the run began with, .*--from RUN")
    again = cli(
        "train", "images", "--data", "mine", "--size", 16, *SET, "--samples", 16, "--from", "runs/images", "--out", "b"
    )
    assert again.code == 0, again


def test_a_run_of_pictures_larger_than_memory_resumes_to_the_sample(cli: Callable[..., Result], tmp_path: Path) -> None:
    """From a zip, read by another process: stopped and gone on with, the weights are those of a run in memory."""
    written(tmp_path / "x", noise(30, 8, 8, 1), 2)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for file in sorted((tmp_path / "x").rglob("*.png")):
            archive.write(file, file.relative_to(tmp_path / "x"))
    # Without a decay at the end the rate does not depend on how many samples are asked for.
    common = ["train", "images", *SET, "-s", "optim.rate.decay=0", "--samples"]
    assert cli(*common, 80, "--data", "x", "--out", "held").code == 0
    assert cli(*common, 40, "--data", "x.zip", "-s", "data.memory=0", "--workers", 1, "--out", "lazy").code == 0
    assert cli("resume", "lazy", "--samples", 80, "--workers", 0).code == 0
    a, b = (checkpoint.read(checkpoint.locate(tmp_path / k)).weights["model"] for k in ("held", "lazy"))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_data_size_and_mirror_of_other_recipes(cli: Callable[..., Result], tmp_path: Path) -> None:
    changed, _ = load("flowers", data="somewhere", size=128)
    assert changed.data == Flowers(size=128, path="somewhere") and changed.codec == Image((3, 128, 128))
    assert load("nuclei", mirror=True)[0].augment == Mirror()
    refused(cli("train", "flowers", "--mirror"), "flowers has augment=.* already: leave --mirror out")
    refused(cli("train", "flowers", "--size", 100), "come in size 32, 64 or 128, got size=100")
    refused(cli("train", "flowers", "--size", "64x96"), "size")
    refused(cli("train", "digits", "--data", "x"), "--data says nothing to digits: its source Digits has no path")
    refused(cli("train", "digits", "--size", 16), "--size says nothing to digits: its source Digits has no size")
    refused(cli("train", "shakespeare", "--mirror"), "--mirror is for pictures, and shakespeare is of another kind")
    refused(cli("train", "shakespeare", "--data", "nowhere.txt"), "no such file: nowhere.txt")
    refused(cli("train", "images"), r"which pictures\? --data PATH")
    refused(cli("train", "images", "--data", "nowhere"), "no such folder or file: .*nowhere")
    for size in ("0", "x", "64x", "-1", "4x5x6", "big"):
        refused(cli("train", "images", f"--size={size}"), "--size is a number of pixels such as 64, or height x width")
    written(tmp_path / "x", noise(5, 12, 12, 3))
    refused(cli("train", "images", "--data", "x", "--size", "3x5"), "pictures of 3x5 are too small: 8 pixels a side")
    (tmp_path / "own.py").write_text(
        "import dataclasses\nfrom unnoise.recipes.images import recipe as images\n"
        "def recipe(data=None, size=None):\n    return dataclasses.replace(images(data, size), name=f'own{size}')\n"
    )
    own, _ = load("own.py", data="x", size=(8, 10), mirror=True)
    assert own.name == "own(8, 10)" and own.codec == Image((3, 8, 10)) and own.augment == Mirror()
    refused(cli("train", "own.py", "--data", "nowhere"), "no such folder or file")


@pytest.mark.parametrize("size", [(3, 5), (4, 4), (1, 1)], ids=str)
def test_a_deep_network_takes_pictures_smaller_than_its_strides(size: tuple[int, int]) -> None:
    """It repeats their border up to a multiple, and cuts it off again; the recipe refuses them all the same."""
    net = load("flowers")[0].model.args["net"].replace(labels={}, vectors={})()  # type: ignore[attr-defined]
    with torch.no_grad():
        assert net(torch.zeros(2, 3, *size), torch.zeros(2)).shape == (2, 3, *size)


# What info says -------------------------------------------------------------------------------------------------------


def test_info_of_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = noise(12, 8, 10, 3)
    path = written(tmp_path / "my x", pixels, 3)
    (path / "a" / "copy.png").write_bytes((path / "a" / "000.png").read_bytes())
    lines = list(info.lines(str(path)))
    every = np.concatenate([pixels, pixels[:1]]).astype(float)
    numbers = [" ".join(f"{v:.4g}" for v in f(every, axis=(0, 1, 2))) for f in (np.mean, np.std)]
    assert lines == [
        f"13 pictures in {path}",
        "sizes (H x W): 8x10 (13)",
        "pixels: RGB (13)",
        "3 classes: a (5), b (4), c (4)",
        "1 are there twice, which stay in one part",
        f"mean {numbers[0]}, standard deviation {numbers[1]}, by channel",
        "training would see uint8 [3, 8, 10], 12 to train on and 1 held out",
        f"next: unnoise train images --data '{path}'",
    ]


def test_info_of_arrays_that_are_pictures(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=noise(10, 8, 8, 2), label=np.arange(10) % 2)
    lines = list(info.lines(str(tmp_path / "x.npz")))
    assert lines[0].startswith("x: uint8 [10, 8, 8, 2], ") and lines[2] == "  2 classes, 5 to 5 items each"
    assert "training would see uint8 [2, 8, 8], 9 to train on and 1 held out" in lines
    assert lines[-1] == f"next: unnoise train images --data {tmp_path / 'x.npz'}"


def test_info_of_a_folder_that_is_neither_a_run_nor_pictures(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "a.txt").write_text("hello")
    with pytest.raises(UserError, match=r"is not a run of unnoise.*; and there is no picture .* 1 not pictures"):
        list(info.lines(str(tmp_path / "f")))
    (tmp_path / "one.txt").write_text("hello")
    with pytest.raises(UserError, match=r"one\.txt is none of: a folder of pictures, a zip"):
        list(info.lines(str(tmp_path / "one.txt")))


def test_a_bar_is_drawn_on_a_terminal_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "x", noise(5, 8, 8, 1))

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, drawn in ((io.StringIO(), False), (Terminal(), True)):
        monkeypatch.setattr("sys.stderr", stream)
        Images(str(path)).load()
        assert ("decoding" in stream.getvalue()) == drawn


@pytest.mark.parametrize("side", [16, 64, 128, 256, 1024])
def test_sampling_begins_where_training_looks_and_noise_hides_brightness(side: int, tmp_path: Path) -> None:
    """sigma_max / side is what is left of it in the mean of a picture: larger than half of any spread of brightness."""
    np.savez(tmp_path / "x.npz", x=noise(20, side, side, 1))
    found: Any = recipe(str(tmp_path / "x.npz"), side)
    levels = found.sampling.levels(found.objective.density.interval)
    check_interval(levels, found.objective.density.interval)
    assert found.sampling.start == "mean"
    assert float(levels.sigma[0]) == pytest.approx(80 * max(1, side / 128)) and float(levels.sigma[0]) / side > 0.5
