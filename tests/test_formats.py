"""Files in the formats of their fields, through the command line: what is wrong is one line that says so."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from unnoise.cli import main
from unnoise.data import write_wav
from unnoise.data.fetch import Remote


def _xyz(text: str) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        (folder / "mine.xyz").write_text(text)
        return f"data=Molecules(path={folder}/mine.xyz)"

    return make


def _text(content: bytes) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        (folder / "mine.txt").write_bytes(content)
        return f"data.path={folder}/mine.txt"

    return make


def _cut_wav(folder: Path) -> str:
    (folder / "a").mkdir()
    for i in range(3):
        write_wav(torch.full((1, 4000), 0.1), folder / "a" / f"{i}.wav", 8000)
    whole = (folder / "a" / "1.wav").read_bytes()
    (folder / "a" / "1.wav").write_bytes(whole[:3000])
    return f"data=Recordings(path={folder},length=4096,rate=8000)"


def _other_rate(folder: Path) -> str:
    write_wav(torch.full((1, 4000), 0.1), folder / "0.wav", 44100)
    return f"data=Recordings(path={folder},length=4096,rate=8000)"


def _nan_points(folder: Path) -> str:
    np.save(folder / "mine.npy", np.full((20, 300, 3), np.nan, np.float32))
    return f"data.path={folder}/mine.npy"


def _short_idx(folder: Path) -> str:
    (folder / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + b"\0\0\0\x02" * 3 + b"\0" * 5)
    return f"data.path={folder}"


@pytest.mark.parametrize(
    ("recipe", "make", "words"),
    [
        ("shakespeare", _text(b"ab\xff\xfe" * 100), ["mine.txt", "UTF-8", "offset 2"]),
        ("shakespeare", _text(b""), ["mine.txt", "empty"]),
        ("shakespeare", _text("Привет, мир! ".encode() * 200), ["'П'", "codec.alphabet"]),
        ("qm7", _xyz("2\n\nC 0 0 0\nXx 0 0 1\n"), ["mine.xyz", "line 4", "'Xx'"]),
        ("qm7", _xyz("1\n\nC 0 nan 0\n"), ["mine.xyz", "line 3", "finite"]),
        ("qm7", _xyz(""), ["mine.xyz", "empty"]),
        ("qm7", _xyz("3\n\nC 0 0 0\n"), ["mine.xyz", "3"]),
        ("spoken_digits", _cut_wav, ["1.wav", "cut short"]),
        ("spoken_digits", _other_rate, ["0.wav", "44100", "8000"]),
        ("airplane", _nan_points, ["mine.npy", "NaN"]),
        ("mnist16", _short_idx, ["train-images-idx3-ubyte", "5"]),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_bad_file_is_one_line_that_names_it(
    recipe: str, make: Callable[[Path], str], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    run = tmp_path / "run"
    code = main(["train", recipe, "-s", make(tmp_path / "data"), "--out", str(run), "--device", "cpu"])
    err = capsys.readouterr().err
    assert code == 2 and err.count("\n") == 1 and err.startswith("unnoise: "), err
    assert all(word in err for word in words), err
    assert not run.exists()


@pytest.mark.parametrize("recipe", ["shakespeare", "qm7", "airplane", "spoken_digits"])
def test_without_data_the_remedy_is_named(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("UNNOISE_DATA", raising=False)
    assert main(["train", recipe, "--out", str(tmp_path / "run")]) == 2
    assert "UNNOISE_DATA" in capsys.readouterr().err


def test_without_data_or_network_the_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """MNIST is downloaded where it is not at hand; where that fails, what is to be put where is said."""
    name = "train-images-idx3-ubyte.gz"
    monkeypatch.delenv("UNNOISE_DATA", raising=False)
    monkeypatch.setenv("UNNOISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("unnoise.data.mnist.REMOTES", [Remote((f"http://127.0.0.1:9/{name}",), "0" * 64, 1000)])
    assert main(["train", "mnist16", "--out", str(tmp_path / "run")]) == 2
    begun, said = capsys.readouterr().err.splitlines()
    assert begun.startswith(f"{name}: 0.0 MB from http://127.0.0.1:9/{name}: MNIST handwritten digits, ")
    assert said.startswith(f"unnoise: http://127.0.0.1:9/{name} cannot be reached: ")
    assert said.endswith(f"fetch it by hand and save it as {tmp_path}/cache/mnist/{name}")
    assert not (tmp_path / "run").exists()
