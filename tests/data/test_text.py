"""Text: the windows, the split, and every kind of bad file."""

import gzip
import hashlib
import lzma
import os
from pathlib import Path

import pytest
import torch

from unnoise.data import Text
from unnoise.data.text import code_points
from unnoise.errors import UserError

real = pytest.mark.skipif(not os.environ.get("UNNOISE_DATA"), reason="UNNOISE_DATA names no folder of data")

ODD = "naïve — \U0001f600 \u0000\r\n\tж"


def decode(x: torch.Tensor) -> str:
    return "".join(map(chr, x.flatten().tolist()))


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A text whose character i is chr(i + 100)."""
    (tmp_path / "a.txt").write_text("".join(chr(i + 100) for i in range(1000)), encoding="utf-8")
    return str(tmp_path / "a.txt")


@real
def test_tinyshakespeare_is_what_it_is_said_to_be() -> None:
    data = Text(length=1, stride=1).load()
    text = decode(data.train["x"]) + decode(data.held_out["x"])
    assert len(text) == 1_115_394 and len(set(text)) == 65
    assert hashlib.md5(text.encode()).hexdigest() == "6fb458f1232090904fb40fe944165e91"
    assert len(data.held_out["x"]) == 111_539
    assert "public domain" in data.about


@real
def test_windows_of_tinyshakespeare() -> None:
    data = Text().load()
    assert data.train["x"].shape == ((1_003_855 - 128) // 16 + 1, 128)
    assert data.held_out["x"].shape == (111_539 // 128, 128)
    assert decode(data.train["x"][0]).startswith("First Citizen:\nBefore we proceed any further")
    seen = {decode(row) for row in data.train["x"]}
    assert not any(decode(row) in seen for row in data.held_out["x"])


@real
def test_a_book_in_xz() -> None:
    data = Text(path=str(Path(os.environ["UNNOISE_DATA"], "text", "books_test.txt.xz")), stride=128).load()
    assert 2_600_000 < len(data) * 128 / 0.9 < 2_800_000


def test_windows_and_split(path: str) -> None:
    data = Text(path, length=10, stride=7, held_out=0.25).load()
    train, held_out = data.train["x"], data.held_out["x"]
    assert torch.equal(train, 100 + 7 * torch.arange(106)[:, None] + torch.arange(10))  # 7 * 105 + 10 <= 750
    assert torch.equal(held_out, 850 + 10 * torch.arange(25)[:, None] + torch.arange(10))
    assert train.untyped_storage().nbytes() == 8 * 1000  # overlapping windows of one text
    whole = Text(path, length=10, stride=10, held_out=0.0).load()
    assert whole.train["x"].shape == (100, 10) and whole.held_out["x"].shape == (0, 10)


@pytest.mark.parametrize("suffix", ["", ".txt", ".gz", ".xz"])
def test_every_character_survives(tmp_path: Path, suffix: str) -> None:
    content = ODD.encode()
    compress = {".gz": gzip.compress, ".xz": lzma.compress}.get(suffix, bytes)
    (tmp_path / f"a{suffix}").write_bytes(compress(content))
    data = Text(str(tmp_path / f"a{suffix}"), length=1, stride=1, held_out=0.0).load()
    assert decode(data.train["x"]) == ODD
    assert decode(code_points(ODD)) == ODD and code_points("").shape == (0,)


def test_a_byte_order_mark_is_no_character(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfabc")
    assert decode(Text(str(tmp_path / "a"), length=3, held_out=0.0).load().train["x"]) == "abc"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "is empty"),
        ("a.gz", gzip.compress(b""), "too short: its training part has 0 of 0 characters, a window 4"),
        ("a.txt", b"abc", "too short: its training part"),
        ("a.txt", b"0123456789", "too short: its held-out part has 1 of 10 characters, a window 4"),
        ("a.txt", b"0123456789\xff123", "not UTF-8: byte 0xff at offset 10"),
        ("a.txt", "äöü".encode("latin-1") * 9, "not UTF-8: byte 0xe4 at offset 0"),
        ("a.gz", b"plain text, not compressed", "is not a gz file"),
        ("a.xz", gzip.compress(b"x" * 99), "is not a xz file"),
        ("a.gz", gzip.compress(b"x" * 99)[:-5], "damaged or cut short"),
        ("a.gz", gzip.compress(bytes(range(99)))[:30] + b"\xff" * 40, "damaged or cut short"),
        ("a.gz", gzip.compress(b"x" * 99) + b"junk", "damaged or cut short"),
        ("a.xz", lzma.compress(b"x" * 99)[:-5], "damaged or cut short"),
    ],
    ids=lambda v: v if isinstance(v, str) else "bytes",  # a gz file holds the time
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as e:
        Text(str(tmp_path / name), length=4).load()
    assert str(tmp_path / name) in str(e.value)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file: .*nowhere.txt"):
        Text(str(tmp_path / "nowhere.txt")).load()
    with pytest.raises(UserError, match="is a folder"):
        Text(str(tmp_path)).load()
    monkeypatch.delenv("UNNOISE_DATA", raising=False)
    with pytest.raises(UserError, match=r"text/tinyshakespeare.txt.gz .* UNNOISE_DATA"):
        Text().load()


def test_choices_are_checked() -> None:
    for wrong in ({"length": 0}, {"stride": 0}, {"held_out": 1.0}, {"held_out": -0.1}):
        with pytest.raises(UserError, match=str(next(iter(wrong.values())))):
            Text(**wrong)
