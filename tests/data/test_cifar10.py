"""CIFAR-10 in its strips and in its published binary files."""

import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from unnoise.data import Cifar10, cifar10
from unnoise.data.dataset import Source
from unnoise.errors import UserError

real = pytest.mark.skipif(not os.environ.get("UNNOISE_DATA"), reason="UNNOISE_DATA names no folder of data")

FILES = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]


def records(count: int, seed: int) -> np.ndarray:
    """Records of a binary file: a label and 3,072 bytes each."""
    generator = np.random.default_rng(seed)
    return np.concatenate([generator.integers(0, 10, (count, 1)), generator.integers(0, 256, (count, 3072))], 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The six published files in small: three records each."""
    for i, name in enumerate(FILES):
        (tmp_path / name).write_bytes(records(3, i).astype(np.uint8).tobytes())
    return tmp_path


@real
def test_cifar10_is_what_it_is_said_to_be() -> None:
    data = Cifar10().load()
    x, held_out = data.train["x"], data.held_out["x"]
    assert x.shape == (50_000, 3, 32, 32) and held_out.shape == (10_000, 3, 32, 32) and x.dtype == torch.uint8
    for part, count in ((data.train, 5000), (data.held_out, 1000)):
        assert set(part) == {"x", "label"} and part["label"].bincount().tolist() == [count] * 10
    assert data.train["label"][:8].tolist() == [6, 9, 9, 4, 1, 1, 2, 7]  # of data_batch_1
    assert "".join(Cifar10.names[i][0] for i in data.held_out["label"][:4]) == "cssa" and "2009" in data.about
    # The figures that everyone normalises with.
    means, squares = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for few in x.split(5000):
        values = few.double() / 255
        means, squares = means + values.sum((0, 2, 3)), squares + values.square().sum((0, 2, 3))
    mean, n = means / (len(x) * 1024), len(x) * 1024
    assert torch.allclose(mean, torch.tensor([0.4914, 0.4822, 0.4465], dtype=torch.float64), atol=5e-5)
    std = (squares / n - mean.square()).sqrt()
    assert torch.allclose(std, torch.tensor([0.2470, 0.2435, 0.2616], dtype=torch.float64), atol=5e-5)


@real
def test_the_jpeg_copies_can_be_left_out() -> None:
    """And strips and binary files of the same pictures are the same data."""
    data = Cifar10(exact=True).load()
    assert len(data) == 49_927 and len(data.held_out["x"]) == 9_980
    assert set((5000 - data.train["label"].bincount()).nonzero()[:, 0].tolist()) == {7, 8}  # horses and ships


def test_binary_files_are_read_plane_after_plane(folder: Path) -> None:
    data = Cifar10(path=str(folder)).load()
    raw = np.concatenate([records(3, i) for i in range(5)])
    assert data.train["label"].tolist() == raw[:, 0].tolist()
    for item, channel, row, column in ((0, 0, 0, 0), (4, 1, 2, 31), (14, 2, 31, 5)):
        assert int(data.train["x"][item, channel, row, column]) == raw[item, 1 + 1024 * channel + 32 * row + column]
    test = records(3, 5)
    assert np.array_equal(data.held_out["x"].numpy().reshape(3, -1), test[:, 1:])
    assert data.train["x"].is_contiguous() and isinstance(Cifar10(), Source)


def test_every_published_form_is_the_same_data(folder: Path, tmp_path: Path) -> None:
    plain = Cifar10(path=str(folder)).load()
    archive = tmp_path / "elsewhere" / "cifar-10-binary.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        for name in FILES:
            tar.add(folder / name, f"cifar-10-batches-bin/{name}")
    unpacked = tmp_path / "unpacked"
    (unpacked / "cifar-10-batches-bin").mkdir(parents=True)
    for name in FILES:
        (folder / name).rename(unpacked / "cifar-10-batches-bin" / name)
    for path in (archive, archive.parent, unpacked):
        data = Cifar10(path=str(path)).load()
        for part in ("train", "held_out"):
            for k in ("x", "label"):
                assert torch.equal(getattr(data, part)[k], getattr(plain, part)[k])


def test_a_share_holds_out_training_pictures_only(folder: Path) -> None:
    whole, data = (Cifar10(path=str(folder), held_out=h).load() for h in ("test", 0.2))
    rows = {row.tobytes() for row in whole.train["x"].numpy()}
    parts = [{row.tobytes() for row in part["x"].numpy()} for part in (data.train, data.held_out)]
    assert parts[0] | parts[1] == rows and not parts[0] & parts[1] and len(parts[1]) == 3
    few = Cifar10(path=str(folder), limit=4).load()
    assert len(few) == 4 and torch.equal(few.held_out["x"], whole.held_out["x"])


def test_bad_files_are_named(folder: Path) -> None:
    def message() -> str:
        with pytest.raises(UserError) as e:
            Cifar10(path=str(folder)).load()
        assert str(folder) in str(e.value) and "\n" not in str(e.value)
        return str(e.value)

    whole = (folder / FILES[2]).read_bytes()
    (folder / FILES[2]).write_bytes(whole[:-1])
    assert "data_batch_3.bin" in message() and "cut short: 9218 bytes" in message()
    (folder / FILES[2]).write_bytes(b"")
    assert "is empty" in message()
    (folder / FILES[2]).write_bytes(bytes([10]) + whole[1:])
    assert "not of CIFAR-10: a label is 10" in message()
    (folder / FILES[2]).unlink()
    assert "has no data_batch_3.bin: fetch the binary version" in message()
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    assert "is not CIFAR-10: it holds neither data_batch_1.bin, nor cifar-10-binary.tar.gz" in message()
    (folder / "cifar-10-batches-py").mkdir()
    (folder / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"")
    assert "pickled: fetch the binary version" in message()
    (folder / "cifar-10-binary.tar.gz").write_bytes(b"hello")
    assert "cifar-10-binary.tar.gz is not a readable tar" in message()


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file: .*nowhere"):
        Cifar10(path=str(tmp_path / "nowhere")).load()


def test_choices_are_checked(unchecked: None) -> None:
    with pytest.raises(UserError, match="'train'"):
        Cifar10(held_out="train")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="got 0"):
        Cifar10(limit=0)


def test_the_published_file_is_stated() -> None:
    (remote,) = cifar10.REMOTES
    assert remote.name == "cifar-10-binary.tar.gz" and remote.size == 170_052_171
