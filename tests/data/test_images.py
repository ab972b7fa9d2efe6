"""One's own pictures: every form they come in, and every way in which files are bad."""

import io
import os
import pickle
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unnoise.data import Images
from unnoise.data.dataset import Lazy, loaded
from unnoise.data.home import find
from unnoise.data.picture_archives import InZip, in_zip
from unnoise.data.picture_files import Tally
from unnoise.data.picture_formats import Form, resized
from unnoise.data.picture_split import held_out_rows
from unnoise.data.stream import batches
from unnoise.data.strips import read_strips
from unnoise.errors import UserError

real = pytest.mark.skipif(not os.environ.get("UNNOISE_DATA"), reason="UNNOISE_DATA names no folder of data")
NOISE = np.random.default_rng(0).integers(0, 256, (40, 12, 16, 4), dtype=np.uint8)
"""Forty pictures, 12 high and 16 wide, of four channels."""


def encoded(pixels: np.ndarray, kind: str = "PNG", mode: str | None = None, **options: object) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(file, kind, **options)
    return file.getvalue()


def saved(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def zipped(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def colours(count: int = 20, classes: tuple[str, ...] = ("b", "a")) -> dict[str, bytes]:
    return {f"{classes[i % len(classes)]}/{i:02d}.png": encoded(NOISE[i, :, :, :3]) for i in range(count)}


def all_pixels(source: Images) -> list[bytes]:
    data = source.load()
    return sorted(x.tobytes() for part in (data.train, data.held_out) for x in loaded(part["x"]).numpy())


def message(source: Images) -> str:
    with pytest.raises(UserError) as e:
        source.load()
    assert "\n" not in str(e.value)
    return str(e.value)


# Where pictures lie ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", [4.0, 0.0], ids=["held", "lazy"])
def test_every_place_gives_the_same_pictures(tmp_path: Path, memory: float) -> None:
    """A folder, zips, tars, of a folder or of its contents: the same parts, labels, pixels; nothing is written."""
    files = colours()
    within = {f"photos/{k}": v for k, v in files.items()} | {
        "photos/__MACOSX/a/._1.png": b"x",
        "photos/.DS_Store": b"x",
    }
    places = [
        folder(tmp_path / "f", files | {"__MACOSX/c/01.png": b"x", "a/.hidden.png": b"x", ".git/1.png": b"x"}),
        zipped(tmp_path / "d.zip", files),
        zipped(tmp_path / "s.zip", within, zipfile.ZIP_STORED),
        tarred(tmp_path / "p.tar", within),
        *([tarred(tmp_path / "g.tar.gz", files, "w:gz")] if memory else []),
    ]
    before = sorted(tmp_path.rglob("*"))
    ways = [Images(str(p), memory=memory) for p in places]
    sets = [w.load() for w in ways]
    assert sorted(tmp_path.rglob("*")) == before
    for way, data in zip(ways, sets, strict=True):
        assert isinstance(data.train["x"], torch.Tensor) == bool(memory)
        for part, first in ((data.train, sets[0].train), (data.held_out, sets[0].held_out)):
            assert torch.equal(loaded(part["x"]), loaded(first["x"]))
            assert torch.equal(part["label"], first["label"])  # type: ignore[arg-type]
        found = way.found()
        assert found.classes == {"a": 10, "b": 10} and found.skipped == {} == found.converted
        assert (found.count, found.sizes, found.modes, found.shape) == (20, {(12, 16): 20}, {"RGB": 20}, (3, 12, 16))
    assert (len(sets[0]), len(sets[0].held_out["x"])) == (18, 2)
    assert sets[0].held_out["label"].tolist() == [0, 1]  # type: ignore[union-attr]
    assert all_pixels(ways[0]) == sorted(NOISE[i, :, :, :3].transpose(2, 0, 1).tobytes() for i in range(20))


def test_a_compressed_tar_is_held_or_refused(tmp_path: Path) -> None:
    path = tarred(tmp_path / "x.tar.xz", colours(), "w:xz")
    assert len(Images(str(path)).load()) == 18
    assert "decompress it to a plain .tar, or set memory=" in message(Images(str(path), memory=0.0))


def test_classes_are_folders_of_the_first_level_where_all_lie_in_one(tmp_path: Path) -> None:
    files = {f"{k}/deep/{i}.png": encoded(NOISE[3 * k + i, :, :, 0]) for k in (2, 10, 1) for i in range(2)}
    found = Images(str(folder(tmp_path / "n", files))).found()
    assert list(found.classes.items()) == [("1", 2), ("2", 2), ("10", 2)]  # numbers in their order
    (tmp_path / "n" / "note.txt").write_text("not a picture, and in no class")
    assert Images(str(tmp_path / "n")).found().classes == found.classes
    (tmp_path / "n" / "loose.png").write_bytes(encoded(NOISE[30, :, :, 0]))
    data = Images(str(tmp_path / "n")).load()
    assert Images(str(tmp_path / "n")).found().classes == {} and "label" not in data.train
    one = folder(tmp_path / "one", {f"only/{i}.png": encoded(NOISE[i, :, :, 0]) for i in range(3)})
    assert Images(str(one)).found().classes == {}


def test_links_that_go_round_end(tmp_path: Path) -> None:
    path = folder(tmp_path / "f", colours(4))
    (path / "a" / "round").symlink_to(path, target_is_directory=True)
    (path / "self").symlink_to("self")
    (path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(path / "pipe.png")
    other = folder(tmp_path / "other", {"9.png": encoded(NOISE[9, :, :, :3])})
    (path / "b" / "elsewhere").symlink_to(other, target_is_directory=True)
    found = Images(str(path)).found()
    assert found.count == 5 and sum(found.classes.values()) == 5
    assert {k: n for k, (n, _) in found.skipped.items()} == {"links to nothing, or no files": 3}


@pytest.mark.parametrize("make", [zipped, tarred])
@pytest.mark.parametrize("name", ["../x.png", "a/../../x.png", "/etc/x.png", "C:\\x.png", "..\\x.png"])
def test_archives_that_point_outside_are_refused_whole(
    tmp_path: Path, make: Callable[[Path, dict[str, bytes]], Path], name: str
) -> None:
    path = make(tmp_path / "archive", colours(4) | {name: encoded(NOISE[5, :, :, :3])})
    said = message(Images(str(path)))
    assert "points outside of it" in said and name.replace("\\", "\\\\") in said and str(path) in said


def test_bad_archives_are_named(tmp_path: Path) -> None:
    whole = zipped(tmp_path / "whole.zip", colours(), zipfile.ZIP_STORED).read_bytes()
    encrypted = bytearray(whole)
    encrypted[whole.index(b"PK\x01\x02") + 8] |= 1
    tar = tarred(tmp_path / "whole.tar.gz", colours(), "w:gz").read_bytes()
    for name, content, said in [
        ("cut.zip", whole[:-200], "none of: a folder of pictures"),
        ("locked.zip", bytes(encrypted), "is encrypted"),
        ("cut.tar.gz", tar[: len(tar) // 2], "is not a readable tar"),
        ("empty.zip", b"", "none of"),
        ("text.tar", b"hello" * 400, "none of"),
        ("one.png", encoded(NOISE[0]), "is one picture: name the folder"),
    ]:
        (tmp_path / name).write_bytes(content)
        found = message(Images(str(tmp_path / name)))
        assert str(tmp_path / name) in found and said in found
    (tmp_path / "holed.zip").write_bytes(whole[:300] + whole[2000:])
    assert Images(str(tmp_path / "holed.zip")).found().skipped == {"cannot be read": (3, "a/01.png")}
    assert "no such folder or file" in message(Images(str(tmp_path / "nowhere")))
    (tmp_path / "nothing").mkdir()
    assert "there is no picture that can be read in" in message(Images(str(tmp_path / "nothing")))
    assert "it is empty" in message(Images(str(tmp_path / "nothing")))
    assert "--data PATH" in message(Images(""))
    rare = zipped(tmp_path / "rare.zip", {"a.png": encoded(NOISE[0])}, zipfile.ZIP_LZMA)
    assert "1 compressed by the rare zip method 14 (a.png)" in message(Images(str(rare)))


def test_a_member_of_a_zip_is_checked(tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.zip", {"a.bin": b"some text" * 50})
    (file,) = in_zip(path, Tally()).files
    assert isinstance(file, InZip) and file.open().read() == b"some text" * 50 and file.size == 450
    content = path.read_bytes()
    for bad in (content[:40] + b"\0\0" + content[42:], b"QQ" + content[2:]):
        path.write_bytes(bad)
        with pytest.raises((OSError, EOFError, zlib.error), match=r"damaged|invalid|decompress"):
            file.open()


# Bad files ------------------------------------------------------------------------------------------------------------


def bomb(width: int, height: int) -> bytes:
    """A PNG that claims to be so large."""
    content = bytearray(encoded(NOISE[0, :, :, 0]))
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


BAD = {
    "note.txt": b"hello",
    "more/readme.md": b"# hello",
    "empty.png": b"",
    "cut.png": encoded(NOISE[0, :, :, :3])[:200],
    "cut.jpg": encoded(NOISE[0, :, :, :3], "JPEG")[:400],
    "broken.gif": b"GIF89a" + b"\xff" * 30,
    "warned.png": bomb(12_000, 9_000),
    "bomb.png": bomb(60_000, 60_000),
    "float.tif": encoded(NOISE[0, :, :, 0].astype(np.float32), "TIFF"),
}


def test_bad_files_are_skipped_and_counted(tmp_path: Path) -> None:
    path = folder(tmp_path / "f", {k.replace("/", "_"): v for k, v in colours().items()} | BAD)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, data = Images(str(path)).read()
    assert found.count == 20 == len(data) + len(data.held_out["x"])
    counts = {k: n for k, (n, _) in found.skipped.items()}
    assert counts["empty files"] == 1 and counts["not pictures"] == 3 and counts["more than 89,478,485 pixels"] == 2
    assert counts["cut short or damaged"] == 2 and sum(counts.values()) == len(BAD)
    assert found.skipped["empty files"] == (1, "empty.png")
    line = data.notice
    assert line.startswith("20 pictures of f; 9 skipped: ") and "3 not pictures (first broken.gif)" in line
    assert data.about == line and "\n" not in line


def test_where_nothing_is_left_the_reasons_are_said(tmp_path: Path) -> None:
    said = message(Images(str(folder(tmp_path / "f", {"a.txt": b"x", "b.txt": b"y", "c.png": b""}))))
    assert said.endswith("3 skipped: 2 not pictures (first a.txt), 1 empty files (c.png)")
    damaged = folder(tmp_path / "g", {"a.png": encoded(NOISE[0, :, :, :3])[:300]})
    assert "can be trained on" in message(Images(str(damaged))) and "1 cut short" in message(Images(str(damaged)))


def test_names_that_are_no_utf8_can_be_said(tmp_path: Path) -> None:
    path = folder(tmp_path / "f", colours(4))
    (Path(os.fsdecode(os.fsencode(path) + b"/a/\xff.png"))).write_bytes(b"no picture")
    found = Images(str(path)).found()
    assert found.line().encode() and found.skipped["not pictures"] == (1, "a/\\udcff.png")


# Forms ----------------------------------------------------------------------------------------------------------------


def one(tmp_path: Path, content: bytes, **options: object) -> np.ndarray:
    """What a single file becomes."""
    path = folder(tmp_path / f"one{len(list(tmp_path.iterdir()))}", {"x": content})
    return loaded(Images(str(path), **options).load().train["x"])[0].numpy()  # type: ignore[arg-type]


def test_every_kind_of_file_becomes_its_channels(tmp_path: Path) -> None:
    """Pitfall 28: what a file is decides, and what is asked for; alpha lies on white, gray is repeated."""
    rgba = NOISE[0]
    gray, rgb, two = rgba[..., 0], rgba[..., :3], rgba[..., [0, 3]]
    same = {"L": gray[None], "LA": two.transpose(2, 0, 1), "RGB": rgb.transpose(2, 0, 1)}
    for pixels, mode in ((gray, "L"), (two, "LA"), (rgb, "RGB")):
        assert np.array_equal(one(tmp_path, encoded(pixels)), same[mode])
    assert np.array_equal(one(tmp_path, encoded(rgba)), rgba.transpose(2, 0, 1))
    assert np.array_equal(one(tmp_path, encoded(gray), channels=3), np.stack([gray] * 3))
    alpha = rgba[..., 3:] / 255
    white = np.round(rgba[..., :3] * alpha + 255 * (1 - alpha)).transpose(2, 0, 1)
    assert np.abs(one(tmp_path, encoded(rgba), channels=3) - white).max() <= 1
    assert (
        np.abs(
            one(tmp_path, encoded(two), channels=1)[0] - np.round(gray * alpha[..., 0] + 255 * (1 - alpha[..., 0]))
        ).max()
        <= 1
    )
    luminance = rgb @ np.array([0.299, 0.587, 0.114])
    assert np.abs(one(tmp_path, encoded(rgb), channels=1)[0] - luminance).max() <= 1
    palette = Image.fromarray(rgb).quantize(8)
    plain, clear = np.asarray(palette.convert("RGB")).transpose(2, 0, 1), np.asarray(palette) == 0
    assert np.array_equal(one(tmp_path, saved(palette)), plain)
    found = one(tmp_path, saved(palette, transparency=0))
    assert np.array_equal(found[:3, ~clear], plain[:, ~clear]) and np.array_equal(found[3], 255 * ~clear)
    assert one(tmp_path, encoded(rgb, "JPEG", "CMYK", quality=95)).shape == (3, 12, 16)
    assert set(np.unique(one(tmp_path, encoded(gray, mode="1")))) == {0, 255}


def test_the_most_decide_and_the_others_are_counted(tmp_path: Path) -> None:
    """Pitfall 28: one picture of another channel count is converted, with its name in the report."""
    files = colours(10, ("",)) | {
        "gray.png": encoded(NOISE[11, :, :, 0]),
        "alpha.png": encoded(NOISE[12]),
        "print.jpg": encoded(NOISE[13, :, :, :3], "JPEG", "CMYK"),
        "web.png": saved(Image.fromarray(NOISE[14, :, :, :3]).quantize(8)),
        "deep.png": encoded(NOISE[15, :, :, 0].astype(np.uint16) * 257),
    }
    source = Images(str(folder(tmp_path / "f", {k.lstrip("/"): v for k, v in files.items()})))
    found, data = source.read()
    assert found.shape == (3, 12, 16) and found.dtype == "uint8" and len(data) + len(data.held_out["x"]) == 15
    assert found.converted == {
        "RGBA to RGB on white": (1, "alpha.png"),
        "16-bit gray to RGB": (1, "deep.png"),
        "gray to RGB": (1, "gray.png"),
        "CMYK to RGB": (1, "print.jpg"),
        "palette to RGB": (1, "web.png"),
    }
    assert "5 converted: " in data.notice and found.modes["RGB"] == 10
    pixels = all_pixels(source)
    for i in (11, 15):
        assert np.stack([NOISE[i, :, :, 0]] * 3).tobytes() in pixels


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("memory", [4.0, 0.0], ids=["held", "lazy"])
def test_gray_of_16_bits_keeps_them(tmp_path: Path, kind: str, memory: float) -> None:
    """Pitfall 28: 16 bits through the source; a picture of 8 bits among them is scaled and counted."""
    deep = np.random.default_rng(1).integers(0, 65536, (9, 10, 14), dtype=np.uint16)
    deep[0, 0, :2] = (0, 65535)
    files = {f"{i}.x": encoded(x, kind) for i, x in enumerate(deep)} | {"z.png": encoded(NOISE[0, :10, :14, 0])}
    source = Images(str(folder(tmp_path / "f", files)), memory=memory, held_out=0.0)
    found, data = source.read()
    x = loaded(data.train["x"])
    assert x.dtype == torch.int32 and x.shape == (10, 1, 10, 14) and found.dtype == "uint16"
    assert np.array_equal(x[:9, 0].numpy(), deep.astype(np.int32))
    assert np.array_equal(x[9, 0].numpy(), NOISE[0, :10, :14, 0].astype(np.int32) * 257)
    assert found.converted == {"gray to 16-bit gray": (1, "z.png")}
    small = loaded(Images(str(tmp_path / "f"), size=5, memory=memory).load().train["x"])
    assert small.shape[1:] == (1, 5, 5) and int(small.min()) >= 0 and int(small.max()) > 30_000


def test_colour_of_16_bits_is_counted_as_cut(tmp_path: Path) -> None:
    """Pillow reads it as 8 bits, without a word."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + bytes(range(48)) for _ in range(8))
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0))
    png += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    found = Images(str(folder(tmp_path / "f", {"a.png": png}))).found()
    assert found.converted == {"16-bit RGB to RGB": (1, "a.png")}


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.fromarray(NOISE[i, :, :, 0]) for i in range(3)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    source = Images(str(folder(tmp_path / "f", {"a.gif": file.getvalue()})), channels=1)
    found, data = source.read()
    assert found.converted["first of several frames"] == (1, "a.gif")
    assert np.array_equal(loaded(data.train["x"])[0, 0].numpy(), NOISE[0, :, :, 0])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_upright(tmp_path: Path, kind: str, orientation: int) -> None:
    """Pitfall 29: 12x16 or 16x12 as EXIF says, in the header as in the pixels."""
    pixels = np.zeros((12, 16, 3), np.uint8)
    pixels[:6, :8] = (255, 0, 0)
    pixels[6:, 8:] = (0, 0, 255)
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = encoded(pixels, kind, exif=exif, **({"quality": 100} if kind != "TIFF" else {}))
    found, data = Images(str(folder(tmp_path / "f", {"x": turned}))).read()
    ways: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: p.transpose(1, 0, 2)[:, ::-1],
        7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
        8: lambda p: p.transpose(1, 0, 2)[::-1],
    }
    upright = ways[orientation](pixels)
    assert list(found.sizes) == [upright.shape[:2]]
    x = loaded(data.train["x"])[0].permute(1, 2, 0).numpy()
    assert np.abs(x.astype(int) - upright)[[0, 2, -3, -1]][:, [0, 2, -3, -1]].max() < 60


# Sizes ----------------------------------------------------------------------------------------------------------------


def test_sizes_that_differ_are_named(tmp_path: Path) -> None:
    files = colours(6) | {"a/other.png": encoded(NOISE[7, :8, :9, :3])}
    said = message(Images(str(folder(tmp_path / "f", files))))
    assert "12x16 (a/01.png) and 8x9 (a/other.png)" in said and "size=64" in said and "--size" in said
    assert Images(str(tmp_path / "f")).found().shape is None
    found, data = Images(str(tmp_path / "f"), size=(10, 12)).read()
    assert found.shape == (3, 10, 12) and found.converted == {"enlarged to 10x12": (1, "a/other.png")}
    assert "1 converted: 1 enlarged to 10x12 (a/other.png)" in data.notice


def test_cropping_takes_the_centre_and_stretching_everything(tmp_path: Path) -> None:
    """Pitfall 29: bands beside the centre are gone by crop, and there by stretch."""
    pixels = np.zeros((40, 100), np.uint8)
    pixels[:, 30:70] = 200
    content = encoded(pixels)
    crop = one(tmp_path, content, size=20)[0]
    assert crop.shape == (20, 20) and np.abs(crop[:, 1:-1].astype(int) - 200).max() <= 6  # Lanczos rings at an edge
    stretch = one(tmp_path, content, size=20, fit="stretch")[0]
    assert (
        np.abs(stretch[:, 8:12].astype(int) - 200).max() <= 6
        and (stretch[:, :4] <= 6).all()
        and (stretch[:, -4:] <= 6).all()
    )
    tall = one(tmp_path, content, size=(40, 20))[0]
    assert tall.shape == (40, 20) and np.abs(tall[:, 1:-1].astype(int) - 200).max() <= 6


def test_what_gets_smaller_is_antialiased(tmp_path: Path) -> None:
    """Stripes finer than the new pixels become gray, where point sampling would keep them."""
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    for size in (16, 8, 4):
        x = one(tmp_path, encoded(stripes), size=size)[0].astype(int)
        assert np.abs(x[:, 1:-1] - 127).max() <= 8


def test_colours_under_transparency_do_not_bleed(tmp_path: Path) -> None:
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[:, :8] = (255, 0, 0, 255)
    pixels[:, 8:] = (0, 255, 0, 0)
    x = one(tmp_path, encoded(pixels), size=5).astype(int)
    assert (x[1][x[3] > 8] <= 2).all()


def test_choices_are_checked(unchecked: None) -> None:
    for bad, said in [
        ({"size": 0}, "size is"),
        ({"size": (4, 0)}, "size is"),
        ({"fit": "pad"}, "fit is crop or stretch, got 'pad'"),
        ({"channels": 0}, "channels must be at least 1"),
        ({"held_out": 1.0}, r"share in \[0, 1\), got 1"),
        ({"limit": 0}, "limit"),
        ({"memory": -1.0}, "memory"),
    ]:
        with pytest.raises(UserError, match=said):
            Images("x", **bad)  # type: ignore[arg-type]


def test_more_channels_than_files_have(tmp_path: Path) -> None:
    assert "channels=5" in message(Images(str(folder(tmp_path / "f", colours(4))), channels=5))


# The split ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_class_keeps_some_and_gives_its_share(share: float, seed: int) -> None:
    label = torch.tensor([0] * 40 + [1] * 7 + [2] * 2 + [3] + [5] * 20)
    group = torch.arange(70)
    group[41:43] = 41  # a picture twice
    away = held_out_rows(group, label, share, seed)
    counts = label[away].bincount(minlength=6).tolist()
    assert counts[3] == counts[4] == 0 and all(c < n for c, n in zip(counts, (40, 7, 2, 1, 1, 20), strict=True))
    assert away[41] == away[42]
    assert abs(counts[0] - 40 * share) <= 1 and abs(counts[5] - 20 * share) <= 1
    assert (int(away.sum()) > 0) == (share > 0)
    assert torch.equal(away, held_out_rows(group, label, share, seed))
    if share in (0.25, 0.5):
        assert not torch.equal(away, held_out_rows(group, label, share, seed + 2))


def test_small_sets_are_split_too() -> None:
    for n in (0, 1, 2, 3):
        away = held_out_rows(torch.arange(n), torch.zeros(n, dtype=torch.int64), 0.1, 0)
        assert int(away.sum()) == (n > 1)
    assert not held_out_rows(torch.zeros(5, dtype=torch.int64), torch.zeros(5, dtype=torch.int64), 0.5, 0).any()


def test_copies_do_not_cross_the_split(tmp_path: Path) -> None:
    files = {f"{i}.png": encoded(NOISE[i, :, :, :3]) for i in range(20)}
    files |= {f"copy{j}_{i}.png": files[f"{i}.png"] for i in range(0, 20, 2) for j in range(2)}
    for memory in (4.0, 0.0):
        found, data = Images(str(folder(tmp_path / "f", files)), held_out=0.5, memory=memory).read()
        parts = [{x.tobytes() for x in loaded(p["x"]).numpy()} for p in (data.train, data.held_out)]
        assert found.twice == 20 and len(parts[0]) == len(parts[1]) == 10 and not parts[0] & parts[1]
        assert "20 are there twice" in data.notice


def test_a_class_of_one_picture_is_trained_on_and_told(tmp_path: Path) -> None:
    files = colours(10) | {"lone/1.png": encoded(NOISE[30, :, :, :3])}
    found, data = Images(str(folder(tmp_path / "f", files)), held_out=0.4).read()
    assert found.alone == ("lone",) and found.classes == {"a": 5, "b": 5, "lone": 1}
    assert 2 in data.train["label"].tolist() and 2 not in data.held_out["label"].tolist()  # type: ignore[union-attr]
    assert "class lone with one picture only, which is not held out" in data.notice


def test_a_limit_leaves_what_is_held_out(tmp_path: Path) -> None:
    path = str(folder(tmp_path / "f", colours()))
    few, all_ = Images(path, limit=5).load(), Images(path).load()
    assert len(few) == 5 and torch.equal(loaded(few.held_out["x"]), loaded(all_.held_out["x"]))
    assert len(Images(path, limit=500).load()) == len(all_)


def test_other_files_than_those_of_the_digest_are_refused(tmp_path: Path) -> None:
    path = folder(tmp_path / "f", colours())
    digest = Images(str(path)).found().digest
    Images(str(path), digest=digest, size=6).load()
    (path / "note.txt").write_text("no picture, no change")
    Images(str(path), digest=digest).load()
    (path / "a" / "new.png").write_bytes(encoded(NOISE[33, :, :, :3]))
    assert "are not those that the run began with" in message(Images(str(path), digest=digest))
    assert Images(str(path)).found().digest != digest


# Larger than memory ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["folder", "zip", "tar"])
def test_a_lazy_column_gives_the_same_batches_with_any_workers_from_anywhere(tmp_path: Path, place: str) -> None:
    files = colours(30)
    make = {"folder": folder, "zip": zipped, "tar": tarred}[place]
    path = str(make(tmp_path / "x", files))
    held, lazy = (Images(path, size=(8, 10), memory=m).load() for m in (4.0, 0.0))
    column = lazy.train["x"]
    assert (
        isinstance(column, Lazy)
        and not isinstance(column, torch.Tensor)
        and isinstance(lazy.train["label"], torch.Tensor)
    )
    again = pickle.loads(pickle.dumps(column))
    rows = torch.tensor([3, 0, 3])
    assert torch.equal(again[rows], loaded(held.train["x"])[rows]) and column[:0].shape == (0, 3, 8, 10)
    expected = batches(held.train, 8, seed=0)
    first = [next(expected) for _ in range(6)]
    for workers, start in ((0, 0), (2, 0), (1, 24)):
        stream = batches(lazy.train, 8, seed=0, seen=start, workers=workers)
        for want in first[start // 8 :]:
            got = next(stream)
            assert got.keys() == want.keys() and all(torch.equal(got[k], want[k]) for k in want)
        stream.close()


def test_a_damaged_picture_of_a_lazy_column_is_named(tmp_path: Path) -> None:
    files = colours(12) | {"a/cut.png": encoded(NOISE[20, :, :, :3])[:300]}
    path = folder(tmp_path / "f", files)
    data = Images(str(path), memory=0.0, held_out=0.0).load()
    with pytest.raises(UserError, match=r"a/cut\.png in .* cannot be used \(cut short or damaged\): repair it"):
        loaded(data.train["x"])
    for workers in (0, 1):
        stream = batches(data.train, 13, seed=0, workers=workers)
        with pytest.raises(UserError, match=r"a/cut\.png"):
            next(stream)
    (path / "a" / "01.png").unlink()
    with pytest.raises(UserError, match=r"a/01\.png in .* \(cannot be read\)"):
        data.train["x"][torch.tensor([0])]


@real
def test_real_pictures_written_out_as_files_come_back(tmp_path: Path) -> None:
    """Tiles of micrographs, as PNG: to the bit at their own size, close to means of blocks at half of it."""
    x = read_strips(find("nuclei", "nuclei128.tar"), 128)[:60]
    files = {f"{i:02d}.png": encoded(p.permute(1, 2, 0).numpy()) for i, p in enumerate(x)}
    whole = Images(str(zipped(tmp_path / "x.zip", files)), held_out=0.0)
    assert torch.equal(loaded(whole.load().train["x"]), x)
    half = loaded(Images(str(tmp_path / "x.zip"), size=64, held_out=0.0).load().train["x"]).float()
    blocks = torch.nn.functional.avg_pool2d(x.float(), 2)
    assert float((half - blocks).abs().mean()) < 2


# npz ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_arrays_in_every_layout(tmp_path: Path, channels: int) -> None:
    """Pitfall 28: five channels as well as one."""
    x = np.random.default_rng(0).integers(0, 256, (10, channels, 8, 12), dtype=np.uint8)
    layouts = [x, x.transpose(0, 2, 3, 1), *([x[:, 0]] if channels == 1 else [])]
    for i, layout in enumerate(layouts):
        np.savez(tmp_path / f"{i}.npz", x=layout, label=np.arange(10) % 3 * 5)
        found, data = Images(str(tmp_path / f"{i}.npz"), held_out=0.0).read()
        assert np.array_equal(data.train["x"].numpy(), x) and found.shape == (channels, 8, 12)  # type: ignore[union-attr]
        assert found.classes == {"0": 4, "5": 3, "10": 3}
        assert data.train["label"].tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]  # type: ignore[union-attr]
    small = Images(str(tmp_path / "0.npz"), size=(4, 6)).load()
    assert small.train["x"].shape == (9, channels, 4, 6) and small.train["x"].dtype == torch.uint8


def test_arrays_of_other_numbers(tmp_path: Path) -> None:
    for x, dtype, kept in [
        (np.full((4, 8, 8), 40_000, np.uint16), "uint16", torch.int32),
        (np.full((4, 8, 8), 40_000, np.int64), "uint16", torch.int32),
        (np.full((4, 8, 8), 0.25, np.float64), "float32", torch.float32),
    ]:
        np.savez(tmp_path / "x.npz", x=x)
        found, data = Images(str(tmp_path / "x.npz")).read()
        assert found.dtype == dtype and data.train["x"].dtype == kept
        assert "label" not in data.train and found.twice == 3 and len(data) == 4
    for arrays, said in [
        ({"x": np.full((4, 8, 8), -1)}, "int64 from -1 to -1: save it as uint8"),
        ({"x": np.zeros((4, 8))}, r"x of .* is \[4, 8\]: pictures are"),
        ({"y": np.zeros((4, 8))}, "no array 'x'"),
        ({"x": np.zeros((4, 8, 8)), "label": np.zeros(3, int)}, "one integer for each of 4"),
        ({"x": np.full((4, 8, 8), np.nan)}, "NaN or infinity in 4 of 4"),
    ]:
        np.savez(tmp_path / "x.npz", **arrays)  # type: ignore[arg-type]
        with pytest.raises(UserError, match=said):
            Images(str(tmp_path / "x.npz")).load()
    np.savez(tmp_path / "x.npz", x=np.zeros((4, 8, 8)))
    with pytest.raises(UserError, match="1 channels, not channels=3"):
        Images(str(tmp_path / "x.npz"), channels=3).load()


def test_floats_stay_within_their_range_when_resized() -> None:
    x = np.zeros((2, 8, 8), np.float32)
    x[0, 2:6, 2:6] = 1
    for size in (5, 12):
        y = resized(x, Form((2, size, size)))
        assert y.shape == (2, size, size) and y.dtype == np.float32 and y.min() >= 0 and 0 < y.max() <= 1


# Hugging Face ---------------------------------------------------------------------------------------------------------


def hub(rows: range, kind: str = "ClassLabel") -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        datasets = pytest.importorskip("datasets", reason="the extra datasets is not installed")
    features = {"n": datasets.Value("int64"), "image": datasets.Image()}
    if kind:
        features["label"] = datasets.ClassLabel(names=["cat", "dog", "owl"])
    columns = {
        "n": list(rows),
        "image": [Image.fromarray(NOISE[i, :, :, :3]) for i in rows],
        **({"label": [i % 2 for i in rows]} if kind else {}),
    }
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("memory", [4.0, 0.0], ids=["held", "lazy"])
def test_folders_of_hugging_face_datasets(tmp_path: Path, memory: float) -> None:
    table = hub(range(12))
    table.save_to_disk(str(tmp_path / "one"))  # type: ignore[attr-defined]
    found, data = Images(str(tmp_path / "one"), memory=memory, held_out=0.25).read()
    assert found.classes == {"cat": 6, "dog": 6, "owl": 0} and (len(data), len(data.held_out["x"])) == (9, 3)
    pixels = sorted(NOISE[i, :, :, :3].transpose(2, 0, 1).tobytes() for i in range(12))
    assert sorted(x.tobytes() for p in (data.train, data.held_out) for x in loaded(p["x"]).numpy()) == pixels
    if memory == 0:
        stream = batches(data.train, 9, seed=0, workers=1)
        assert torch.equal(next(stream)["x"].sort(0).values, loaded(data.train["x"]).sort(0).values)
        stream.close()

    import datasets

    parts = datasets.DatasetDict({"train": table, "test": hub(range(20, 25)), "validation": hub(range(30, 32))})
    parts.save_to_disk(str(tmp_path / "several"))
    data = Images(str(tmp_path / "several"), memory=memory).load()
    assert (len(data), len(data.held_out["x"])) == (12, 5)
    assert np.array_equal(loaded(data.held_out["x"])[0].numpy(), NOISE[20, :, :, :3].transpose(2, 0, 1))


@pytest.mark.filterwarnings("ignore")
def test_bad_folders_of_hugging_face_datasets_are_named(tmp_path: Path) -> None:
    table = hub(range(4), kind="")
    table.save_to_disk(str(tmp_path / "good"))  # type: ignore[attr-defined]
    data = Images(str(tmp_path / "good")).load()
    assert "label" not in data.train and len(data) == 3
    import datasets

    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(str(tmp_path / "text"))
    assert "has no column of pictures, only ['text']" in message(Images(str(tmp_path / "text")))
    datasets.DatasetDict({"dev": table}).save_to_disk(str(tmp_path / "dev"))
    assert "has no split 'train', only ['dev']" in message(Images(str(tmp_path / "dev")))
    (tmp_path / "good" / "state.json").write_text("{")
    assert "is not a readable folder of datasets" in message(Images(str(tmp_path / "good")))


def test_without_the_extra_its_name_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    folder(tmp_path / "h", {"state.json": b"{}", "dataset_info.json": b"{}"})
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install 'unnoise[datasets]'" in message(Images(str(tmp_path / "h")))


def test_one_file_is_no_set(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "a" / "x.png")
    assert "x.png is one picture: name the folder that it is in, " in message(Images(str(tmp_path / "a" / "x.png")))
    np.save(tmp_path / "x.npy", np.zeros((3, 9, 9), np.uint8))
    assert "x.npy is one array: save it with np.savez(path, x=array), and" in message(Images(str(tmp_path / "x.npy")))
