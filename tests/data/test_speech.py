"""Speech: the digits' own numbers, clips of one length, wav files there and back, and every kind of bad one."""

import io
import os
import struct
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from unnoise.data import Recordings, SpokenDigits, read_wav, write_wav
from unnoise.data.speech import fitted
from unnoise.errors import UserError

real = pytest.mark.skipif(not os.environ.get("UNNOISE_DATA"), reason="UNNOISE_DATA names no folder of data")

TONE = (torch.arange(-500, 500).reshape(2, 500) * 64).float() / 32768  # multiples of 2^-15: exact in 16 bits


@real
def test_spoken_digits_are_what_they_are_said_to_be() -> None:
    data = SpokenDigits().load()
    assert len(data) == 2700 and len(data.held_out["x"]) == 300 and "CC BY-SA 4.0" in data.about
    assert data.train["x"].shape == (2700, 1, 4096) and data.train["x"].dtype == torch.float32
    for part, each in ((data.train, 45), (data.held_out, 5)):
        pairs = part["speaker"] * 10 + part["label"]
        assert pairs.bincount().tolist() == [each] * 60
        assert float(part["x"].min()) >= -1 and float(part["x"].max()) < 1
        assert float(part["x"].abs().amax((1, 2)).min()) > 0  # none is silent
    seen = {row.numpy().tobytes() for row in data.train["x"]}
    assert not any(row.numpy().tobytes() in seen for row in data.held_out["x"])


@real
def test_a_long_clip_holds_every_sample() -> None:
    file = np.load(Path(os.environ["UNNOISE_DATA"], "fsdd", "fsdd.npz"))
    data = SpokenDigits(length=18_262).load()  # the longest
    whole = [(p["x"] * 32768).round().long().sum().item() for p in (data.train, data.held_out)]
    assert sum(whole) == int(file["audio"].astype(np.int64).sum()) and len(file["audio"]) == 10_498_424
    first = file["audio"][: file["offset"][1]]
    x = data.held_out["x"][0, 0] * 32768
    assert np.array_equal(x[: len(first)].numpy(), first) and float(x[len(first) :].abs().sum()) == 0
    assert data.held_out["label"][0] == data.held_out["speaker"][0] == 0


def test_the_loudest_part_by_trying_all() -> None:
    x = torch.randn(2, 60, generator=torch.Generator().manual_seed(0))
    energies = [x[:, i : i + 13].double().square().sum().item() for i in range(48)]
    best = int(np.argmax(energies))
    assert torch.equal(fitted(x, 13), x[:, best : best + 13])


def test_clips_of_one_length() -> None:
    x = torch.tensor([[0.0, 1, 0, 0, -1, 0]])
    assert fitted(x, 6).tolist() == x.tolist()
    assert fitted(x, 8).tolist() == [[0, 1, 0, 0, -1, 0, 0, 0]]
    assert fitted(x, 2).tolist() == [[0, 1]]  # the first of equals
    assert fitted(x, 4).tolist() == [[1, 0, 0, -1]]


def test_there_and_back(tmp_path: Path) -> None:
    write_wav(TONE, tmp_path / "a.wav", 16_000)
    assert torch.equal(read_wav(tmp_path / "a.wav", 16_000), TONE)
    noise = torch.rand(1, 4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    write_wav(noise, tmp_path / "b.wav", 8000)
    assert float((read_wav(tmp_path / "b.wav") - noise).abs().max()) <= 2**-15
    write_wav(torch.tensor([[-7.0, -1, 1, 7]]), tmp_path / "c.wav", 8000)
    assert read_wav(tmp_path / "c.wav").tolist() == [[-1, -1, 1 - 2**-15, 1 - 2**-15]]


def test_the_standard_library_reads_the_same(tmp_path: Path) -> None:
    write_wav(TONE, tmp_path / "a.wav", 11_025)
    with wave.open(str(tmp_path / "a.wav")) as w:
        assert (w.getnchannels(), w.getframerate(), w.getsampwidth(), w.getnframes()) == (2, 11_025, 2, 500)
        pcm = np.frombuffer(w.readframes(500), "<i2").reshape(500, 2).T
    assert np.array_equal(pcm, (TONE * 32768).numpy())


@pytest.mark.parametrize("kind", [("WAV", "PCM_24"), ("WAV", "FLOAT"), ("WAVEX", "PCM_16"), ("RF64", "PCM_16")])
@pytest.mark.parametrize("endian", ["FILE", "BIG"])
def test_other_kinds_of_wav(tmp_path: Path, kind: tuple[str, str], endian: str) -> None:
    import soundfile

    if endian == "BIG" and kind[0] != "WAV":
        endian = "FILE"
    path = tmp_path / "a.wav"
    soundfile.write(path, TONE.T.numpy(), 8000, format=kind[0], subtype=kind[1], endian=endian)
    assert torch.allclose(read_wav(path, 8000), TONE, atol=2**-15)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match="cut short"):
        read_wav(path)


def wav(samples: int = 100, rate: int = 8000) -> bytes:
    memory = io.BytesIO()
    with wave.open(memory, "wb") as w:
        w.setnchannels(1)
        w.setsampwidth(2)
        w.setframerate(rate)
        w.writeframes(bytes(range(2 * samples)) if samples <= 128 else bytes(2 * samples))
    return memory.getvalue()


GOOD = wav()
FLOAT = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 44, b"WAVE", b"fmt ", 16, 3, 1, 8000, 32000, 4, 32, b"data", 8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"no sound at all", "is not a wav file: it begins with b'no s'"),
        (b"RIFF\x04\0\0\0AVI ", "is not a wav file"),
        (b"RIFF", "is not a wav file"),
        (GOOD[:12], "ends before its sound begins"),
        (GOOD[:30], "ends before its sound begins"),
        (GOOD[:44], "cut short: 200 bytes of sound stated, 0 there"),
        (GOOD[:-1], "cut short: 200 bytes of sound stated, 199 there"),
        (wav(0), "holds no samples"),
        (GOOD[:20] + b"\x77\x77" + GOOD[22:], "not a readable wav file"),  # an unknown encoding
        (FLOAT + struct.pack("<2f", 0.5, float("nan")), "holds NaN"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(UserError, match=message) as e:
        Recordings(str(tmp_path), 10, 8000).load()
    assert str(tmp_path / "a.wav") in str(e.value)


def test_libsndfile_would_not_tell(tmp_path: Path) -> None:
    """Why the sizes are compared: the library reads what is there of a file that was cut short."""
    import soundfile

    (tmp_path / "a.wav").write_bytes(GOOD[:-60])
    assert len(soundfile.read(tmp_path / "a.wav")[0]) == 70


def test_another_rate_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav(rate=44_100))
    with pytest.raises(UserError, match="44100 samples a second, not 8000: set rate=44100, or resample"):
        read_wav(tmp_path / "a.wav", 8000)
    assert read_wav(tmp_path / "a.wav").shape == (1, 100)


def test_recordings_in_class_folders(tmp_path: Path) -> None:
    for i, name in enumerate(("no", "yes", "yes")):
        (tmp_path / name).mkdir(exist_ok=True)
        write_wav(torch.full((1, 6), (i + 1) / 8), tmp_path / name / f"{i}.WAV", 8000)
    (tmp_path / "notes").mkdir()  # without sound: no class
    data = Recordings(str(tmp_path), 8, 8000, held_out=0.0).load()
    assert data.train["label"].tolist() == [0, 1, 1] and "0 no, 1 yes" in data.about
    assert data.train["x"][:, 0, 0].tolist() == [0.125, 0.25, 0.375]
    assert float(data.train["x"][..., 6:].abs().sum()) == 0
    write_wav(TONE, tmp_path / "stray.wav", 8000)
    with pytest.raises(UserError, match="beside folders"):
        Recordings(str(tmp_path), 8, 8000).load()


def test_recordings_in_one_folder(tmp_path: Path) -> None:
    for i in range(10):
        write_wav(torch.full((2, 4), i / 16), tmp_path / f"{i}.wav", 8000)
    data = Recordings(str(tmp_path), 4, 8000, held_out=0.3).load()
    assert set(data.train) == {"x"} and len(data) == 7
    found = torch.cat([data.train["x"], data.held_out["x"]])[:, 0, 0] * 16
    assert sorted(found.tolist()) == list(range(10))
    write_wav(TONE[:1], tmp_path / "mono.wav", 8000)
    with pytest.raises(UserError, match=r"mono\.wav has 1 channels, .*0\.wav has 2"):
        Recordings(str(tmp_path), 4, 8000).load()


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file: .*a\.wav"):
        read_wav(tmp_path / "a.wav")
    with pytest.raises(UserError, match=r"no \.wav files in"):
        Recordings(str(tmp_path), 4, 8000).load()
    with pytest.raises(UserError, match="no such folder"):
        Recordings(str(tmp_path / "b"), 4, 8000).load()
    monkeypatch.delenv("UNNOISE_DATA", raising=False)
    with pytest.raises(UserError, match=r"fsdd/fsdd.npz .* UNNOISE_DATA"):
        SpokenDigits().load()
    monkeypatch.setitem(sys.modules, "soundfile", None)  # as if not installed
    for use in (lambda: read_wav(tmp_path / "a.wav"), lambda: write_wav(TONE, tmp_path / "a.wav", 8000)):
        with pytest.raises(UserError, match=r"unnoise\[audio\]"):
            use()


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="NaN"):
        write_wav(torch.tensor([[float("nan")]]), tmp_path / "a.wav", 8000)
    for make in (lambda: SpokenDigits(length=0), lambda: Recordings(str(tmp_path), 0, 8000)):
        with pytest.raises(UserError, match="got 0"):
            make()
    arrays = {k: np.zeros(2, np.uint8) for k in ("digit", "speaker", "take")} | {"audio": np.zeros(9, np.int16)}
    np.savez(tmp_path / "f.npz", offset=np.array([0, 4, 10]), **arrays)
    with pytest.raises(UserError, match="contradicts itself"):
        SpokenDigits(path=str(tmp_path / "f.npz")).load()
