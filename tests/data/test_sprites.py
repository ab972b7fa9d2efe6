"""Sprites: first frames, eight attributes, and no picture in both parts."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unnoise.data import Sprites
from unnoise.errors import UserError

real = pytest.mark.skipif(not os.environ.get("UNNOISE_DATA"), reason="UNNOISE_DATA names no folder of data")

NAMES = list(Sprites.classes)


def saved(path: Path, **changes: Any) -> Sprites:
    """Twenty clips of two frames; every picture is there twice."""
    generator = np.random.default_rng(0)
    arrays = {
        "video": np.repeat(generator.integers(0, 256, (10, 2, 64, 64, 3), dtype=np.uint8), 2, 0),
        "factors": np.stack([np.arange(20) % n for n in Sprites.classes.values()], 1).astype(np.uint8),
        "factor_names": np.array(NAMES),
    }
    np.savez(path / "a.npz", **(arrays | changes))
    return Sprites(path=str(path / "a.npz"), held_out=0.3)


@real
def test_sprites_are_what_they_are_said_to_be() -> None:
    data = Sprites().load()
    assert len(data) == 3600 and len(data.held_out["x"]) == 400
    assert data.train["x"].shape == (3600, 3, 64, 64) and data.train["x"].dtype == torch.uint8
    for name, count in Sprites.classes.items():
        column = torch.cat([data.train[name], data.held_out[name]])
        assert column.dtype == torch.int64 and column.unique().tolist() == list(range(count))
    train, held_out = ({row.tobytes() for row in part["x"].numpy()} for part in (data.train, data.held_out))
    assert len(train) == 3600 and len(held_out) == 400 and not train & held_out
    corners = data.train["x"][:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert bool((corners == 128).all())  # gray, no white or black
    assert "CC BY-SA 3.0" in data.about
    # The hair is what pictures of one hair share: at the top they are nearer to their own mean than to that of others.
    top = data.train["x"][data.train["direction"] == 0][:, :, :24].float().flatten(1)
    hair = data.train["hair"][data.train["direction"] == 0]
    means = torch.stack([top[hair == i].mean(0) for i in range(10)])
    assert float((torch.cdist(top, means).argmin(1) == hair).double().mean()) > 0.9


def test_first_frames_and_their_factors_stay_together(tmp_path: Path) -> None:
    source = saved(tmp_path)
    data = source.load()
    video = np.load(tmp_path / "a.npz")["video"]
    rows: list[set[bytes]] = []
    for part in (data.train, data.held_out):
        rows.append({x.tobytes() for x in part["x"].numpy()})
        for i, x in enumerate(part["x"].numpy()):
            clips = [k for k in range(20) if np.array_equal(video[k, 0].transpose(2, 0, 1), x)]
            assert [int(part[n][i]) for n in NAMES] in [[k % c for c in Sprites.classes.values()] for k in clips]
    assert not rows[0] & rows[1] and len(rows[1]) == 3 and len(data.held_out["x"]) == 6
    assert len(Sprites(path=source.path, limit=5).load()) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"video": np.zeros((20, 2, 32, 32, 3), np.uint8)}, r"video is uint8 of shape \[20, 2, 32, 32, 3\]"),
        ({"video": np.zeros((20, 2, 64, 64, 3))}, "video is float64"),
        ({"factors": np.zeros((19, 8), np.uint8)}, r"factors \[19, 8\], not"),
        ({"factors": np.full((20, 8), 3, np.uint8)}, "action reaches 3, it has 3 values"),
        ({"factor_names": np.array([*NAMES[1:], "hat"])}, "its factors are .*'hat'"),
    ],
    ids=["size", "type", "count", "class", "name"],
)
def test_other_files_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        saved(tmp_path, **changes).load()


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file: .*none.npz"):
        Sprites(path=str(tmp_path / "none.npz")).load()
    with pytest.raises(UserError, match="got 0"):
        Sprites(limit=0)
