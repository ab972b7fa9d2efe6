"""Where data come from, what is refused, and the split."""

import dataclasses
import hashlib
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unnoise.data import Arrays, Digits
from unnoise.data.dataset import Dataset, Source, permutation, require_finite, split
from unnoise.errors import UserError

GOOD = np.linspace(0, 1, 40, dtype=np.float32).reshape(10, 4)


def with_bad(where: np.ndarray, value: float) -> np.ndarray:
    return np.where(where, value, GOOD)


def test_digits_are_what_they_are_said_to_be() -> None:
    data = Digits().load()
    assert len(data) == 1438 and len(data.held_out["x"]) == 359
    x = torch.cat([data.train["x"], data.held_out["x"]])
    assert x.shape == (1797, 1, 8, 8) and x.dtype == torch.uint8
    assert int(x.min()) == 0 and int(x.max()) == 16 and len(x.unique()) == 17
    label = torch.cat([data.train["label"], data.held_out["label"]])
    assert label.dtype == torch.int64
    assert label.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert "CC BY 4.0" in data.about


def test_the_split_of_the_digits_is_fixed() -> None:
    """Literals: another split would make every number ever measured another number."""
    data = Digits().load()
    digest = hashlib.sha256(data.train["x"].numpy().tobytes()).hexdigest()
    assert digest[:16] == "5c7b836e892bb833"
    assert data.held_out["label"][:12].tolist() == [0, 2, 5, 6, 8, 0, 3, 9, 0, 3, 2, 3]


def test_parts_are_disjoint_and_whole() -> None:
    columns = {"x": torch.arange(101), "label": torch.arange(101) * 2}
    for share, held in ((0.0, 0), (0.25, 25), (0.5, 50), (0.99, 100)):
        train, test = split(columns, share, 3)
        assert len(test["x"]) == held
        assert sorted(train["x"].tolist() + test["x"].tolist()) == list(range(101))
        assert torch.equal(train["label"], 2 * train["x"]) and torch.equal(test["label"], 2 * test["x"])
    assert not torch.equal(split(columns, 0.5, 3)[0]["x"], split(columns, 0.5, 4)[0]["x"])
    assert torch.equal(split(columns, 0.5, 3)[0]["x"], split(columns, 0.5, 3)[0]["x"])
    # Whatever is held out at a small share is held out at a larger one.
    small, large = (set(split(columns, share, 3)[1]["x"].tolist()) for share in (0.2, 0.4))
    assert small < large


@pytest.mark.parametrize("share", [-0.1, 1.0, 2.0])
def test_a_share_is_a_share(share: float) -> None:
    with pytest.raises(UserError, match=rf"share in \[0, 1\), got {share}"):
        split({"x": torch.zeros(4)}, share, 0)


def test_a_permutation_is_one() -> None:
    assert permutation(8, 3).tolist() == [4, 5, 6, 2, 1, 3, 0, 7]
    assert sorted(permutation(1000, 1, 2).tolist()) == list(range(1000))
    assert permutation(50, 1, 2).tolist() != permutation(50, 2, 1).tolist()
    # Every place is as likely for every item.
    places = torch.stack([permutation(4, i) for i in range(800)])
    for item in range(4):
        share = (places == item).double().mean(0)
        assert float((share - 0.25).abs().max()) < 5 * (0.25 * 0.75 / 800) ** 0.5


def test_digits_without_scikit_learn_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match=r"pip install 'unnoise\[demo\]'"):
        Digits().load()


def test_sources_are_frozen_values() -> None:
    assert isinstance(Digits(), Source) and isinstance(Arrays("x.npz"), Source)
    assert Digits() == Digits() and Arrays("x.npz") != Arrays("y.npz")
    with pytest.raises(dataclasses.FrozenInstanceError):
        Digits().seed = 1  # type: ignore[misc]


# One's own arrays -----------------------------------------------------------------------------------------------------


def saved(path: Path, **arrays: Any) -> Arrays:
    np.savez(path / "own.npz", **arrays)
    return Arrays(str(path / "own.npz"))


def test_arrays_keep_what_is_said_of_each_item(tmp_path: Path) -> None:
    data = saved(tmp_path, x=GOOD, label=np.arange(10, dtype=np.int32)).load()
    assert len(data) == 9 and len(data.held_out["x"]) == 1 and data.about == "arrays of own.npz"
    for part in (data.train, data.held_out):
        assert torch.equal(part["x"], torch.from_numpy(GOOD)[part["label"]])


@pytest.mark.parametrize(
    ("kind", "becomes"),
    [
        ("u1", torch.uint8),
        ("i2", torch.int64),
        ("i8", torch.int64),
        ("?", torch.int64),
        ("f2", torch.float32),
        ("f8", torch.float32),
        (">f4", torch.float32),
        (">i4", torch.int64),
    ],
)
def test_numbers_of_any_kind(tmp_path: Path, kind: str, becomes: torch.dtype) -> None:
    x = saved(tmp_path, x=np.asfortranarray(np.array([[0, 1], [1, 0], [1, 1]]).astype(kind))).load().train["x"]
    assert x.dtype == becomes and x.tolist() == [[0, 1], [1, 0], [1, 1]]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": GOOD}, r"has no array 'x', only \['y'\]: save with np.savez"),
        ({}, "has no array 'x', only nothing"),
        ({"x": np.array([{}])}, r"own\.npz holds Python objects, which are not read: save arrays of numbers"),
        ({"x": np.array(["a"])}, "needs numbers"),
        ({"x": np.float32(3)}, "with 0 axes"),
        ({"x": GOOD.astype(complex)}, "is complex128"),
        ({"x": GOOD[:0]}, "the training data are empty"),
        ({"x": GOOD, "label": np.arange(9)}, "differ in length: {'x': 10, 'label': 9}"),
        ({"x": GOOD, "label": np.arange(11)}, "differ in length: {'x': 10, 'label': 11}"),
        (
            {"x": with_bad(GOOD[7, 2] == GOOD, np.nan)},
            "'x' holds NaN or infinity in 1 of 10 items, first in item 7",
        ),
        ({"x": with_bad(GOOD[4, 0] <= GOOD, np.inf)}, "in 6 of 10 items, first in item 4"),
        ({"x": GOOD, "mass": np.where(np.arange(10) == 3, np.nan, 1)}, "'mass' holds NaN or infinity in 1 of 10"),
    ],
    ids=str,
)
def test_arrays_that_cannot_be_learned_from_are_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        saved(tmp_path, **arrays).load()


def test_files_that_are_no_archives_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file: .*none\.npz"):
        Arrays(str(tmp_path / "none.npz")).load()
    whole = saved(tmp_path, x=GOOD)
    content = Path(whole.path).read_bytes()
    np.save(tmp_path / "array.npy", GOOD)
    damaged = content[:80] + bytes([content[80] ^ 255]) + content[81:]
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as pictures:
        pictures.writestr("a.png", b"no array")
    for name, (data, message) in {
        "empty": (b"", "is not a readable npz file but no archive of arrays: save with np.savez"),
        "text": (b"hello", "is not a readable npz file but no archive of arrays"),
        "cut": (content[: len(content) // 2], "is damaged or cut short: File is not a zip file: fetch it again"),
        "flipped": (damaged, "is damaged or cut short: .*: fetch it again"),
        "npy": (
            (tmp_path / "array.npy").read_bytes(),
            "is not a readable npz file but an npy file, which is one array: save with np.savez",
        ),
        "zip": ((tmp_path / "pictures.zip").read_bytes(), "is a zip, not an npz file: 'a.png' in it is no array"),
    }.items():
        file = tmp_path / f"{name}.npz"
        file.write_bytes(data)
        with pytest.raises(UserError, match=rf"{name}\.npz {message}"):
            Arrays(str(file)).load()


# Data sets ------------------------------------------------------------------------------------------------------------


def test_a_data_set_checks_its_columns() -> None:
    x = torch.zeros(4, 2)
    with pytest.raises(UserError, match=r"train data have no column 'x', only \['y'\]"):
        Dataset({"y": x}, {"x": x})
    with pytest.raises(UserError, match="held_out data have no column 'x'"):
        Dataset({"x": x}, {})
    with pytest.raises(UserError, match=r"differ in length: \{'x': 4, 'label': 3\}"):
        Dataset({"x": x, "label": torch.zeros(3)}, {"x": x})
    with pytest.raises(UserError, match="are empty"):
        Dataset({"x": x[:0]}, {"x": x})
    bad = x.clone()
    bad[2, 1] = torch.inf
    for train, held_out in ((bad, x), (x, bad)):
        with pytest.raises(UserError, match="'x' holds NaN or infinity in 1 of 4 items, first in item 2"):
            Dataset({"x": train}, {"x": held_out})
    assert len(Dataset({"x": x}, {"x": x[:0]})) == 4


def test_integers_are_always_finite() -> None:
    require_finite(torch.arange(3), "label")
    with pytest.raises(UserError, match="first in item 1"):
        require_finite(torch.tensor([0.0, torch.nan]), "mass")
