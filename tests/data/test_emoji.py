"""Emoji: groups, duplicates, variants of skin tone."""

import json
import os
from pathlib import Path

import pytest
import torch

from unnoise.data import Emoji
from unnoise.data.strips import read_strips
from unnoise.errors import UserError

real = pytest.mark.skipif(not os.environ.get("UNNOISE_DATA"), reason="UNNOISE_DATA names no folder of data")


@real
@pytest.mark.parametrize(("tones", "count"), [(False, 1862), (True, 3647)])
def test_emoji_are_what_they_are_said_to_be(tones: bool, count: int) -> None:
    data = Emoji(skin_tones=tones).load()
    train, held_out = ([row.tobytes() for row in part["x"].numpy()] for part in (data.train, data.held_out))
    assert len(train) + len(held_out) == count == len({*train, *held_out})
    assert data.train["x"].shape[1:] == (3, 64, 64) and data.train["x"].dtype == torch.uint8
    assert set(data.train) == {"x", "label"} and int(data.train["label"].max()) == 9
    assert "Apache-2.0" in data.about


@real
def test_labels_and_variants_are_those_of_the_list() -> None:
    folder = Path(os.environ["UNNOISE_DATA"], "emoji")
    about = json.loads((folder / "emoji64.json").read_text(encoding="utf8"))
    where: dict[bytes, int] = {}
    for i, row in enumerate(read_strips(folder / "emoji64.tar", 64).numpy()):
        where.setdefault(row.tobytes(), i)
    data = Emoji(skin_tones=True, held_out=0.3).load()
    bases: list[set[str]] = []
    for part in (data.train, data.held_out):
        entries = [about[where[row.tobytes()]] for row in part["x"].numpy()]
        assert [Emoji.names[i] for i in part["label"]] == [e["group"] for e in entries]
        bases.append({e["caption"].split(":")[0] for e in entries if e["skin_tone"] and ": " in e["caption"]})
    plain = {b for b in bases[0] | bases[1] if "," not in b}
    assert len(plain) > 200
    tones = ("light", "medium-light", "medium", "medium-dark", "dark")
    single = [
        {
            e["caption"].split(":")[0]
            for row in part["x"].numpy()
            if (e := about[where[row.tobytes()]])["caption"].endswith(tuple(f": {t} skin tone" for t in tones))
        }
        for part in (data.train, data.held_out)
    ]
    assert len(single[0]) > 100 and len(single[1]) > 30 and not single[0] & single[1]
    assert len(Emoji(limit=7).load()) == 7


def test_what_is_missing_or_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file: .*emoji64.tar"):
        Emoji(path=str(tmp_path)).load()
    with pytest.raises(UserError, match="got 0"):
        Emoji(limit=0)


@real
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello", "is not JSON"),
        ("{}", "holds no list"),
        ("[]", "contradicts itself: 3661 pictures of width 64, 0 emoji"),
        ('[{"group": "Flags", "codepoints": "1"}]', "lacks codepoints, group or skin_tone of emoji 0"),
        ('[{"group": "Cars", "codepoints": "1", "skin_tone": false}]', "emoji 0 in the group 'Cars'"),
    ],
)
def test_a_bad_list_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "emoji64.tar").symlink_to(Path(os.environ["UNNOISE_DATA"], "emoji", "emoji64.tar"))
    (tmp_path / "emoji64.json").write_text(text)
    with pytest.raises(UserError, match=message) as e:
        Emoji(path=str(tmp_path)).load()
    assert str(tmp_path) in str(e.value)
