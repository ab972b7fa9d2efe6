"""Flowers-102 in its strips and in its published files."""

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from unnoise.data import Flowers, flowers
from unnoise.data.groups import limited
from unnoise.errors import UserError

real = pytest.mark.skipif(not os.environ.get("UNNOISE_DATA"), reason="UNNOISE_DATA names no folder of data")

TEST = [2, 5]
"""Numbers of the test pictures, counted from 1 as in setid.mat."""

COLOURS = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0), (0, 200, 200), (90, 90, 90)]


def picture(i: int) -> bytes:
    """Landscape and portrait by turns: the centre square of one colour, gray around."""
    width, height = ((600, 300), (300, 450))[i % 2]
    pixels = np.full((height, width, 3), 128, np.uint8)
    top, left = (height - 300) // 2, (width - 300) // 2
    pixels[top : top + 300, left : left + 300] = COLOURS[i]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The published files in small: six pictures."""
    scipy = pytest.importorskip("scipy.io")
    scipy.savemat(tmp_path / "imagelabels.mat", {"labels": np.array([[1, 7, 102, 7, 1, 50]], np.uint8)})
    scipy.savemat(
        tmp_path / "setid.mat",
        {"trnid": np.array([[6, 1]]), "valid": np.array([[4, 3]]), "tstid": np.array([TEST[::-1]])},
    )
    with tarfile.open(tmp_path / "102flowers.tgz", "w:gz") as tar:
        for i in reversed(range(6)):
            info = tarfile.TarInfo(f"jpg/image_{i + 1:05d}.jpg")
            info.size = len(content := picture(i))
            tar.addfile(info, io.BytesIO(content))
    return tmp_path


@pytest.fixture(scope="module")
def found() -> Any:
    """What is in the strips, decoded once."""
    return flowers._strips(Path(os.environ["UNNOISE_DATA"], "flowers102"))


@pytest.fixture
def decoded(found: Any, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """All pictures, which the data of a test are cut from."""
    monkeypatch.setattr(flowers, "_strips", lambda path: found)
    pictures: torch.Tensor = found[0]
    return pictures


@real
def test_flowers_are_what_they_are_said_to_be(decoded: torch.Tensor) -> None:
    data = Flowers(size=64).load()
    assert data.train["x"].shape == (2040, 3, 64, 64) and data.train["x"].dtype == torch.uint8
    assert len(data.held_out["x"]) == 6149 and "2008" in data.about
    assert data.train["label"].bincount().tolist() == [20] * 102
    counts = data.train["label"].bincount() + data.held_out["label"].bincount()
    assert (int(counts.min()), int(counts.max()), int(counts.sum())) == (40, 258, 8189)
    few = limited(data.train, 500, 0)  # type: ignore[arg-type]
    assert len(few["x"]) == 500 and len(few["label"].unique()) > 95  # not the first classes only


@real
def test_pictures_that_are_there_twice_do_not_cross_a_share(decoded: torch.Tensor) -> None:
    """In the strips they differ by what WebP lost: less than 3 of 255 on the mean."""
    data = Flowers(size=128, split=0.5).load()
    parts = [{row.tobytes() for row in part["x"].numpy()} for part in (data.train, data.held_out)]
    assert len(parts[0] | parts[1]) == 8189 and len(data.held_out["x"]) in range(4085, 4100)
    for first, second in flowers._TWICE:
        a, b = decoded[first - 1], decoded[second - 1]
        assert float((a.int() - b.int()).abs().double().mean()) < 3
        assert float((a.int() - decoded[second].int()).abs().double().mean()) > 30
        assert [a.numpy().tobytes() in p for p in parts] == [b.numpy().tobytes() in p for p in parts]
    means = sum(part["x"].double().mean((2, 3)).sum(0) for part in (data.train, data.held_out)) / 8189 / 255
    assert torch.allclose(means, torch.tensor([0.4754, 0.3942, 0.3082], dtype=torch.float64), atol=1e-3)


def test_published_files_are_cropped_made_small_and_told_apart(folder: Path) -> None:
    """Pitfall 29: landscape and portrait come to one square, nothing of what lies beside it is seen."""
    data = Flowers(size=128, path=str(folder)).load()
    for part, numbers in ((data.train, [1, 3, 4, 6]), (data.held_out, TEST)):
        assert part["label"].tolist() == [[0, 6, 101, 6, 0, 49][n - 1] for n in numbers]
        for x, n in zip(part["x"], numbers, strict=True):
            colour = torch.tensor(COLOURS[n - 1])[:, None, None]
            assert x.shape == (3, 128, 128)
            assert int((x.int() - colour).abs()[:, 4:-4, 4:-4].max()) <= 3
    small = Flowers(size=64, path=str(folder)).load()
    means = data.train["x"].numpy().reshape(4, 3, 64, 2, 64, 2).mean((3, 5))
    assert np.array_equal(small.train["x"].numpy(), np.round(means).astype(np.uint8))


def test_an_unpacked_folder_is_the_same_data(folder: Path) -> None:
    packed = Flowers(path=str(folder)).load()
    with tarfile.open(folder / "102flowers.tgz") as tar:
        tar.extractall(folder, filter="data")
    (folder / "102flowers.tgz").unlink()
    unpacked = Flowers(path=str(folder)).load()
    assert torch.equal(packed.train["x"], unpacked.train["x"])
    assert torch.equal(packed.held_out["label"], unpacked.held_out["label"])
    few = Flowers(path=str(folder), limit=2).load()
    assert len(few) == 2 and torch.equal(few.held_out["x"], packed.held_out["x"])
    shares = Flowers(path=str(folder), split=0.5).load()
    assert len(shares) == len(shares.held_out["x"]) == 3
    with pytest.raises(UserError, match="know no split 'udacity': set split='official', or a share"):
        Flowers(path=str(folder), split="udacity").load()


def test_bad_files_are_named(folder: Path) -> None:
    scipy = pytest.importorskip("scipy.io")

    def message() -> str:
        with pytest.raises(UserError) as e:
            Flowers(path=str(folder)).load()
        assert str(folder) in str(e.value) and "\n" not in str(e.value)
        return str(e.value)

    labels = (folder / "imagelabels.mat").read_bytes()
    for bad in (b"", b"hello", labels[:60], labels[:150]):
        (folder / "imagelabels.mat").write_bytes(bad)
        assert "imagelabels.mat is not a readable MATLAB file" in message() or "no array 'labels'" in message()
    scipy.savemat(folder / "imagelabels.mat", {"labels": np.array([[1, 7, 103, 7, 1, 50]])})
    assert "labels from 1 to 103, not from 1 to 102" in message()
    scipy.savemat(folder / "imagelabels.mat", {"labels": np.ones((1, 9))})
    assert "has no picture image_00007.jpg, one of 3 missing" in message()
    scipy.savemat(folder / "imagelabels.mat", {"labels": np.ones((1, 3))})
    assert "setid.mat in" in message() and "counts to 5" in message()
    (folder / "imagelabels.mat").unlink()
    assert "no such file" in message()
    (folder / "imagelabels.mat").write_bytes(labels)
    (folder / "102flowers.tgz").write_bytes((folder / "102flowers.tgz").read_bytes()[:700])
    assert "102flowers.tgz is not a readable tar" in message()
    (folder / "102flowers.tgz").unlink()
    assert "holds neither 102flowers.tgz, nor jpg, nor flowers102_labels.npz" in message()
    (folder / "jpg").mkdir()
    for i in range(6):
        (folder / "jpg" / f"image_{i + 1:05d}.jpg").write_bytes(picture(i)[: 900 if i == 3 else None])
    assert "image_00004.jpg in" in message() and "is not a readable picture" in message()
    with pytest.raises(UserError, match=r"no such folder: .*nowhere"):
        Flowers(path=str(folder / "nowhere")).load()


def test_choices_are_checked(unchecked: None) -> None:
    with pytest.raises(UserError, match="size 32, 64 or 128, got size=16"):
        Flowers(size=16)
    with pytest.raises(UserError, match=r"got 'train'"):
        Flowers(split="train")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="got -1"):
        Flowers(limit=-1)
