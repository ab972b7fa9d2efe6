"""Waves by their spectra: magnitudes there and back, spoken digits through the commands."""

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from torch import Tensor

from unnoise.cli import main
from unnoise.data import SpokenDigits, read_wav
from unnoise.errors import UserError
from unnoise.modality import Spectra
from unnoise.spec import build, describe

real = pytest.mark.skipif(not os.environ.get("UNNOISE_DATA"), reason="UNNOISE_DATA names no folder of data")
TINY = ("model.net.width=8", "model.net.head_width=8", "sampling.steps=2", "codec.rounds=1")
TINY += ("judge.samples=256", "judge.width=8", "judge.codec.rounds=1")
TINY += ("data.length=1024", "codec.length=1024", "judge.codec.length=1024")
SMALL = Spectra(length=480, rate=8000, window=96, hop=24)


def tones(*hertz: float, length: int = 480, loud: float = 1.0) -> Tensor:
    t = torch.arange(float(length)) / 8000
    return torch.stack([loud * torch.cos(2 * math.pi * f * t) for f in hertz])[:, None]


def test_a_tone_has_half_its_size_in_its_bin() -> None:
    """A cosine at the centre of bin k: 1/2 there, 1/4 in both neighbours (the Hann window), the floor elsewhere."""
    k = 12  # 1000 Hz
    state = SMALL.encode(tones(8000 * k / 96))
    assert state.shape == SMALL.blank(1).shape == (1, 48, 21)
    middle = state[0, :, 10].exp() - SMALL.floor
    expected = torch.zeros(48)
    expected[k - 2 : k + 1] = torch.tensor([0.25, 0.5, 0.25])  # the first state is bin 1
    torch.testing.assert_close(middle, expected, rtol=1e-4, atol=1e-5)
    scaled = replace(SMALL, mean=-3.0, std=2.0)
    torch.testing.assert_close(scaled.encode(tones(700.0)), (SMALL.encode(tones(700.0)) + 3) / 2)


@real
def test_decoding_finds_a_sound_of_such_spectra() -> None:
    """To a twentieth of the spread, where random phases are far off; silence stays silence."""
    codec, x = Spectra(length=4096, rate=8000), SpokenDigits().load().held_out["x"][::20]
    state = codec.encode(x)
    rough, fine = (replace(codec, rounds=n).decode(state) for n in (1, 32))
    errors = [float((codec.encode(y) - state).square().mean().sqrt()) for y in (rough, fine)]
    assert errors[1] < 0.12 * float(state.std()) and errors[1] < errors[0] / 2
    assert float(codec.decode(codec.encode(torch.zeros(1, 1, 4096))).abs().max()) < 1e-3


def test_a_sound_does_not_depend_on_its_batch() -> None:
    state = SMALL.encode(tones(300.0, 1000.0, 2500.0))
    torch.testing.assert_close(SMALL.decode(state)[1:2], SMALL.decode(state[1:2]), rtol=0, atol=1e-4)


def test_decoding_clamps_and_refuses_what_is_not_finite() -> None:
    loud = SMALL.decode(torch.full((1, 48, 21), 50.0))
    assert float(loud.abs().max()) <= 1
    with pytest.raises(FloatingPointError, match="not finite"):
        SMALL.decode(torch.full((1, 48, 21), math.nan))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (tones(*[500.0] * 20, length=479), r"\(1, 479\), the codec expects floats \(1, 480\): set codec.length and"),
        (torch.zeros(20, 1, 480, dtype=torch.int16), "int16"),
        (tones(*[500.0] * 20) * 32768, "reach 32768, sound lies in .-1, 1.: divide 16-bit integers by 32768"),
        (tones(*[500.0] * 20), r"a mean of -6.* set codec\.mean=-6.* and codec\.std=1"),
        (torch.zeros(20, 1, 480), "are silent"),
    ],
)
def test_what_is_no_sound_is_refused(raw: Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        SMALL.check(raw)


@pytest.mark.parametrize("wrong", [{"length": 481}, {"rate": 0}, {"rounds": 0}, {"window": 95}, {"window": 40},
                                   {"window": 482}, {"floor": 0.0}, {"std": 0.0}, {"mean": math.inf}])  # fmt: skip
def test_arguments_that_do_not_fit(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(wrong)))):
        replace(SMALL, **wrong)


@real
def test_the_recipe_knows_the_statistics_of_its_data() -> None:
    from unnoise import recipes

    recipe = recipes.load("spoken_digits")[0]
    for part in (recipe.codec, recipe.judge):
        assert build(describe(part)) == part
    x = recipe.codec.encode(recipe.data.load().train["x"])
    assert float(x.std()) == pytest.approx(1, abs=0.02) and float(x.mean()) == pytest.approx(0, abs=0.02)


@real
def test_the_recipe_from_end_to_end(tmp_path: Path, capsys: Any) -> None:
    """Train, sample into wav files, an archive and a picture, evaluate, all by command."""
    pytest.importorskip("soundfile")
    run, settings = tmp_path / "run", [f for a in TINY for f in ("-s", a)]
    assert main(["train", "spoken_digits", "--out", str(run), "--samples", "320", *settings]) == 0
    ask = ["sample", str(run), "-n", "3", "--cond", "label=7,1"]
    assert main(ask) == 0
    files = sorted((run / "out").glob("*.wav"))
    assert [f.name for f in files] == [f"seed{i:06d}-label{d}.wav" for i, d in ((0, 7), (1, 1), (2, 7))]
    for suffix in (".npz", ".png"):
        assert main([*ask, "--out", str(tmp_path / f"x{suffix}")]) == 0
    x = torch.from_numpy(np.load(tmp_path / "x.npz")["x"])
    heard = torch.stack([read_wav(f, 8000) for f in files])
    assert x.shape == (3, 1, 1024) and float((heard - x).abs().max()) <= 2**-15
    assert np.asarray(Pillow.open(tmp_path / "x.png")).min() == 0
    assert main(["evaluate", str(run), "-n", "1500"]) == 0
    assert "read as asked" in capsys.readouterr().out and (run / "evaluation.json").is_file()
    assert main(["evaluate", str(run), "-n", "59"]) == 2
    assert "59 samples: to compare distributions takes at least 60" in capsys.readouterr().err
    assert main(["sample", str(run), "--cond", "label=10", "--out", str(tmp_path / "y")]) == 2
    assert "label=10 is out of range" in capsys.readouterr().err
    assert main(["train", "spoken_digits", "--out", str(tmp_path / "b"), "-s", "data.length=4000"]) == 2
    assert "set codec.length and data.length to the same number" in capsys.readouterr().err
