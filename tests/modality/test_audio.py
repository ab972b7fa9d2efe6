"""Waves: the transform inverts and keeps energy, wav files there and back, tones in pictures."""

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unnoise.core.denoiser import Preconditioned
from unnoise.core.parameterization import Edm
from unnoise.core.rng import Rng
from unnoise.data import SpokenDigits, read_wav
from unnoise.errors import UserError
from unnoise.modality import Waves
from unnoise.model import Model
from unnoise.nets import UNet

real = pytest.mark.skipif(not os.environ.get("UNNOISE_DATA"), reason="UNNOISE_DATA names no folder of data")
PLAIN = Waves(length=96, rate=8000, bands=8, power=1.0)


def sound(n: int, length: int = 96, channels: int = 1) -> Tensor:
    return Rng.of(range(n)).uniform(torch.zeros(n, channels, length)) * 2 - 1


# The transform --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bands", [1, 2, 8, 32, 96])
def test_decoding_inverts_encoding(bands: int) -> None:
    x = sound(3)
    for power in (1.0, 0.5, 0.4):
        codec = replace(PLAIN, bands=bands, power=power, scales=(0.5, 2.0, 0.1))
        state = codec.encode(x)
        assert state.shape[1:] == (bands, 96 // bands + 1) == codec.blank(1).shape[1:]
        torch.testing.assert_close(codec.decode(state), x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("bands", [1, 8, 32])
def test_the_transform_is_orthonormal(bands: int) -> None:
    """It keeps products of sounds, and with them the sum of squares of each."""
    codec, x = replace(PLAIN, bands=bands), sound(4)
    a = codec.encode(x).flatten(1).double()
    b = x.flatten(1).double()
    torch.testing.assert_close(a @ a.T, b @ b.T, rtol=1e-5, atol=1e-5)


def test_a_coefficient_by_its_definition() -> None:
    x, m = sound(1)[0, 0].double(), 8
    padded = torch.cat([torch.zeros(m), x, torch.zeros(m)]).tolist()
    state = PLAIN.encode(x[None, None].float())[0]
    for k, t in ((0, 0), (3, 5), (7, 12)):
        total = sum(
            math.sin(math.pi / (2 * m) * (n + 0.5))
            * padded[n + t * m]
            * math.cos(math.pi / m * (n + 0.5 + m / 2) * (k + 0.5))
            for n in range(2 * m)
        )
        assert float(state[k, t]) == pytest.approx(math.sqrt(2 / m) * total, abs=1e-6)


def test_a_tone_is_in_its_band() -> None:
    """Band k of M is about (k + 1/2) / M of half the rate."""
    codec = Waves(length=4096, rate=8000, bands=64, power=1.0)
    for hertz in (300, 1000, 3500):
        x = torch.sin(2 * math.pi * hertz / 8000 * torch.arange(4096.0))[None, None]
        energy = codec.encode(x)[0].square().sum(1)
        assert abs(int(energy.argmax()) + 0.5 - hertz / 4000 * 64) <= 1


def test_companding_is_the_power_of_each_coefficient() -> None:
    x = sound(2)
    c, state = PLAIN.encode(x), replace(PLAIN, power=0.5, scales=(4.0, 1.0)).encode(x)
    scale = 4.0 ** (1 - torch.arange(8) / 7)  # geometric, from 4 at the lowest band to 1 at the highest
    torch.testing.assert_close(state, c.sign() * c.abs().sqrt() / scale[:, None])
    for scales in ((3.0,), (3.0, 3.0)):
        torch.testing.assert_close(replace(PLAIN, scales=scales).encode(x), c / 3)


def test_channels_are_separate() -> None:
    codec, x = replace(PLAIN, channels=2, power=0.5), sound(2, channels=2)
    state = codec.encode(x)
    for i in range(2):
        assert torch.equal(state[:, 8 * i : 8 * i + 8], replace(PLAIN, power=0.5).encode(x[:, i : i + 1]))
    torch.testing.assert_close(codec.decode(state), x, rtol=0, atol=1e-5)


def test_measured_scales_bring_data_to_unit_size() -> None:
    x = torch.nn.functional.avg_pool1d(sound(40, 4096), 5, 1, 2)  # quieter at high frequencies
    codec = Waves(length=4096, rate=8000, power=0.4)
    scaled = replace(codec, scales=codec.measured(x))
    assert float(codec.encode(x).std()) < 0.9 and float(scaled.encode(x).std()) == pytest.approx(1, abs=0.1)
    assert len(codec.measured(x, knots=5)) == 5


# Out of range ---------------------------------------------------------------------------------------------------------


def test_decoding_clamps_and_refuses_what_is_not_finite() -> None:
    loud = PLAIN.decode(PLAIN.encode(sound(3)) * 5)
    assert float(loud.min()) == -1 and float(loud.max()) == 1
    bad = PLAIN.blank(1)
    bad[0, 3, 4] = float("nan")
    with pytest.raises(FloatingPointError, match="not finite"):
        PLAIN.decode(bad)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (sound(20, 95), r"of shape \(1, 95\), the codec expects floats \(1, 96\): set codec.length and data.length"),
        (sound(20, channels=2), r"\(2, 96\).*codec.channels"),
        (torch.zeros(20, 1, 96, dtype=torch.int16), "int16"),
        (sound(20) * 32768, "reach 32737.8, sound lies in .-1, 1.: divide 16-bit integers by 32768"),
        (sound(20) * 0.001, "standard deviation of 0.000.*set codec.scales"),
        (torch.zeros(20, 1, 96), "are silent"),
    ],
)
def test_what_is_no_sound_is_refused(raw: Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        PLAIN.check(raw)


@pytest.mark.parametrize(
    "wrong", [{"length": 100}, {"bands": 0}, {"rate": 0}, {"power": 0.0}, {"power": 1.5}, {"scales": ()},
              {"scales": (1.0, 0.0)}, {"channels": 0}]
)  # fmt: skip
def test_arguments_that_do_not_fit(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(wrong)))):
        replace(PLAIN, **wrong)


# Files and pictures ---------------------------------------------------------------------------------------------------


def test_a_wav_file_is_within_rounding_to_16_bits(tmp_path: Path) -> None:
    pytest.importorskip("soundfile")
    x = sound(1, channels=2)[0]
    replace(PLAIN, channels=2).write(x, tmp_path / "a.wav")
    assert float((read_wav(tmp_path / "a.wav", 8000) - x).abs().max()) <= 2**-16
    assert [f.name for f in tmp_path.iterdir()] == ["a.wav"]


def test_a_spectrogram_shows_a_tone_where_it_is() -> None:
    codec = Waves(length=4096, rate=8000)
    x = torch.zeros(2, 1, 4096)
    x[1, 0, 2048:] = 0.01 * torch.sin(2 * math.pi * 1000 / 8000 * torch.arange(2048.0))
    sheet = np.asarray(codec.grid(x, columns=1))
    assert sheet.shape == (2 * 128 + 1, 65) and (sheet[128] == 160).all()
    silent, tone = sheet[:128], sheet[129:]
    assert (tone[:, :29] == 255).all() and int(tone[:, 45].argmin()) == 128 - 32  # 1000 of 4000 Hz, upwards
    assert tone.min() == 0 and len(np.unique(silent)) == 1


def test_known_samples_come_back_and_the_rest_is_drawn() -> None:
    """What a window sees in part is drawn; states whose windows are known are told to the sampler as they are."""
    codec = replace(PLAIN, power=0.5)
    torch.manual_seed(0)
    net = UNet(channels=8, dims=1, width=8, multipliers=(1,), blocks=1, attention=(), head_width=8)
    model = Model(Preconditioned(net, Edm(sigma_data=1.0), interval=(-15.0, 15.0)), codec)
    x, mask = sound(2), (torch.arange(96) < 48).expand(2, 1, 96)
    known = codec.known(mask)
    assert known[:, :, :6].all() and not known[:, :, 6:12].any()
    assert known[:, :, 12].logical_not().all() and codec.known(torch.ones_like(mask)).all()
    done = model.inpaint(x, mask, steps=3).raw
    assert torch.equal(done[mask], x[mask]) and float((done - x)[~mask].abs().min()) >= 0
    assert float((done - x)[~mask].abs().mean()) > 0.1


@real
def test_measured_scales_of_spoken_digits() -> None:
    x = SpokenDigits().load().train["x"]
    codec = Waves(length=4096, rate=8000, bands=128, power=0.4)
    codec = replace(codec, scales=codec.measured(x))
    codec.check(x)
    assert float(codec.encode(x).std()) == pytest.approx(1, abs=0.1)
    torch.testing.assert_close(codec.decode(codec.encode(x[:100])), x[:100], rtol=0, atol=1e-5)
