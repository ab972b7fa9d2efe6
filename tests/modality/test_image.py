"""The codec of pictures: exact inverses, ranges that are checked, grids to the pixel."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from unnoise.core.rng import Rng
from unnoise.errors import UserError
from unnoise.modality import Image


@pytest.mark.parametrize(("low", "high"), [(0, 16), (0, 255), (0, 1), (3, 250)])
def test_decoding_is_the_exact_inverse_for_every_value(low: int, high: int) -> None:
    codec = Image((1, 1, high - low + 1), low, high)
    raw = torch.arange(low, high + 1, dtype=torch.uint8).reshape(1, 1, 1, -1)
    x = codec.encode(raw)
    assert x.dtype == torch.float32 and float(x.min()) == -1 and float(x.max()) == 1
    assert torch.equal(codec.decode(x), raw)
    assert torch.equal(codec.decode(x + 0.49 * 2 / (high - low)), raw)  # up to half a step of noise
    assert codec.bins == high - low + 1


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 9), (2, 5, 3), (4, 7, 2)], ids=str)
def test_any_channels_and_sides(shape: tuple[int, int, int]) -> None:
    """Pitfalls 28 and 29: no literal 3, no square."""
    codec = Image(shape)
    raw = (Rng.of(range(2)).uniform(torch.zeros(2, *shape)) * 256).to(torch.uint8)
    codec.check(raw)
    assert torch.equal(codec.decode(codec.encode(raw)), raw)
    floats = Image(shape, -2.0, 3.0, "float32")
    x = Rng.of(range(2)).uniform(torch.zeros(2, *shape)) * 5 - 2
    torch.testing.assert_close(floats.decode(floats.encode(x)), x, rtol=0, atol=1e-6)
    assert floats.bins is None and floats.decode(x).dtype == torch.float32
    sheet = codec.grid(raw, columns=2, scale=1)
    assert sheet.size == (2 * shape[2] + 1, shape[1]) and sheet.mode == ("RGB" if shape[0] in (3, 4) else "L")


def test_16_bits_are_kept_to_the_bit(tmp_path: Path) -> None:
    """Pitfall 28: each of 65,536 values through states of float32 and back, and through a PNG file."""
    codec = Image((1, 256, 256), 0, 65535, "uint16")
    raw = torch.arange(65536, dtype=torch.int32).reshape(1, 1, 256, 256)
    codec.check(raw)
    x = codec.encode(raw)
    assert float(x.min()) == -1 and float(x.max()) == 1 and codec.bins == 65536 and codec.raw_dtype == torch.int32
    assert torch.equal(codec.decode(x), raw) and codec.decode(x).dtype == torch.int32
    assert codec.decode(torch.full((1, 1, 256, 256), 9.0)).unique().tolist() == [65535]
    codec.write(raw[0], tmp_path / "x.png")
    with Pillow.open(tmp_path / "x.png") as file:
        assert file.mode == "I;16" and np.array_equal(np.asarray(file), raw[0, 0].numpy())
    Image((1, 256, 256), 0, 4095, "uint16").write(raw[0] % 4096, tmp_path / "x.png")
    with Pillow.open(tmp_path / "x.png") as file:  # the numbers of a camera of 12 bits stay what they are
        assert np.array_equal(np.asarray(file), raw[0, 0].numpy() % 4096)
    assert codec.grid(raw, scale=1).mode == "L" and codec.pictures(raw).dtype == np.uint8
    with pytest.raises(UserError, match=r"data are torch.int64 .* expects torch.int32"):
        codec.check(raw.long())
    with pytest.raises(UserError, match=r"range from 0 to 4095 only, the codec expects 0 to 65535: set codec.low"):
        codec.check((raw % 4096).expand(16, -1, -1, -1))


def test_files_keep_the_channels_that_png_has(tmp_path: Path) -> None:
    """Pitfall 28: gray, gray with alpha, RGB, RGBA; of five channels the first; alpha is white to look at."""
    for channels, mode in ((1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA"), (5, "L")):
        raw = torch.arange(channels * 6, dtype=torch.uint8).reshape(channels, 2, 3) * 7
        Image((channels, 2, 3)).write(raw, tmp_path / "x.png")
        with Pillow.open(tmp_path / "x.png") as file:
            assert file.mode == mode
            kept = raw[:1] if channels == 5 else raw
            assert np.array_equal(np.asarray(file).reshape(2, 3, -1), kept.permute(1, 2, 0).numpy())
    clear = torch.tensor([10, 20, 30, 0], dtype=torch.uint8).reshape(1, 4, 1, 1)
    half = torch.tensor([0, 51], dtype=torch.uint8).reshape(1, 2, 1, 1)
    assert Image((4, 1, 1)).pictures(clear).tolist() == [[[[255, 255, 255]]]]
    assert Image((2, 1, 1)).pictures(half).tolist() == [[[[204]]]]


def test_an_unknown_dtype_is_refused(unchecked: None) -> None:
    with pytest.raises(ValueError, match="dtype is one of uint8, uint16, float32, got 'int8'"):
        Image((1, 2, 2), dtype="int8")  # type: ignore[arg-type]


def test_decoding_clamps_to_the_range() -> None:
    codec = Image((1, 1, 4), 0, 16)
    x = torch.tensor([-50.0, -1.01, 1.01, 50.0]).reshape(1, 1, 1, 4)
    assert codec.decode(x).flatten().tolist() == [0, 0, 16, 16]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_what_is_not_finite_never_becomes_a_black_picture(bad: float, dtype: str) -> None:
    """Pitfall 1: raised before anything is cast to uint8."""
    x = torch.zeros(2, 1, 2, 2)
    x[1, 0, 1, 0] = bad
    with pytest.raises(FloatingPointError, match="not finite"):
        Image((1, 2, 2), dtype=dtype).decode(x)  # type: ignore[arg-type]


def test_log_det_is_that_of_the_encoding() -> None:
    codec = Image((3, 2, 2), -1.0, 5.0, "float32")
    raw = torch.zeros(1, 3, 2, 2)
    slope = float((codec.encode(raw + 1) - codec.encode(raw))[0, 0, 0, 0])
    assert codec.log_det == pytest.approx(12 * math.log(slope))


@pytest.mark.parametrize(
    ("codec", "low", "high", "dtype", "message"),
    [
        (Image((1, 4, 4), 0, 16), 0, 255, torch.uint8, "range from 0 to 255, the codec expects 0 to 16"),
        (Image((1, 4, 4), 0, 255), 0, 16, torch.uint8, "range from 0 to 16 only, the codec expects 0 to 255"),
        (Image((1, 4, 4), 0, 255, "float32"), 0, 1, torch.float32, "range from 0 to 1 only.* data's own range"),
        (Image((1, 4, 4), 0, 255, "float32"), -1, 1, torch.float32, "range from -1 to 1.*normalised already"),
        (Image((1, 4, 4), 0, 1, "float32"), -1, 1, torch.float32, "range from -1 to 1.*normalised already"),
        (Image((1, 4, 4), 0, 1, "float32"), 0, 255, torch.float32, "range from 0 to 255"),
        (Image((1, 4, 4), 0, 255), 0, 1, torch.float32, "data are torch.float32 .* expects torch.uint8"),
        (Image((1, 4, 4), 0, 255), 0, 255, torch.int64, "data are torch.int64 .* save x as uint8 or float32"),
        (Image((1, 4, 5), 0, 255), 0, 255, torch.uint8, r"shape \(1, 4, 4\), the codec expects .* of \(1, 4, 5\)"),
        (Image((3, 4, 4), 0, 255), 0, 255, torch.uint8, "set codec.shape"),
    ],
    ids=str,
)
def test_data_of_another_range_are_refused(
    codec: Image, low: float, high: float, dtype: torch.dtype, message: str
) -> None:
    """Pitfall 30: nothing is normalised twice, and nothing not at all."""
    raw = torch.linspace(low, high, 16 * 20).reshape(20, 1, 4, 4).to(dtype)
    with pytest.raises(UserError, match=message):
        codec.check(raw)


def test_data_of_its_own_range_are_taken() -> None:
    Image((1, 4, 4), 0, 16).check(torch.arange(320).reshape(20, 1, 4, 4).remainder(17).to(torch.uint8))
    Image((1, 4, 4), 0, 255).check(torch.arange(320).reshape(20, 1, 4, 4).remainder(200).to(torch.uint8))
    Image((1, 4, 4), 0, 255).check(torch.full((20, 1, 4, 4), 7, dtype=torch.uint8))  # of one value: nothing to say
    Image((1, 2, 2), 0, 255).check(torch.ones(1, 1, 2, 2, dtype=torch.uint8))  # too few to judge by


def test_encoding_another_dtype_is_refused() -> None:
    with pytest.raises(UserError, match=r"expects torch.uint8 in \[0, 255\], got torch.float32"):
        Image((1, 2, 2)).encode(torch.zeros(1, 1, 2, 2))


def test_a_range_is_one() -> None:
    for low, high in ((1, 1), (2, 1), (math.nan, 1)):
        with pytest.raises(ValueError, match="low < high"):
            Image((1, 2, 2), low, high)


def test_a_grid_is_exact_to_the_pixel() -> None:
    """Five pictures of 2 x 3 in two columns, each pixel 2 x 2, a white line between, white where there is none."""
    codec = Image((1, 2, 3), 0, 5)
    raw = torch.arange(30).reshape(5, 1, 2, 3).remainder(6).to(torch.uint8)
    sheet = np.asarray(codec.grid(raw, columns=2, scale=2))
    expected = np.full((3 * 5 - 1, 2 * 7 - 1), 255)
    for i in range(5):
        for y in range(4):
            for x in range(6):
                expected[(i // 2) * 5 + y, (i % 2) * 7 + x] = 51 * int(raw[i, 0, y // 2, x // 2])
    assert np.array_equal(sheet, expected)


def test_colours_are_kept_in_grids_and_files(tmp_path: Path) -> None:
    codec = Image((3, 1, 2))
    raw = torch.tensor([[[[255, 0]], [[0, 128]], [[7, 9]]]], dtype=torch.uint8)
    codec.write(raw[0], tmp_path / "x.png")
    pixels = [[[255, 0, 7], [0, 128, 9]]]
    assert np.asarray(Pillow.open(tmp_path / "x.png")).tolist() == pixels
    assert np.asarray(codec.grid(raw, scale=1)).tolist() == pixels
    assert [f.name for f in tmp_path.iterdir()] == ["x.png"]


def test_small_pictures_are_brought_to_a_size_that_can_be_seen() -> None:
    assert Image((1, 8, 8), 0, 16).grid(torch.zeros(4, 1, 8, 8, dtype=torch.uint8)).size == (65, 65)
    assert Image((1, 64, 64)).grid(torch.zeros(2, 1, 64, 64, dtype=torch.uint8)).size == (129, 64)
