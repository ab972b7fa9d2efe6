"""Point clouds: the official files, which points are taken, one's own files, and every kind of bad one."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from unnoise.data import Points
from unnoise.errors import UserError

real = pytest.mark.skipif(not os.environ.get("UNNOISE_DATA"), reason="UNNOISE_DATA names no folder of data")

CLOUD = np.random.default_rng(0).normal(size=(6, 20, 3)).astype(np.float32)


def as_sets(x: torch.Tensor) -> list[set[tuple[float, ...]]]:
    return [{tuple(p) for p in shape.tolist()} for shape in x]


@real
@pytest.mark.parametrize(("name", "train", "points"), [("airplane", 626, 2048), ("chair", 889, 1024)])
def test_modelnet_is_what_it_is_said_to_be(name: str, train: int, points: int) -> None:
    data = Points(name, count=points).load()  # every point
    assert len(data) == train and len(data.held_out["x"]) == 100 and "academic use" in data.about
    file = np.load(Path(os.environ["UNNOISE_DATA"], "pointclouds", f"modelnet_{name}.npz"))
    stored = np.cumsum(file["delta"], 2, dtype=np.int16).transpose(1, 2, 0)
    for part, rows in ((data.train["x"], stored[file["split"] == 0]), (data.held_out["x"], stored[file["split"] == 1])):
        thousandths = (part * 1000).round().to(torch.int64)
        assert float((part * 1000 - thousandths).abs().max()) < 1e-3
        assert torch.equal(thousandths.sum(1), torch.from_numpy(rows.astype(np.int64).sum(1)))  # the same points, moved
        assert not torch.equal(thousandths, torch.from_numpy(rows.astype(np.int64)))  # no longer in Z order
        radius = part.norm(dim=2).amax(1)
        assert float(radius.min()) > 0.95 and float(radius.max()) < 1.002
    seen = {shape.tobytes() for shape in np.sort(data.train["x"].numpy(), 1)}
    assert not any(shape.tobytes() in seen for shape in np.sort(data.held_out["x"].numpy(), 1))


@real
def test_fewer_points_are_some_of_them_the_same_at_every_load() -> None:
    data, again, other = Points().load(), Points().load(), Points(seed=1).load()
    assert data.train["x"].shape == (626, 256, 3)
    assert torch.equal(data.train["x"], again.train["x"]) and torch.equal(data.held_out["x"], again.held_out["x"])
    assert not torch.equal(data.train["x"], other.train["x"])
    whole = Points(count=2048).load()
    for few, all_ in zip(as_sets(data.held_out["x"]), as_sets(whole.held_out["x"]), strict=True):
        assert few <= all_
    # A fair draw: the mean over the shape's points is that of the subset, to the standard error.
    error = (data.train["x"].mean(1) - whole.train["x"].mean(1)) / whole.train["x"].std(1) * 16
    assert float(error.square().mean()) == pytest.approx(1 - 256 / 2048, abs=0.08)


@real
def test_the_published_file_at_another_place_keeps_its_split() -> None:
    path = Path(os.environ["UNNOISE_DATA"], "pointclouds", "modelnet_airplane.npz")
    assert torch.equal(Points(path=str(path)).load().held_out["x"], Points().load().held_out["x"])


def test_one_shape_does_not_depend_on_the_others(tmp_path: Path) -> None:
    np.save(tmp_path / "all.npy", CLOUD)
    np.save(tmp_path / "two.npy", CLOUD[:2])
    all_, two = (Points(path=str(tmp_path / f), count=5, held_out=0.0).load() for f in ("all.npy", "two.npy"))
    assert torch.equal(all_.train["x"][:2], two.train["x"])


def test_ones_own_files_are_the_same_in_every_format(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", CLOUD)
    np.savez(tmp_path / "a.npz", x=CLOUD)
    for kind in ("text", "comma", "arrays"):
        (tmp_path / kind).mkdir()
    for i, shape in enumerate(CLOUD):
        np.savetxt(tmp_path / "text" / f"{i}.txt", shape, fmt="%.9g")
        normals = np.concatenate([shape, shape], 1)
        np.savetxt(tmp_path / "comma" / f"{i}.txt", normals, fmt="%.9g", delimiter=",")
        np.save(tmp_path / "arrays" / f"{i}.npy", shape.astype(np.float64))
    first = Points(path=str(tmp_path / "a.npy"), count=7, held_out=0.5).load()
    assert len(first) == len(first.held_out["x"]) == 3
    for name in ("a.npz", "text", "comma", "arrays"):
        other = Points(path=str(tmp_path / name), count=7, held_out=0.5).load()
        assert torch.equal(other.train["x"], first.train["x"]), name
        assert torch.equal(other.held_out["x"], first.held_out["x"]), name
    whole = Points(path=str(tmp_path / "a.npy"), count=20, held_out=0.0).load().train["x"]
    assert as_sets(whole) == as_sets(torch.from_numpy(CLOUD))  # nothing scaled, nothing twice


def test_shapes_of_different_sizes(tmp_path: Path) -> None:
    for i in range(3):
        np.save(tmp_path / f"{i}.npy", CLOUD[i, : 10 + i])
    assert Points(path=str(tmp_path), count=10, held_out=0.0).load().train["x"].shape == (3, 10, 3)
    with pytest.raises(UserError, match="has 10 points: set count=10 or less, got 11"):
        Points(path=str(tmp_path), count=11).load()


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_is_refused_by_file_and_shape(tmp_path: Path, name: str, bad: float) -> None:
    cloud = CLOUD.copy()
    cloud[4, 3, 1] = bad
    np.save(tmp_path / name, cloud) if name.endswith("npy") else np.savez(tmp_path / name, x=cloud)
    with pytest.raises(UserError, match=rf"{name} holds NaN or infinity, first in shape 4"):
        Points(path=str(tmp_path / name), count=4).load()
    folder = tmp_path / "folder"
    folder.mkdir()
    np.savetxt(folder / "good.txt", CLOUD[0])
    np.savetxt(folder / "wrong.txt", cloud[4])
    with pytest.raises(UserError, match=r"wrong\.txt holds NaN or infinity"):
        Points(path=str(folder), count=4).load()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "1 2 3\n1 2\n", "line 2: a point is `x y z`, found '1 2'"),
        ("a.txt", "x y z\n1 2 3\n", "line 1: a point is `x y z`, found 'x y z'"),
        ("a.txt", "", "is empty"),
        ("a.npy", "", "not a readable npy file"),
        ("a.npy", "text", "not a readable npy file"),
        ("a.npz", "text", "not a readable npz file"),
        ("a.ply", "ply\n", r"not a \.npy, \.npz or \.txt file"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message) as e:
        Points(path=str(tmp_path / name), count=1).load()
    assert str(tmp_path / name) in str(e.value)


def test_bad_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npy"
    np.save(path, CLOUD)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match="not a readable npy file"):
        Points(path=str(path)).load()
    for array in (CLOUD[..., :2], CLOUD[None], CLOUD.astype(str)):
        np.save(path, array)
        with pytest.raises(UserError, match=r"points are numbers \[N, P, 3\]"):
            Points(path=str(path)).load()
    np.save(path, np.array([{}], dtype=object))
    with pytest.raises(UserError, match="not a readable npy file"):
        Points(path=str(path)).load()
    np.savez(tmp_path / "a.npz", y=CLOUD)
    with pytest.raises(UserError, match=r"has no array 'x', only \['y'\]"):
        Points(path=str(tmp_path / "a.npz")).load()
    np.save(path, CLOUD[:0])
    with pytest.raises(UserError, match="no shapes"):
        Points(path=str(path)).load()
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="no shapes"):
        Points(path=str(tmp_path / "none")).load()
    with pytest.raises(UserError, match=r"no such file: .*b\.npy"):
        Points(path=str(tmp_path / "b.npy")).load()
    monkeypatch.delenv("UNNOISE_DATA", raising=False)
    with pytest.raises(UserError, match=r"pointclouds/modelnet_chair.npz .* UNNOISE_DATA"):
        Points("chair").load()


def test_choices_are_checked(unchecked: None) -> None:
    with pytest.raises(UserError, match="airplane and chair, got 'table'"):
        Points("table")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="got 0"):
        Points(count=0)
