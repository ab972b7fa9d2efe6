"""Tensors kept between calls: found again by all that they depend on, refused where they are something else's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from unnoise import cache, recipes
from unnoise.data import Digits, Mirror
from unnoise.data.dataset import Dataset, View, permutation
from unnoise.errors import UserError
from unnoise.evaluate import references
from unnoise.judges import Means
from unnoise.metrics import Moments
from unnoise.runtime import Runtime
from unnoise.trial import Trial

KEY: dict[str, Any] = {"data": "abc", "features": {"means": 8}, "sizes": (1, 2)}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache: a folder that is not there yet."""
    monkeypatch.setenv("UNNOISE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@dataclass
class Maker:
    """Makes the number of times that it was called."""

    calls: int = 0

    def __call__(self) -> Mapping[str, Tensor]:
        self.calls += 1
        return {"x": torch.full((2, 3), self.calls), "none": torch.zeros(0, 4, dtype=torch.float64)}


def made(key: Mapping[str, Any], maker: Maker) -> int:
    found = cache.tensors("kind", key, maker, Runtime())
    assert found.keys() == {"x", "none"} and found["none"].shape == (0, 4) and found["none"].dtype == torch.float64
    return int(found["x"][0, 0])


def files(folder: Path) -> set[str]:
    return {f.name for f in folder.iterdir()}


def test_what_was_made_is_found_again(folder: Path) -> None:
    """By equal keys, however they are written; nothing else is left in the folder."""
    maker = Maker()
    again = {"sizes": [1, 2], "features": {"means": 8}, "data": "abc"}
    assert [made(KEY, maker), made(KEY, maker), made(again, maker)] == [1, 1, 1] and maker.calls == 1
    assert files(folder) == {cache.name_of("kind", KEY)}


@pytest.mark.parametrize(
    "other",
    [{"data": "abd"}, {"features": {"means": 9}}, {"features": {"means": 8.5}}, {"sizes": (2, 1)}, {"more": None}],
    ids=str,
)
def test_another_key_is_another_file(folder: Path, other: dict[str, Any]) -> None:
    maker = Maker()
    assert [made(KEY, maker), made({**KEY, **other}, maker), made(KEY, maker)] == [1, 2, 1]
    assert len(files(folder)) == 2


def test_another_kind_is_another_file(folder: Path) -> None:
    cache.tensors("a", KEY, Maker(), Runtime())
    cache.tensors("b", KEY, Maker(), Runtime())
    assert {name.partition("-")[0] for name in files(folder)} == {"a", "b"}


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:20], lambda b: b"", lambda b: b"x" * 100, None])
def test_a_damaged_file_is_made_again(folder: Path, damage: Any) -> None:
    maker = Maker()
    made(KEY, maker)
    path = folder / cache.name_of("kind", KEY)
    whole = path.read_bytes()
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(whole))
    assert [made(KEY, maker), made(KEY, maker)] == [2, 2] and len(path.read_bytes()) == len(whole)


def test_a_disk_that_cannot_be_written_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    places = [tmp_path / "file", tmp_path / "file" / "below"]
    if os.geteuid():  # the superuser writes everywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        places.append(tmp_path / "locked")
    for place in places:
        monkeypatch.setenv("UNNOISE_CACHE", str(place))
        maker = Maker()
        assert [made(KEY, maker), made(KEY, maker)] == [1, 2]


def test_a_file_that_does_not_say_what_it_is_is_refused(folder: Path) -> None:
    folder.mkdir()
    save_file({"x": torch.zeros(2, 3)}, folder / cache.name_of("kind", KEY))
    with pytest.raises(UserError, match=r"kind-\w{20}\.safetensors does not say what it was made of"):
        made(KEY, Maker())


def test_differences_are_named_where_they_are() -> None:
    a, b = {"x": {"y": 1, "z": [1, 2]}, "w": "s"}, {"x": {"y": 2, "z": [1, 2]}, "v": None, "w": "t"}
    assert cache.differences(a, b) == ['w: "s" and "t"', "x.y: 1 and 2"]
    assert cache.differences(a, a) == [] and cache.differences({"x": {"y": 1}}, {"x": 1}) == ['x: {"y": 1} and 1']


# Statistics of real data ----------------------------------------------------------------------------------------------


def test_pitfall_33_statistics_say_what_they_are_of(folder: Path) -> None:
    """Pitfall 33: statistics carry the hash of the data, how pictures are handed over, the count and the extractor's
    hash; what says something else than was asked for is an error that names it."""
    data, reader, trial = Digits().load(), Means(2), Trial(100)
    references(reader, data, 50, trial)
    (first,) = folder.iterdir()
    fewer = Dataset({k: v[1:] for k, v in data.train.items()}, data.held_out)
    others = {
        "count: 50 and 60": (reader, data, 60),
        "features.means: 2 and 3": (Means(3), data, 50),
        'train: "[0-9a-f]{64}" and "[0-9a-f]{64}"$': (reader, fewer, 50),
        'held_out: "[0-9a-f]{64}" and "[0-9a-f]{64}"$': (reader, replace(data, held_out=data.train), 50),
    }
    for message, (other, columns, most) in others.items():
        references(other, columns, most, trial)
        (theirs,) = set(folder.iterdir()) - {first}
        theirs.write_bytes(first.read_bytes())  # renamed by hand
        with pytest.raises(UserError, match=rf"^{theirs} was made of something else: {message}"):
            references(other, columns, most, trial)
        theirs.unlink()
    key = {"features": {"inception": "1"}}
    made(key, Maker())
    with pytest.raises(UserError, match=r'features\.inception: "1" and "2"'):  # another extractor
        cache.read(folder / cache.name_of("kind", key), {"features": {"inception": "2"}})


def test_pitfall_34_statistics_are_of_content_and_not_augmented(folder: Path) -> None:
    """Pitfall 34: statistics are addressed by the content of what they are of, and none of it is augmented: a recipe
    that mirrors its training pictures has those of the one that does not, to the bit, and they are the data's own.
    Labels take no part; other pictures, or the same in another order, are another content."""
    plain = recipes.load("digits")[0]
    mirrored = replace(plain, augment=Mirror())
    reader, trial = Means(4), Trial(100)
    own = references(reader, plain.data.load(), 10_000, trial)["means4"]
    again = references(reader, mirrored.data.load(), 10_000, trial)["means4"]
    assert len(files(folder)) == 1 and torch.equal(own.moments.scatter, again.moments.scatter)
    data = plain.data.load()
    exact = Moments.of(reader.named(data.train["x"])["means4"])  # type: ignore[arg-type]
    torch.testing.assert_close(own.moments.scatter, exact.scatter, rtol=1e-10, atol=1e-10)
    flipped = Moments.of(reader.named(data.train["x"].flip(-1))["means4"])  # type: ignore[union-attr]
    assert float((flipped.mean - exact.mean).abs().max()) > 1e-3  # it would have been seen

    relabelled = Dataset({**data.train, "label": data.train["label"].flip(0)}, data.held_out)  # type: ignore[union-attr]
    references(reader, relabelled, 10_000, trial)
    assert len(files(folder)) == 1
    order = permutation(len(data), 5)
    shuffled = Dataset({k: v[order] for k, v in data.train.items()}, data.held_out)
    mixed = references(reader, shuffled, 10_000, trial)["means4"]
    assert len(files(folder)) == 2
    torch.testing.assert_close(mixed.moments.scatter, exact.scatter, rtol=1e-10, atol=1e-10)
    one = data.train["x"].clone()  # type: ignore[union-attr]
    one[700, 0, 3, 3] += 1
    references(reader, Dataset({**data.train, "x": one}, data.held_out), 10_000, trial)
    assert len(files(folder)) == 3


# Digests of data ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reads:
    """A lazy column that notes how many rows it is asked for at a time."""

    x: Tensor
    asked: list[int] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.x.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.x.dtype

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: Any) -> Tensor:
        found = self.x[rows]
        self.asked.append(len(found))
        return found


def test_a_digest_depends_on_every_byte_name_shape_and_type() -> None:
    x = torch.arange(24, dtype=torch.int32).reshape(4, 6)
    columns: list[dict[str, Any]] = [
        {"x": x},
        {"y": x},
        {"x": x, "y": x},
        {"x": x.reshape(4, 3, 2)},
        {"x": x.reshape(6, 4)},
        {"x": x.view(torch.float32)},
        {"x": x.long()},
        {"x": x.view(torch.uint8)},
        {"x": x.flip(0)},
        {"x": x[:3]},
        {"x": x[:3], "y": x[3:]},
        {"x": x[:0]},
        {},
    ]
    for i in range(x.numel() * 4):  # one bit of each byte
        changed = x.clone().view(torch.uint8).flatten()
        changed[i] ^= 1
        columns.append({"x": changed.view(torch.int32).reshape(4, 6)})
    found = [cache.digest_of(c) for c in columns]
    assert len(set(found)) == len(columns)
    assert cache.digest_of({"x": -torch.zeros(2)}) != cache.digest_of({"x": torch.zeros(2)})


def test_a_digest_does_not_depend_on_how_the_data_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    x, label = torch.arange(60).reshape(10, 2, 3).to(torch.int16), torch.arange(10) > 4
    whole = cache.digest_of({"x": x, "label": label})
    turned = x.permute(2, 1, 0).contiguous().permute(2, 1, 0)  # strided
    assert cache.digest_of({"label": label, "x": turned}) == whole
    monkeypatch.setattr(cache, "BLOCK", 3)
    lazy = Reads(x)
    assert cache.digest_of({"x": lazy, "label": label}) == whole and lazy.asked == [3, 3, 3, 1]
    view = View(Reads(x.flip(0)), torch.arange(9, -1, -1))
    assert cache.digest_of({"x": view, "label": label}) == whole
    other = x.clone()
    other[9, 1, 2] += 1  # the last element of the last block
    assert cache.digest_of({"x": Reads(other), "label": label}) != whole
