"""IDX files and MNIST: the published bytes, the sizes derived from them, and every kind of bad file."""

import gzip
import hashlib
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from unnoise.data import Mnist, mnist
from unnoise.data.fetch import Remote
from unnoise.data.mnist import read_idx
from unnoise.errors import UserError

real = pytest.mark.skipif(not os.environ.get("UNNOISE_DATA"), reason="UNNOISE_DATA names no folder of data")

TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def idx(array: np.ndarray, code: int) -> bytes:
    head = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(TYPES[code]).tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """MNIST's four files in small: 7 and 3 pictures of noise, half of them compressed."""
    generator = np.random.default_rng(0)
    for name, n in (("train", 7), ("t10k", 3)):
        pictures = idx(generator.integers(0, 256, (n, 28, 28)), 8)
        (tmp_path / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(pictures))
        (tmp_path / f"{name}-labels-idx1-ubyte").write_bytes(idx(np.arange(n), 8))
    return tmp_path


@real
@pytest.mark.parametrize(
    ("name", "md5"),
    [
        ("train-images-idx3-ubyte", "6bbc9ace898e44ae57da46a324031adb"),
        ("train-labels-idx1-ubyte", "a25bea736e30d166cdddb491f175f624"),
        ("t10k-images-idx3-ubyte", "2646ac647ad5339dbf082846283269ea"),
        ("t10k-labels-idx1-ubyte", "27ae3e4e09519cfbb04c329615203637"),
    ],
)
def test_what_is_read_makes_the_published_file_again(name: str, md5: str) -> None:
    array = read_idx(Path(os.environ["UNNOISE_DATA"], "mnist", f"{name}.gz")).numpy()
    assert hashlib.md5(idx(array, 8)).hexdigest() == md5


@real
def test_mnist_is_what_it_is_said_to_be() -> None:
    data = Mnist().load()
    x, held_out = data.train["x"], data.held_out["x"]
    assert x.shape == (60_000, 1, 28, 28) and held_out.shape == (10_000, 1, 28, 28) and x.dtype == torch.uint8
    assert int(x.sum()) == 1_567_298_545 and int(held_out.sum()) == 264_923_200
    assert data.train["label"].bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert data.held_out["label"].bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    seen = {row.tobytes() for row in x.numpy()}
    assert not any(row.tobytes() in seen for row in held_out.numpy())
    assert "CC BY-SA 3.0" in data.about


@real
def test_limit_takes_the_first() -> None:
    data = Mnist(limit=5).load()
    assert data.train["label"].tolist() == [5, 0, 4, 1, 9] and len(data.held_out["x"]) == 10_000


def test_sizes(folder: Path) -> None:
    x28, x32, x16 = (Mnist(size=s, path=str(folder)).load().train["x"] for s in (28, 32, 16))
    assert torch.equal(x32[:, :, 2:30, 2:30], x28)
    assert int(x32.long().sum()) == int(x28.long().sum())
    means = x32.numpy().reshape(7, 1, 16, 2, 16, 2).mean((3, 5))
    assert x16.shape == (7, 1, 16, 16) and np.array_equal(x16.numpy(), np.round(means).astype(np.uint8))


def test_low_is_the_small_picture_of_the_same_item(folder: Path) -> None:
    data = Mnist(size=32, low=True, path=str(folder)).load()
    small = Mnist(size=16, path=str(folder)).load()
    for part, other in ((data.train, small.train), (data.held_out, small.held_out)):
        assert torch.equal(part["low"], other["x"]) and part["x"].shape[-1] == 32


def test_a_share_holds_out_training_pictures_only(folder: Path) -> None:
    data = Mnist(held_out=3 / 7, path=str(folder)).load()
    assert len(data) == 4
    assert sorted(data.train["label"].tolist() + data.held_out["label"].tolist()) == list(range(7))


@pytest.mark.parametrize("code", TYPES)
@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4), (1, 2, 1, 2, 1, 2), (0, 3)])
def test_types_and_ranks(tmp_path: Path, code: int, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(1).integers(0, 100, shape).astype(TYPES[code])
    for content in (idx(array, code), gzip.compress(idx(array, code))):
        (tmp_path / "a").write_bytes(content)
        found = read_idx(tmp_path / "a").numpy()
        assert found.dtype == array.dtype.newbyteorder("=") and np.array_equal(found, array)


GOOD = idx(np.arange(6).reshape(2, 3), 8)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a", b"", "is empty"),
        ("a", GOOD[:3], "not an IDX file"),
        ("a", b"\x89PNG\r\n", "not an IDX file: it begins with 89 50 4e 47"),
        ("a", b"\0\0\x07\x01\0\0\0\0", "not an IDX file"),
        ("a", GOOD[:9], "cut short: its head needs 12 bytes, there are 9"),
        ("a", GOOD[:-1], r"cut short: shape \[2, 3\] needs 6 bytes, there are 5"),
        ("a", GOOD + b"\0", "1 bytes more"),
        ("a", b"\0\0\x08\x04" + b"\xff" * 16, "cut short"),
        ("a.gz", GOOD, "is not a gz file"),
        ("a.gz", gzip.compress(GOOD)[:-4], "damaged or cut short"),
        ("a.gz", gzip.compress(GOOD)[:10] + b"\xff" * 20, "damaged or cut short"),
    ],
    ids=lambda v: v if isinstance(v, str) else "bytes",  # a gz file holds the time
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as e:
        read_idx(tmp_path / name)
    assert str(tmp_path / name) in str(e.value)


def test_what_is_missing_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("UNNOISE_DATA", raising=False)
    monkeypatch.setenv("UNNOISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(mnist, "REMOTES", (Remote(("http://127.0.0.1:9/train-images-idx3-ubyte.gz",), "0" * 64, 1),))
    wanted = tmp_path / "cache" / "mnist" / "train-images-idx3-ubyte.gz"
    for data in (None, str(tmp_path)):
        if data:
            monkeypatch.setenv("UNNOISE_DATA", data)
        with pytest.raises(UserError, match=rf"127.0.0.1:9/train-images.* cannot be reached: .* save it as {wanted}"):
            Mnist().load()
    with pytest.raises(UserError, match=r"no such file: .*train-images-idx3-ubyte.gz"):
        Mnist(path=str(tmp_path)).load()


def test_what_lies_in_the_cache_is_taken(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("UNNOISE_DATA", raising=False)
    monkeypatch.setenv("UNNOISE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "mnist").mkdir(parents=True)
    for remote in mnist.REMOTES:
        plain = folder / remote.name.removesuffix(".gz")
        content = gzip.compress(plain.read_bytes()) if plain.exists() else (folder / remote.name).read_bytes()
        (tmp_path / "cache" / "mnist" / remote.name).write_bytes(content)
    assert torch.equal(Mnist().load().train["x"], Mnist(path=str(folder)).load().train["x"])


def test_files_that_do_not_belong_together(folder: Path) -> None:
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(np.arange(6), 8))
    with pytest.raises(UserError, match=r"train files in .*uint8 of shape \[6\], not uint8 of \[7\]"):
        Mnist(path=str(folder)).load()


def test_choices_are_checked(unchecked: None) -> None:
    with pytest.raises(UserError, match="16, 28 or 32, got size=64"):
        Mnist(size=64)
    with pytest.raises(UserError, match="set size=32, got size=28"):
        Mnist(low=True)
    with pytest.raises(UserError, match="got 0"):
        Mnist(limit=0)
    with pytest.raises(UserError, match="'train'"):
        Mnist(held_out="train")  # type: ignore[arg-type]
