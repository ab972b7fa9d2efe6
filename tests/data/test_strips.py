"""Tars of strips, means of 2x2 pixels, and splits that keep groups together."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unnoise.data.groups import duplicates, limited, split_groups
from unnoise.data.strips import halved, read_strips
from unnoise.errors import UserError

NOISE = np.random.default_rng(0).integers(0, 256, (7, 6, 5, 3), dtype=np.uint8)
"""Seven pictures, six high and five wide."""


def encoded(pixels: np.ndarray, kind: str = "WEBP") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return file.getvalue()


def tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as file:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def strip(pictures: np.ndarray) -> np.ndarray:
    return pictures.reshape(-1, pictures.shape[2], 3)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("kind", ["WEBP", "PNG"])
def test_strips_are_read_in_the_order_of_names(tmp_path: Path, mode: str, kind: str) -> None:
    """Pitfall 29: neither squares nor one order of the archive are assumed."""
    members = {"b": encoded(strip(NOISE[4:]), kind), "a": encoded(strip(NOISE[:4]), kind)}
    found = read_strips(tar(tmp_path / "a.tar", members, mode), 6)
    assert found.dtype == torch.uint8 and found.is_contiguous()
    assert np.array_equal(found.numpy(), NOISE.transpose(0, 3, 1, 2))


def test_gray_strips_become_rgb(tmp_path: Path) -> None:
    """Pitfall 28: what the format states, three channels, is what comes out of a gray member too."""
    found = read_strips(tar(tmp_path / "a.tar", {"a": encoded(strip(NOISE)[..., 0], "PNG")}), 6)
    assert found.shape == (7, 3, 6, 5)
    assert all(np.array_equal(found[:, c].numpy(), NOISE[..., 0]) for c in range(3))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "holds no strips"),
        ({"a.webp": b""}, "a.webp in .* is not a readable picture"),
        ({"a.webp": b"hello"}, "a.webp in .* is not a readable picture"),
        ({"a.webp": encoded(strip(NOISE))[:100]}, "a.webp in .* is not a readable picture"),
        ({"a.png": encoded(strip(NOISE), "PNG")[:200]}, "a.png in .* is not a readable picture"),
        ({"a.webp": encoded(strip(NOISE)[:40])}, "40 pixels high, not a multiple of 6"),
        ({"a": encoded(strip(NOISE)), "b": encoded(strip(NOISE[:, :, :4]))}, r"are \[4, 5\] pixels wide"),
    ],
    ids=["nothing", "empty", "text", "cut webp", "cut png", "height", "widths"],
)
def test_bad_strips_are_named(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    with pytest.raises(UserError, match=message) as e:
        read_strips(tar(tmp_path / "a.tar", members), 6)
    assert str(tmp_path / "a.tar") in str(e.value)


def test_bad_tars_are_named(tmp_path: Path) -> None:
    whole = tar(tmp_path / "a.tar", {"a": encoded(strip(NOISE))}).read_bytes()
    for name, content in {"empty": b"", "text": b"hello" * 200, "cut": whole[:600]}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"{name} is not a readable tar.*fetch it again"):
            read_strips(tmp_path / name, 6)
    with pytest.raises(UserError, match=r"no such file: .*none"):
        read_strips(tmp_path / "none", 6)
    with pytest.raises(UserError, match="is a folder"):
        read_strips(tmp_path, 6)


def test_halving_takes_means() -> None:
    x = torch.tensor([[[[0, 1, 2, 4], [1, 0, 4, 4], [255, 255, 0, 0], [255, 255, 0, 255]]]], dtype=torch.uint8)
    assert halved(x).tolist() == [[[[0, 4], [255, 64]]]]  # 0.5 to 0, 3.5 to 4, 63.75 to 64
    noise = torch.from_numpy(NOISE).permute(0, 3, 1, 2)[..., :4].repeat(700, 1, 1, 1)
    means = noise.double().numpy().reshape(4900, 3, 3, 2, 2, 2).mean((3, 5))
    assert np.array_equal(halved(noise).numpy(), np.round(means).astype(np.uint8))


def test_duplicates_are_numbered_by_the_first() -> None:
    x = torch.from_numpy(NOISE)[[0, 1, 0, 2, 1, 0]]
    assert duplicates(x).tolist() == [0, 1, 0, 3, 1, 0]
    assert duplicates(x[:0]).tolist() == []


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_groups_stay_together(share: float) -> None:
    group = torch.tensor([5, 5, -3, 8, 8, 8, 2, 5, 1, 0, 77, 9])
    columns = {"x": torch.arange(12), "twice": 2 * torch.arange(12)}
    train, held_out = split_groups(columns, group, share, 4)
    there, away = (set(group[part["x"]].tolist()) for part in (train, held_out))
    assert not there & away and len(away) == round(8 * share)
    assert sorted(train["x"].tolist() + held_out["x"].tolist()) == list(range(12))
    assert torch.equal(train["twice"], 2 * train["x"]) and torch.equal(held_out["twice"], 2 * held_out["x"])
    assert away <= set(group[split_groups(columns, group, min(share + 0.05, 0.95), 4)[1]["x"]].tolist())


def test_a_split_is_fixed_by_its_seed() -> None:
    columns, group = {"x": torch.arange(50)}, torch.arange(50) // 2
    held_out = [split_groups(columns, group, 0.3, seed)[1]["x"].tolist() for seed in (0, 0, 1)]
    assert held_out[0] == held_out[1] != held_out[2]
    with pytest.raises(UserError, match=r"share in \[0, 1\), got 1"):
        split_groups(columns, group, 1.0, 0)


def test_a_limit_is_a_part_of_a_larger_one() -> None:
    columns = {"x": torch.arange(50), "label": torch.arange(50) * 3}
    few, more = (limited(columns, n, 0) for n in (10, 20))
    assert len(few["x"]) == 10 and set(few["x"].tolist()) < set(more["x"].tolist())
    assert torch.equal(few["label"], 3 * few["x"]) and few["x"].tolist() == sorted(few["x"].tolist())
    assert torch.equal(limited(columns, 50, 0)["x"], columns["x"])
    assert few["x"].tolist() != limited(columns, 10, 1)["x"].tolist()
