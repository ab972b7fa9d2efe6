"""The codec of characters: exact inverses, what is refused, files and pictures of text."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unnoise.errors import UserError
from unnoise.modality import Characters

CODEC = Characters("\n abcé漢", 6)
TEXTS = ["a b\nc ", "é漢é漢é漢", "aaaaaa"]


def test_tokens_are_places_in_the_alphabet_and_back() -> None:
    raw = CODEC.raw(TEXTS)
    CODEC.check(raw)
    x = CODEC.encode(raw)
    assert x.tolist()[0] == [2, 1, 3, 0, 4, 1] and x.tolist()[1][:2] == [5, 6]
    assert torch.equal(CODEC.decode(x), raw)
    assert [CODEC.text(row) for row in CODEC.decode(x)] == TEXTS
    backwards = Characters(CODEC.alphabet[::-1], 6)
    assert torch.equal(backwards.encode(raw), 6 - x) and torch.equal(backwards.decode(6 - x), raw)


def test_masked_tokens_and_unknown_characters_are_each_others_image() -> None:
    assert CODEC.encode(CODEC.raw(["a?b\x00cz"])).tolist() == [[2, 7, 3, 7, 4, 7]]
    assert CODEC.text(CODEC.decode(torch.tensor([[2, 7, 3, 7, 4, 7]]))[0]) == "a\ufffdb\ufffdc\ufffd"


def test_what_does_not_exist_is_left_out() -> None:
    raw = CODEC.decode(torch.tensor([[2, 3, 4, 2, 2, 2]]), torch.tensor([[True, True, True, False, False, False]]))
    assert CODEC.text(raw[0]) == "abc"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            CODEC.raw(["abcabc", "axéyéb"]),
            r"lacks 2 characters of the data: 'x' \(U\+0078\), 'y' .*: add them to codec",
        ),
        (torch.full((2, 5), 97), r"shape \(2, 5\), the codec expects int64 code points \[B, 6\]: set codec.length"),
        (torch.full((2, 6), 97, dtype=torch.int32), "data are torch.int32"),
    ],
)
def test_other_data_are_refused(raw: torch.Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        CODEC.check(raw)


def test_texts_of_another_length_and_bad_alphabets_are_refused() -> None:
    with pytest.raises(UserError, match="6 characters is expected, got 3: 'abc'"):
        CODEC.raw(["abc"])
    for alphabet, message in (("abca", "'a'"), ("", "empty")):
        with pytest.raises(ValueError, match=message):
            Characters(alphabet, 6)
    with pytest.raises(ValueError, match="length=0"):
        Characters("ab", 0)


def test_files_hold_the_text_to_the_byte(tmp_path: Path) -> None:
    for row, text in zip(CODEC.raw(TEXTS), TEXTS, strict=True):
        CODEC.write(row, tmp_path / "x.txt")
        assert (tmp_path / "x.txt").read_bytes().decode() == text
    assert [f.name for f in tmp_path.iterdir()] == ["x.txt"]


def test_a_sheet_shows_each_text_in_its_place() -> None:
    """Empty boxes are white, a text leaves ink, equal texts equal ink."""
    codec = Characters(" ab\n", 40)
    raw = codec.raw([" " * 40, ("ab" * 20), ("ab" * 20), " " * 40])
    sheet = np.asarray(codec.grid(raw, columns=2)).astype(int)
    h, w = sheet.shape[0] // 2, sheet.shape[1] // 2
    boxes: Any = [sheet[y * h + 2 : y * h + h - 2, x * w + 2 : x * w + w - 2] for y in (0, 1) for x in (0, 1)]
    assert boxes[0].min() == boxes[3].min() == 255 and boxes[1].min() < 100
    assert np.array_equal(boxes[1], boxes[2])
